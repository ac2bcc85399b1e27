"""The alert writer: alerts into the store."""
