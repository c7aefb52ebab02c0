CREATE TABLE "boundary_usage_settings" (
	"id" smallint PRIMARY KEY DEFAULT 1 NOT NULL,
	"sketch_key" "bytea" NOT NULL,
	CONSTRAINT "boundary_usage_settings_one_row_check" CHECK ("boundary_usage_settings"."id" = 1)
);
