"""Problem sets: readers, preparation with splits by hash, the prompt stream."""
