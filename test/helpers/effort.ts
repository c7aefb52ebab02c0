// How many cases a random test runs: some in the suite, all with `npm run soak`.

/** Set by `npm run soak`. */
export const isThorough = process.env.THOROUGH === '1'

export function cases({ suite, soak }: { suite: number; soak: number }): number {
  return isThorough ? soak : suite
}
