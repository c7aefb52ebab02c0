// The advisory locks that replicas share, in one place so that no two meanings take one key.

const NAMESPACE = 0x62757367 // "busg"

const key = (n: number): bigint => (BigInt(NAMESPACE) << 32n) | BigInt(n)

export const lockKeys = {
  migrate: key(1),
  snapshot: key(2),
}
