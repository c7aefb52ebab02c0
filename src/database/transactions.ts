// Every transaction of the service sets what it depends on, so that no default of a role or a database matters.

import type postgres from 'postgres'

/** How long a statement may take, unless its caller says otherwise. */
export const STATEMENT_TIMEOUT_MS = 10_000

/**
 * The settings that can change what a statement reads or writes, or how long it may delay others. They are local
 * to the transaction: behind a pooler, the next transaction may run in another session, and a pooler refuses most
 * startup parameters. Settings that decide only how fast a statement runs, or where tables are stored, are left to
 * the operator.
 */
const settings = (statementTimeoutMs: number) =>
  [
    `set local DateStyle = 'ISO, MDY'`,
    `set local IntervalStyle = 'postgres'`,
    `set local TimeZone = 'UTC'`,
    `set local bytea_output = 'hex'`,
    'set local extra_float_digits = 1',
    'set local standard_conforming_strings = on',
    `set local statement_timeout = ${statementTimeoutMs}`,
    'set local lock_timeout = 5000',
    'set local idle_in_transaction_session_timeout = 10000',
  ].join('; ')

/** A serializable or repeatable read flush would fail whenever another one or a snapshot is concurrent. */
const ISOLATION = 'isolation level read committed'

/** Raises synchronous_commit to on, unless it waits for more. After this query, no isolation level can be set. */
const DURABLE = `select set_config('synchronous_commit', 'on', true)
  where current_setting('synchronous_commit') in ('off', 'local', 'remote_write')`

/**
 * The client with which Drizzle runs statements on the pool `sql`. A statement outside a transaction gets one of its
 * own in the same round trip: START TRANSACTION, the statement and COMMIT are sent together. With `durable`, the
 * commit of such a statement waits until it is on disk.
 */
export function withOwnTransactions(
  sql: postgres.Sql,
  durable: boolean,
  statementTimeoutMs = STATEMENT_TIMEOUT_MS,
): postgres.Sql {
  const local = settings(statementTimeoutMs)
  // Not BEGIN: the driver accepts that from sql.begin() alone.
  const start = [`start transaction ${ISOLATION}`, local, ...(durable ? [DURABLE] : [])].join('; ')

  function unsafe(text: string, parameters: postgres.ParameterOrJSON<never>[] = []) {
    // The server knows the parameters' types: to ask for them first would take another round trip.
    const statement = sql.unsafe(text, parameters, { describe: false })
    const rows = sql.pipeline([sql.unsafe(start), statement, sql.unsafe('commit')]).then(([, rows]) => rows)
    // Drizzle calls values() at once, before anything is sent.
    return Object.assign(rows, {
      values() {
        statement.values()
        return rows
      },
    })
  }

  function begin<T>(work: (tx: postgres.TransactionSql) => Promise<T>) {
    return sql.begin(ISOLATION, async (tx) => {
      await tx.unsafe(local)
      return work(tx)
    })
  }

  return new Proxy(sql, {
    get: (target, name) =>
      name === 'unsafe' ? unsafe : name === 'begin' ? begin : Reflect.get(target, name),
  })
}
