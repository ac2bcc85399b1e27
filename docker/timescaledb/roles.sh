#!/bin/bash
# Run by the image when the database is made, and by hand when there are new passwords. Each writer has a login of its own and works as
# `lavender`, which owns the tables. That one has no password, so nobody comes in as it; it may log in only
# because the extension's jobs (compression, retention) run as their owner.
set -eu
secrets=/run/lavender/timescaledb
psql -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" \
  -v telemetry="$(cat $secrets/telemetry_writer)" -v alerts="$(cat $secrets/alert_writer)" <<'SQL'
SELECT format('CREATE ROLE %I LOGIN', name) FROM unnest(ARRAY['lavender', 'telemetry_writer', 'alert_writer']) AS name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec
GRANT lavender TO telemetry_writer, alert_writer;
ALTER ROLE telemetry_writer PASSWORD :'telemetry';
ALTER ROLE alert_writer PASSWORD :'alerts';
ALTER ROLE telemetry_writer SET role = 'lavender';
ALTER ROLE alert_writer SET role = 'lavender';
REVOKE ALL ON DATABASE lavender FROM PUBLIC;
ALTER DATABASE lavender OWNER TO lavender;
SQL
