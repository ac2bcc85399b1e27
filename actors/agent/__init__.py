"""The endpoint agent: its actors, its topology, and the program that runs them."""
