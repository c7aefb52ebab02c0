ALTER TABLE "boundary_usage_stats" ADD COLUMN "workspaces_sketch" bit(196608);--> statement-breakpoint
ALTER TABLE "boundary_usage_stats" ADD COLUMN "users_sketch" bit(196608);--> statement-breakpoint
ALTER TABLE "telemetry_snapshots" ADD COLUMN "workspaces_sketch" bit(196608);--> statement-breakpoint
ALTER TABLE "telemetry_snapshots" ADD COLUMN "users_sketch" bit(196608);--> statement-breakpoint
ALTER TABLE "telemetry_snapshots" ADD COLUMN "delivery_state" text;--> statement-breakpoint
ALTER TABLE "telemetry_snapshots" ADD COLUMN "delivery_attempts" integer DEFAULT 0 NOT NULL;--> statement-breakpoint
ALTER TABLE "telemetry_snapshots" ADD COLUMN "delivery_due_at" timestamp with time zone;--> statement-breakpoint
ALTER TABLE "telemetry_snapshots" ADD COLUMN "delivered_at" timestamp with time zone;--> statement-breakpoint
ALTER TABLE "telemetry_snapshots" ADD COLUMN "delivery_error" text;--> statement-breakpoint
CREATE INDEX "telemetry_snapshots_delivery_due_idx" ON "telemetry_snapshots" USING btree ("delivery_due_at") WHERE "telemetry_snapshots"."delivery_state" = 'pending';--> statement-breakpoint
ALTER TABLE "telemetry_snapshots" ADD CONSTRAINT "telemetry_snapshots_delivery_state_check" CHECK ("telemetry_snapshots"."delivery_state" in ('pending', 'delivered', 'dead'));