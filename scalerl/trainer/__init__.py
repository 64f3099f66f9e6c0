"""The trainer: spool -> loss -> weights, on DeepSpeed ZeRO-3. `scalerl role trainer --index RANK` runs one
rank of it.

batch.py       waits for the groups of a step, refuses bad ones
objective.py   advantages, token weights, statistics of a batch
packing.py     sequences -> rows -> micro-batches, the same number on every rank
head.py        log-probabilities without the full logits
engine.py      ZeRO-3: forward, backward, optimizer step, export (the only deepspeed import)
state.py       where the run is: step, cursor, admitted prompts, plateaus
publisher.py   weights, manifest, evaluation requests
checkpoint.py  all of it on disk, without pickle
loop.py        the training loop
"""

import os
import signal
import sys
import traceback
from pathlib import Path

from scalerl.fence import end_if_stale
from scalerl.paths import RunPaths


def run_trainer(run_dir: Path, *, rank: int, attempt: int) -> None:
    """Run one rank of the trainer to the end of the run, and end this process: exit code 0; 1 after a
    traceback; 143 if SIGTERM made it checkpoint and end (Slurm sends it to every task of a job that it takes
    away with grace); 0 if its attempt is over (`fence`).

    RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT must be set.
    """
    code = 1
    try:
        from scalerl.trainer.loop import Trainer

        stopped = Trainer(run_dir, rank=rank, attempt=attempt).run()
        code = 128 + signal.SIGTERM if stopped else 0
    except BaseException:
        traceback.print_exc()
        end_if_stale(RunPaths(run_dir), attempt)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # gloo's threads may abort a process that ends in the ordinary way
