// Text as the database can store it.

import { sql } from 'drizzle-orm'
import type { Executor } from './client.js'

/** SQLSTATE of a character that has no equivalent in the server's encoding. */
const UNTRANSLATABLE = '22P05'

/** The text, or if the encoding of the database lacks some of its characters, with `?` for all beyond ASCII. */
export async function representable(db: Executor, text: string): Promise<string> {
  try {
    await db.execute(sql`select ${text}::text`)
    return text
  } catch (error) {
    const cause = error instanceof Error ? error.cause : undefined
    if (!(cause instanceof Error && 'code' in cause && cause.code === UNTRANSLATABLE)) throw error
    return text.replace(/[^\x20-\x7e]/gu, '?')
  }
}
