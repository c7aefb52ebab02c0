-- The tables of version 0.1.0, as its migrations created them.

CREATE TABLE "boundary_usage_replicas" (
	"replica_id" uuid PRIMARY KEY NOT NULL,
	"name" text NOT NULL,
	"version" text NOT NULL,
	"started_at" timestamp with time zone NOT NULL,
	"last_flush_seq" bigint NOT NULL,
	"last_flush_at" timestamp with time zone
);

CREATE TABLE "boundary_usage_stats" (
	"replica_id" uuid PRIMARY KEY NOT NULL,
	"unique_workspaces_count" bigint NOT NULL,
	"unique_users_count" bigint NOT NULL,
	"allowed_requests" bigint NOT NULL,
	"denied_requests" bigint NOT NULL,
	"first_flush_seq" bigint NOT NULL,
	"window_start" timestamp with time zone NOT NULL,
	"updated_at" timestamp with time zone NOT NULL
);

CREATE TABLE "telemetry_snapshots" (
	"id" uuid PRIMARY KEY NOT NULL,
	"trigger" text NOT NULL,
	"reported_by" uuid NOT NULL,
	"replicas" integer NOT NULL,
	"period_start" timestamp with time zone NOT NULL,
	"period_end" timestamp with time zone NOT NULL,
	"taken_at" timestamp with time zone NOT NULL,
	"unique_workspaces" bigint NOT NULL,
	"unique_users" bigint NOT NULL,
	"unique_workspaces_summed" bigint NOT NULL,
	"unique_users_summed" bigint NOT NULL,
	"allowed_requests" bigint NOT NULL,
	"denied_requests" bigint NOT NULL,
	CONSTRAINT "telemetry_snapshots_trigger_check" CHECK ("telemetry_snapshots"."trigger" in ('manual', 'schedule')),
	CONSTRAINT "telemetry_snapshots_period_check" CHECK ("telemetry_snapshots"."period_start" <= "telemetry_snapshots"."period_end")
);

CREATE UNIQUE INDEX "telemetry_snapshots_period_end_key" ON "telemetry_snapshots" USING btree ("period_end");
CREATE TABLE "settings" (
	"id" smallint PRIMARY KEY DEFAULT 1 NOT NULL,
	"sketch_key" "bytea" NOT NULL,
	CONSTRAINT "settings_one_row_check" CHECK ("settings"."id" = 1)
);

ALTER TABLE "boundary_usage_stats" ADD COLUMN "workspaces_sketch" bit(196608);
ALTER TABLE "boundary_usage_stats" ADD COLUMN "users_sketch" bit(196608);
ALTER TABLE "telemetry_snapshots" ADD COLUMN "workspaces_sketch" bit(196608);
ALTER TABLE "telemetry_snapshots" ADD COLUMN "users_sketch" bit(196608);
ALTER TABLE "telemetry_snapshots" ADD COLUMN "delivery_state" text;
ALTER TABLE "telemetry_snapshots" ADD COLUMN "delivery_attempts" integer DEFAULT 0 NOT NULL;
ALTER TABLE "telemetry_snapshots" ADD COLUMN "delivery_due_at" timestamp with time zone;
ALTER TABLE "telemetry_snapshots" ADD COLUMN "delivered_at" timestamp with time zone;
ALTER TABLE "telemetry_snapshots" ADD COLUMN "delivery_error" text;
CREATE INDEX "telemetry_snapshots_delivery_due_idx" ON "telemetry_snapshots" USING btree ("delivery_due_at") WHERE "telemetry_snapshots"."delivery_state" = 'pending';
ALTER TABLE "telemetry_snapshots" ADD CONSTRAINT "telemetry_snapshots_delivery_state_check" CHECK ("telemetry_snapshots"."delivery_state" in ('pending', 'delivered', 'dead'));