CREATE TABLE listen_events (
  tenant_id text NOT NULL,
  agent_id text NOT NULL,
  hostname text NOT NULL,
  event_id text NOT NULL,
  observed_at_unix_ms bigint NOT NULL,
  received_at_unix_ms bigint NOT NULL,
  seq bigint,
  time_ns bigint,
  pid integer NOT NULL,
  start_ns bigint NOT NULL,
  uid bigint NOT NULL,
  user_name text NOT NULL,
  comm text NOT NULL,
  af integer NOT NULL,
  ip text NOT NULL,
  port integer NOT NULL,
  socket bigint NOT NULL,
  observed_at timestamptz NOT NULL,
  received_at timestamptz NOT NULL
) PARTITION BY RANGE (received_at);
CREATE INDEX listen_events_of_agents ON listen_events (tenant_id, agent_id, received_at);
CREATE TABLE listen_events_default PARTITION OF listen_events DEFAULT;
CREATE TABLE flood_events (
  tenant_id text NOT NULL,
  agent_id text NOT NULL,
  hostname text NOT NULL,
  event_id text NOT NULL,
  observed_at_unix_ms bigint NOT NULL,
  received_at_unix_ms bigint NOT NULL,
  seq bigint,
  time_ns bigint,
  pid integer NOT NULL,
  start_ns bigint NOT NULL,
  uid bigint NOT NULL,
  user_name text NOT NULL,
  comm text NOT NULL,
  probe text NOT NULL,
  failed boolean NOT NULL,
  throttled bigint NOT NULL,
  lost bigint NOT NULL,
  span_ns bigint NOT NULL,
  observed_at timestamptz NOT NULL,
  received_at timestamptz NOT NULL
) PARTITION BY RANGE (received_at);
CREATE INDEX flood_events_of_agents ON flood_events (tenant_id, agent_id, received_at);
CREATE TABLE flood_events_default PARTITION OF flood_events DEFAULT;
ALTER TABLE exec_events ADD COLUMN stdio text[] NOT NULL DEFAULT '{}';
ALTER TABLE open_events ADD COLUMN witness boolean NOT NULL DEFAULT false;
ALTER TABLE connect_events ADD COLUMN claimed text NOT NULL DEFAULT '';
ALTER TABLE connect_events ADD COLUMN socket bigint NOT NULL DEFAULT 0;
ALTER TABLE alerts ADD COLUMN targets text[] NOT NULL DEFAULT '{}';
ALTER TABLE alerts DROP CONSTRAINT alerts_alert_id_key;
ALTER TABLE alerts ADD CONSTRAINT alerts_key UNIQUE (tenant_id, agent_id, alert_id);
