#!/usr/bin/env bash
# One ScaleRL run of a real model, SmolLM2-135M-Instruct, on two CPU cores. Called by `make real`.
#   SEED=0      of the run; each seed has its own run folder, all start from one base model
#   STEPS=20    optimizer steps; a larger number continues the run
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1
scalerl=".venv/bin/python -m scalerl"
seed=${SEED:-0}
data=data/real
run=runs/real-seed$seed

[ -e $data/base/config.json ] || $scalerl base --pretrained smollm2 --output $data/base
[ -e $data/test.parquet ] || $scalerl prepare --generate word_problems:max_steps=1 --output $data \
    --heldout-fraction 0.06 --test-fraction 0.06
$scalerl run sweeps/scale/real.toml --dir "$run" seed="$seed" budget.max_steps="${STEPS:-20}"
$scalerl fit "$run"
cat <<END

data          $data/train.parquet, heldout.parquet, test.parquet (report: $data/report.json)
base model    $data/base
run folder    $run (metrics.jsonl, training_log.csv, logs/latest/, weights/, best/)
fit           $run/fit.json
plot          $run/curve.png
END
