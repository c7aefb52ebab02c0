CREATE TABLE "boundary_usage_sessions" (
	"session_key" uuid PRIMARY KEY NOT NULL,
	"received" "int8multirange" NOT NULL,
	"counted_from" bigint DEFAULT 0 NOT NULL,
	"told_to" bigint DEFAULT 0 NOT NULL,
	"untold" "int8multirange" DEFAULT '{}' NOT NULL,
	"has_new_holes" boolean DEFAULT true NOT NULL,
	"added_allowed" bigint DEFAULT 0 NOT NULL,
	"added_denied" bigint DEFAULT 0 NOT NULL,
	"added_missing" bigint DEFAULT 0 NOT NULL,
	"added_recovered" bigint DEFAULT 0 NOT NULL,
	"last_seen_at" timestamp with time zone NOT NULL
);
--> statement-breakpoint
ALTER TABLE "boundary_usage_replicas" ADD COLUMN "has_ledger" boolean DEFAULT false NOT NULL;--> statement-breakpoint
ALTER TABLE "boundary_usage_stats" ADD COLUMN "duplicate_requests" bigint DEFAULT 0 NOT NULL;--> statement-breakpoint
ALTER TABLE "boundary_usage_stats" ADD COLUMN "missing_requests" bigint DEFAULT 0 NOT NULL;--> statement-breakpoint
ALTER TABLE "boundary_usage_stats" ADD COLUMN "recovered_requests" bigint DEFAULT 0 NOT NULL;--> statement-breakpoint
ALTER TABLE "telemetry_snapshots" ADD COLUMN "duplicate_requests" bigint DEFAULT 0 NOT NULL;--> statement-breakpoint
ALTER TABLE "telemetry_snapshots" ADD COLUMN "missing_requests" bigint DEFAULT 0 NOT NULL;--> statement-breakpoint
ALTER TABLE "telemetry_snapshots" ADD COLUMN "recovered_requests" bigint DEFAULT 0 NOT NULL;--> statement-breakpoint
CREATE INDEX "boundary_usage_sessions_seen_idx" ON "boundary_usage_sessions" USING btree ("has_new_holes","last_seen_at");--> statement-breakpoint
-- Compressing a row with thousands of holes takes longer than all else that a flush does with it. Free space in each
-- page lets most updates stay there and leave the indexes alone.
ALTER TABLE "boundary_usage_sessions" ALTER COLUMN "received" SET STORAGE EXTERNAL, SET (fillfactor = 70);
