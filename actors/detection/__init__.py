"""Detection: events in, alerts out; pure code without I/O and without a clock of its own."""
