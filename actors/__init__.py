"""Lavender's actors: the library, the detection engine and the endpoint agent."""
