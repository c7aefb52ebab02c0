CREATE TABLE "telemetry_days" (
	"day" date PRIMARY KEY NOT NULL,
	"snapshots" integer NOT NULL,
	"allowed_requests" bigint NOT NULL,
	"denied_requests" bigint NOT NULL,
	"duplicate_requests" bigint NOT NULL,
	"missing_requests" bigint NOT NULL,
	"recovered_requests" bigint NOT NULL,
	"workspaces_sketch" bit(196608),
	"workspaces_largest" bigint NOT NULL,
	"workspaces_summed" bigint NOT NULL,
	"workspaces_unsketched" bigint NOT NULL,
	"users_sketch" bit(196608),
	"users_largest" bigint NOT NULL,
	"users_summed" bigint NOT NULL,
	"users_unsketched" bigint NOT NULL
);
--> statement-breakpoint
ALTER TABLE "telemetry_snapshots" ADD COLUMN "in_days" boolean DEFAULT false NOT NULL;--> statement-breakpoint
CREATE INDEX "telemetry_snapshots_not_in_days_idx" ON "telemetry_snapshots" USING btree ("period_end") WHERE not "telemetry_snapshots"."in_days";--> statement-breakpoint
-- Usage over months reads the sketches of many days, and a snapshot writes those of its day: most of that time went into
-- compression.
ALTER TABLE "telemetry_days" ALTER COLUMN "workspaces_sketch" SET STORAGE EXTERNAL, ALTER COLUMN "users_sketch" SET STORAGE EXTERNAL;
