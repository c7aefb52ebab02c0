// Limits how many new ids one credential can add to a period, so that none can spoil its distinct counts.

export type Kind = 'workspaces' | 'users'

interface Added {
  workspaces: number
  users: number
  /** Whether an id was refused. */
  isReached: boolean
}

export class NewIds {
  /** What each credential has added to the current period. Credentials are configured, so there are few. */
  readonly #added = new Map<string, Added>()
  readonly #limit: number
  readonly #onReached: () => void

  /** `onReached` is called once per credential and period, for the first id beyond the limit. A limit of 0 disables it. */
  constructor(limit: number, onReached: () => void) {
    this.#limit = limit
    this.#onReached = onReached
  }

  /** Whether `credential` may add one more id of that kind, which then counts towards its limit. */
  admit(credential: string, kind: Kind): boolean {
    if (this.#limit === 0) return true
    const added = this.#added.get(credential) ?? { workspaces: 0, users: 0, isReached: false }
    this.#added.set(credential, added)
    if (added[kind] < this.#limit) {
      added[kind]++
      return true
    }
    if (!added.isReached) this.#onReached()
    added.isReached = true
    return false
  }

  /** A new period has begun. */
  forget(): void {
    this.#added.clear()
  }
}
