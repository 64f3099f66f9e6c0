#!/usr/bin/env bash
# The study: every recipe of sweeps/study.toml at demo scale, then its curves. Called by `make study`; the same command continues it.
#   SEEDS=3     runs a recipe
#   STEPS=200   optimizer steps a run; with more, finished runs go on
# Exit code 130 if it was interrupted, 1 if a run failed (the others are run and fitted nevertheless).
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1
python=.venv/bin/python
data=data/demo
study=runs/study

[ -e $data/test.parquet ] || $python -m scalerl prepare --generate arithmetic --output $data \
    --heldout-fraction 0.06 --test-fraction 0.06
[ -e $data/base/config.json ] || $python -m scalerl base --output $data/base
code=0
$python -m scalerl sweep sweeps/study.toml --scale demo --seeds "${SEEDS:-3}" --cluster local --dir $study \
    budget.max_steps="${STEPS:-200}" || code=$?
[ $code -le 1 ] || exit $code
$python tools/fit_all.py $study || code=1
$python tools/fit_all.py $study --axis steps --out $study/fits-steps || code=1
$python tools/study_results.py $study sweeps/study
exit $code
