"""The detection plane's backend: rules from files to the engine, and workers that run it."""
