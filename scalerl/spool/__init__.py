"""What generator, trainer and evaluator say to each other, through files of the run folder.

schema.py       the rollout record: columns of a shard, with types and units
shards.py       the spool: one shard a prompt group, published once, quarantined when bad
verdicts.py     what a step row says of the verdicts in its batch
weights.py      published policies: immutable Hugging Face folders
admission.py    the staleness rule, the one place where off_policy.k is decided
evaluations.py  evaluation requests, open until they are answered
best.py         the weights with the best held-out pass rate, and their test
"""
