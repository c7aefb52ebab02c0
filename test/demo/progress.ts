// Prints progress: one line that is refreshed on a terminal, a line every ten seconds elsewhere.

const EVERY_MS = process.stdout.isTTY ? 250 : 10_000
const FIRST_MS = process.stdout.isTTY ? 250 : 2_000

/** Shows what `line` returns until stopped, which shows it a last time. */
export function showProgress(line: () => string): { stop(): void } {
  const show = () => process.stdout.write(process.stdout.isTTY ? `\r\x1b[K${line()}` : `${line()}\n`)
  let timer = setTimeout(function again() {
    show()
    timer = setTimeout(again, EVERY_MS)
  }, FIRST_MS)
  return {
    stop() {
      clearTimeout(timer)
      show()
      if (process.stdout.isTTY) process.stdout.write('\n')
    },
  }
}

/** "1 batch", "2,000 batches". */
export function count(n: number, one: string, many = `${one}s`): string {
  return `${number(n)} ${n === 1 ? one : many}`
}

export function requests({ allowed, denied }: { allowed: number; denied: number }): string {
  return `${number(allowed)} allowed, ${number(denied)} denied`
}

/** With commas between the thousands. */
export function number(n: number): string {
  return n.toLocaleString('en-US')
}

/** Refused batches, by the reason that the service gave. */
export type Refused = Map<string, number>

export function countRefusal(refused: Refused, reason: string): void {
  refused.set(reason, (refused.get(reason) ?? 0) + 1)
}

/** ", 2 refused (2 RATE_LIMITED)"; empty if none was. */
export function refusals(refused: Refused): string {
  const counts = [...refused.values()]
  if (counts.length === 0) return ''
  const reasons = [...refused].map(([reason, n]) => `${number(n)} ${reason}`).join(', ')
  return `, ${number(counts.reduce((sum, n) => sum + n, 0))} refused (${reasons})`
}
