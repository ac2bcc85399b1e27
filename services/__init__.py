"""The backend: one package for each service; each runs alone or as part of the stack."""
