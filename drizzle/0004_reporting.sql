ALTER TABLE "boundary_usage_replicas" ADD COLUMN "reported_until" timestamp with time zone;--> statement-breakpoint
ALTER TABLE "boundary_usage_replicas" ADD COLUMN "seen_at" timestamp with time zone;--> statement-breakpoint
ALTER TABLE "boundary_usage_replicas" ADD COLUMN "stopped_at" timestamp with time zone;--> statement-breakpoint
ALTER TABLE "telemetry_snapshots" ADD COLUMN "late_replicas" integer;