"""What a run measures: rows (one a step and an evaluation), the ledger of GPU-hours, and who else is told."""
