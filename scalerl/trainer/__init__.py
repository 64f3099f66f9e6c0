"""The trainer: spool -> loss -> weights, on DeepSpeed ZeRO-3. README.md beside this file explains it.

    scalerl role trainer --index RANK --dir runs/x --attempt 1        (one rank; started by `scalerl run`)

loop.py        the training loop
state.py       which groups come next: step, cursor, admitted prompts, plateaus
batch.py       waits for the groups of a step, refuses bad ones
objective.py   advantages, token weights, statistics of a batch
packing.py     sequences -> rows -> micro-batches, the same number on every rank
engine.py      ZeRO-3: forward, backward, optimizer step (it, export.py and model/ import deepspeed)
model/         the Hugging Face model: its own forward cut in two, log-probabilities in chunks
export.py      the sharded model as a Hugging Face folder
publisher.py   weights, manifest, evaluation requests
checkpoint.py  all of it on disk, without pickle
"""

import os
import signal
import sys
import traceback
from pathlib import Path

from scalerl.fence import end_if_stale
from scalerl.paths import RunPaths


def run_trainer(run_dir: Path, *, rank: int, attempt: int) -> None:
    """Run one rank of the trainer to the end of the run, then end this process with an exit code.

    0    the run has come to its end, or this attempt is over (`fence.end_if_stale`)
    1    after a traceback
    143  SIGTERM made it checkpoint and end; Slurm sends that to every task of a job it takes away with grace

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
        # Not sys.exit: gloo's threads may abort a process that ends in the ordinary way.
        os._exit(code)
