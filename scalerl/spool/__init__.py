"""What generator, trainer and evaluator say to each other: rollout shards, published policies, evaluation
requests."""
