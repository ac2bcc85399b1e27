#!/bin/bash
# Run once by the image, when the database is made. Each writer has a login of its own and works as
# `lavender`, which owns the tables. That one has no password, so nobody comes in as it; it may log in only
# because the extension's jobs (compression, retention) run as their owner.
set -eu
secrets=/run/lavender/timescaledb
psql -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" \
  -v telemetry="$(cat $secrets/telemetry_writer)" -v alerts="$(cat $secrets/alert_writer)" <<'SQL'
CREATE ROLE lavender LOGIN;
CREATE ROLE telemetry_writer LOGIN PASSWORD :'telemetry' IN ROLE lavender;
CREATE ROLE alert_writer LOGIN PASSWORD :'alerts' IN ROLE lavender;
ALTER ROLE telemetry_writer SET role = 'lavender';
ALTER ROLE alert_writer SET role = 'lavender';
REVOKE ALL ON DATABASE lavender FROM PUBLIC;
ALTER DATABASE lavender OWNER TO lavender;
SQL
