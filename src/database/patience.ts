// Statement timeouts of work that must be done in the end, however long it takes.

import { DatabaseBusyError } from './client.js'
import { STATEMENT_TIMEOUT_MS } from './transactions.js'

const LONGEST_STATEMENT_TIMEOUT_MS = 1_280_000

/** Gives an attempt twice the time of the one before if the database has canceled that because it took too long. */
export class Patience {
  #statementTimeoutMs = STATEMENT_TIMEOUT_MS

  /** Settles as `work` does, which gets the timeout for its statements. */
  async attempt<T>(work: (statementTimeoutMs: number) => Promise<T>): Promise<T> {
    try {
      const result = await work(this.#statementTimeoutMs)
      this.#statementTimeoutMs = STATEMENT_TIMEOUT_MS
      return result
    } catch (error) {
      if (error instanceof DatabaseBusyError && error.isTooSlow)
        this.#statementTimeoutMs = Math.min(2 * this.#statementTimeoutMs, LONGEST_STATEMENT_TIMEOUT_MS)
      throw error
    }
  }
}
