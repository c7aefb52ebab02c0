// Looks at a directory while another process changes it.

import { readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'

/** The sizes of all files under `directory`. What is removed meanwhile counts as absent. */
export async function fileSizes(directory: string): Promise<number[]> {
  const entries = (await present(readdir(directory, { withFileTypes: true }))) ?? []
  const sizes = entries.map(async (entry) => {
    const path = join(directory, entry.name)
    if (entry.isDirectory()) return fileSizes(path)
    const stats = await present(stat(path))
    return stats ? [stats.size] : []
  })
  return (await Promise.all(sizes)).flat()
}

/** The sum of the sizes of all files under `directory`. */
export async function sizeOf(directory: string): Promise<number> {
  return (await fileSizes(directory)).reduce((sum, size) => sum + size, 0)
}

/** What an operation on a file gives; undefined if there is no such file. */
async function present<T>(operation: Promise<T>): Promise<T | undefined> {
  try {
    return await operation
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined
    throw error
  }
}
