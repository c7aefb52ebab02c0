// Makes JWTs, valid and forged.

import { createHmac } from 'node:crypto'

export type Signer = (data: string) => Buffer

export const hmac =
  (key: string): Signer =>
  (data) =>
    createHmac('sha256', key).update(data).digest()

/** A JWT signed by `signer`, whatever its header says. */
export function jwt(algorithm: string, signer: Signer, claims: Record<string, unknown>): string {
  const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const data = `${part({ alg: algorithm, typ: 'JWT' })}.${part(claims)}`
  return `${data}.${signer(data).toString('base64url')}`
}
