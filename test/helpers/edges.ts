// How exactly the logs of a period are those that were tracked in it: which log is in which snapshot, and how far from it
// the log was tracked.
//
// Triggers record which flush went into which snapshot; a recorder, on each replica, when each log was tracked and which
// flush carries it. Replicas and database must share one machine, whose clock is the database's.

import type postgres from 'postgres'
import type { Tracker } from '../../src/counting/tracker.js'

/** When a log was tracked, in milliseconds since 1970, and the number of the flush that carries it. */
export type Tracked = [at: number, flushSeq: number]

/** Records, from now on, what the tracker tracks. */
export function recordTracked(tracker: Tracker): Tracked[] {
  const tracked: Tracked[] = []
  const track = tracker.track.bind(tracker)
  tracker.track = (...batch) => {
    tracked.push([Date.now(), tracker.pendingSeq])
    track(...batch)
  }
  return tracked
}

/** Records which flushes are in which snapshot. */
export async function recordFlushes(sql: postgres.Sql): Promise<void> {
  await sql.unsafe(`
    create table edge_flushes (replica_id uuid, flush_seq bigint, snapshot xid8);
    create table edge_snapshots (snapshot xid8, trigger text, period_start timestamptz, period_end timestamptz,
      is_prompt bool);
    create function edge_flushed() returns trigger language plpgsql as $$ begin
      insert into edge_flushes select replica_id, last_flush_seq from boundary_usage_replicas
        where replica_id = new.replica_id;
      return null; end $$;
    create function edge_deleted() returns trigger language plpgsql as $$ begin
      update edge_flushes set snapshot = pg_current_xact_id() where replica_id = old.replica_id and snapshot is null;
      return null; end $$;
    create function edge_recorded() returns trigger language plpgsql as $$ begin
      insert into edge_snapshots values (pg_current_xact_id(), new.trigger, new.period_start, new.period_end,
        new.taken_at - new.period_end < interval '1 second' and coalesce(new.late_replicas, 0) = 0);
      return null; end $$;
    create trigger edge after insert or update on boundary_usage_stats for each row execute function edge_flushed();
    create trigger edge_deleted after delete on boundary_usage_stats for each row execute function edge_deleted();
    create trigger edge after insert on telemetry_snapshots for each row execute function edge_recorded();`)
}

export interface Edges {
  /** Logs in recorded snapshots. */
  logs: number
  snapshots: { schedule: number; manual: number; prompt: number }
  /** Of each log in the wrong period, by how many milliseconds it was tracked outside of the one it is in. */
  distances: number[]
  /** Of those, the ones around snapshots that were taken within a second, with all replicas: overload explains others. */
  unexplained: number[]
}

/** Compares what the replicas, by id, have tracked with the recorded snapshots. */
export async function readEdges(sql: postgres.Sql, tracked: Map<string, readonly Tracked[]>): Promise<Edges> {
  const flushes = await sql<
    { replica_id: string; seq: number; start: number; end: number; is_prompt: boolean }[]
  >`
    select replica_id, flush_seq::float8 as seq, (extract(epoch from period_start) * 1000)::float8 as start,
      (extract(epoch from period_end) * 1000)::float8 as end,
      is_prompt and coalesce((select before.is_prompt from edge_snapshots as before
        where before.period_end = edge_snapshots.period_start), true) as is_prompt
    from edge_flushes join edge_snapshots using (snapshot)`
  const periods = new Map(flushes.map((flush) => [`${flush.replica_id} ${flush.seq}`, flush]))
  const [snapshots] = await sql<{ schedule: number; manual: number; prompt: number }[]>`
    select count(*) filter (where trigger = 'schedule')::int as schedule,
      count(*) filter (where trigger = 'manual')::int as manual,
      count(*) filter (where is_prompt)::int as prompt
    from edge_snapshots`
  if (!snapshots) throw new Error('an aggregate without GROUP BY returned no row')
  let logs = 0
  const distances: number[] = []
  const unexplained: number[] = []
  for (const [replica, all] of tracked)
    for (const [at, seq] of all) {
      const period = periods.get(`${replica} ${seq}`)
      if (!period) continue // in no snapshot yet
      logs++
      if (at >= period.start && at < period.end) continue
      const distance = at < period.start ? period.start - at : at - period.end
      distances.push(distance)
      if (period.is_prompt) unexplained.push(distance)
    }
  return { logs, snapshots, distances, unexplained }
}
