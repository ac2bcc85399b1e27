"""The ledger: for every agent, where each event that the kernel saw has gone."""
