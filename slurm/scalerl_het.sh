#!/usr/bin/env bash
# One ScaleRL run on two kinds of node: 16 trainer ranks on the first, 56 generators and 8 evaluators on the
# second.
#
#   sbatch slurm/scalerl_het.sh model.path=... data.train=... data.heldout=... [FILE.toml] [key=value]
#
# As scalerl_100k.sh in everything else, except that a second submission does not wait (Slurm would have the
# second half of the job wait for its first): it finds the folder in use, and ends.
#
#SBATCH --job-name=scalerl_het
#SBATCH --requeue --open-mode=append --output=%x-%j.out
#SBATCH --signal=B:USR1@1800
#
# --- what a site must change --------------------------------------------------------------------------------
##SBATCH --account=myproject
#SBATCH --nodes=2 --gpus-per-node=8
#SBATCH --ntasks-per-node=1 --cpus-per-task=64 --mem=0
#SBATCH --time=24:00:00
##SBATCH --partition=large_memory_gpu
#SBATCH hetjob
#SBATCH --nodes=16 --gpus-per-node=4
#SBATCH --ntasks-per-node=1 --cpus-per-task=32 --mem=0
##SBATCH --partition=small_gpu
RUN_DIR=${RUN_DIR:-runs/scalerl_het}        # on a file system that every node sees
PYTHON=${PYTHON:-.venv/bin/python}          # made by `make setup`; relative to where sbatch is called
# module load cuda/12.8
# Container and srun flags of the steps: slurm/site.toml. Model and data: above, or in sweeps/base.toml.
# ------------------------------------------------------------------------------------------------------------

trap '' USR1    # until Python, which takes this shell's place, is there to hear the warning
exec "$PYTHON" -m scalerl run sweeps/base.toml sweeps/scale/16k.toml --dir "$RUN_DIR" "$@"
