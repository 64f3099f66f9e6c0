"""`python run_worker.py RUN_DIR...`: one rank 0 after another in this process; an error goes to
RUN_DIR/logs/error.txt."""

import os
import sys
import traceback
from pathlib import Path

from scalerl.trainer.loop import Trainer

if __name__ == "__main__":
    for run_dir in map(Path, sys.argv[1:]):
        try:
            Trainer(run_dir, rank=0, attempt=1).run()
        except Exception:
            (run_dir / "logs" / "error.txt").write_text(traceback.format_exc())
    sys.stdout.flush()
    os._exit(0)
