#!/usr/bin/env bash
# One ScaleRL run to 100,000 GPU-hours on 80 GPUs: 56 generators and 8 evaluators (64 GPUs), 16 trainer ranks.
#
#   sbatch slurm/scalerl_100k.sh model.path=... data.train=... data.heldout=... [FILE.toml] [key=value]
#
# The job goes on through time limits, preemptions and dead nodes: it requeues itself, or Slurm does, and
# continues in RUN_DIR until the budget is used. Submitting it again waits for the first to end (singleton),
# then continues or finds nothing to do; for another RUN_DIR at the same time give sbatch a --job-name of its
# own. `scalerl status RUN_DIR` shows where it is; `scancel JOB` stops it, submitting it again goes on.
#
#SBATCH --job-name=scalerl_100k --dependency=singleton
#SBATCH --requeue --open-mode=append --output=%x-%j.out
#SBATCH --signal=B:USR1@1800
#
# --- what a site must change --------------------------------------------------------------------------------
##SBATCH --partition=gpu --account=myproject
#SBATCH --nodes=10 --gpus-per-node=8
#SBATCH --ntasks-per-node=1 --cpus-per-task=64 --mem=0
#SBATCH --time=24:00:00
RUN_DIR=${RUN_DIR:-runs/scalerl_100k}       # on a file system that every node sees
PYTHON=${PYTHON:-.venv/bin/python}          # made by `make setup`; relative to where sbatch is called
# module load cuda/12.8
# Container and srun flags of the steps: slurm/site.toml. Model and data: above, or in sweeps/base.toml.
# ------------------------------------------------------------------------------------------------------------

trap '' USR1    # until Python, which takes this shell's place, is there to hear the warning
exec "$PYTHON" -m scalerl run sweeps/base.toml sweeps/scale/100k.toml --dir "$RUN_DIR" "$@"
