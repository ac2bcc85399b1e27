"""Detection: events in, alerts out, by as many workers as it takes."""
