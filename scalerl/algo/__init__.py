"""What is computed on a batch: rewards, advantages, aggregation, losses, plateaus. Pure functions, no I/O."""
