// The migrations in drizzle/, in order.

import { readFile } from 'node:fs/promises'

export async function migrationNames(): Promise<string[]> {
  const file = new URL('../../drizzle/meta/_journal.json', import.meta.url)
  const { entries }: { entries: { tag: string }[] } = JSON.parse(await readFile(file, 'utf8'))
  return entries.map(({ tag }) => tag)
}
