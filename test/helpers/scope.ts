// What helpers need of a test: to be told when it is over. The soak run has no test, but it ends too.

export interface Scope {
  teardown(undo: () => unknown): void
}

/** A scope that ends when it is told to; undoes the last first. */
export function openScope(): Scope & { close(): Promise<void> } {
  const undos: (() => unknown)[] = []
  return {
    teardown(undo) {
      undos.push(undo)
    },
    async close() {
      for (let undo = undos.pop(); undo; undo = undos.pop()) await undo()
    },
  }
}
