CREATE TABLE "boundary_usage_replicas" (
	"replica_id" uuid PRIMARY KEY NOT NULL,
	"name" text NOT NULL,
	"version" text NOT NULL,
	"started_at" timestamp with time zone NOT NULL,
	"last_flush_seq" bigint NOT NULL,
	"last_flush_at" timestamp with time zone
);
--> statement-breakpoint
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
--> statement-breakpoint
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
--> statement-breakpoint
CREATE UNIQUE INDEX "telemetry_snapshots_period_end_key" ON "telemetry_snapshots" USING btree ("period_end");