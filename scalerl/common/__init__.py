"""Durable files, records, locks, processes, tables: what every floor uses; nothing here knows of runs."""
