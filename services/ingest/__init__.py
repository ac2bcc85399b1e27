"""Ingest: what agents send is validated, stamped and republished as the canonical stream."""
