#!/usr/bin/env bash
# One ScaleRL run from nothing on two CPU cores. Called by `make demo`.
#   SEED=0   of the run; each seed has its own run folder, all start from one base model
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1
scalerl=".venv/bin/python -m scalerl"
seed=${SEED:-0}
data=data/demo
run=runs/demo-seed$seed

[ -e $data/test.parquet ] || $scalerl prepare --generate arithmetic --output $data \
    --heldout-fraction 0.06 --test-fraction 0.06
[ -e $data/base/config.json ] || $scalerl base --output $data/base
$scalerl run sweeps/scale/demo.toml --dir "$run" seed="$seed"
$scalerl fit "$run"
cat <<END

data          $data/train.parquet, heldout.parquet, test.parquet (report: $data/report.json)
base model    $data/base
run folder    $run (metrics.jsonl, training_log.csv, logs/latest/, weights/, best/)
fit           $run/fit.json
plot          $run/curve.png
END
