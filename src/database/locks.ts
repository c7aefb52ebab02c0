// The keys of all advisory locks, in one place so that each key has one meaning.

const NAMESPACE = 0x62757367 // "busg"

const key = (n: number): bigint => (BigInt(NAMESPACE) << 32n) | BigInt(n)

export const lockKeys = {
  migrate: key(1),
  snapshot: key(2),
}
