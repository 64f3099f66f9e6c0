"""Problem sets: readers, preparation with a hash-split held-out set, the prompt stream."""
