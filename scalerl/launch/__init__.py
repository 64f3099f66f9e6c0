"""One run: its processes started, watched and stopped. Imports no engine, for a login node has no torch."""
