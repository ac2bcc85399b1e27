"""Where telemetry and alerts are kept: one interface, SQLite and PostgreSQL behind it."""
