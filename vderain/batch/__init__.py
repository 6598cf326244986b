"""Many files at once: planning, the ledger, workers, events and the report."""
