"""Starting, watching and stopping the processes of a run. Never imports an engine: a login node needs no
torch."""
