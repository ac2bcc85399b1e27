"""The telemetry writer: canonical events, and what ingest refused, into the store."""
