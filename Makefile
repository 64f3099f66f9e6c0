# scalerl: `make` lists what there is to do. Everything runs from .venv, which `make setup` makes.
export OMP_NUM_THREADS ?= 1
unexport PYTHONDONTWRITEBYTECODE    # without compiled files every start of an engine takes seconds longer
PYTHON_BIN := .venv/bin/python
SEED ?= 0
RUN ?= runs/demo-seed0

.DEFAULT_GOAL := help
.PHONY: help setup demo test check sweep fit study

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 12

setup: .venv/.ready  ## make .venv with the CPU or GPU engines, by what the machine has; quick when nothing changed

.venv/.ready: setup.cfg setup.py tools/setup.sh
	tools/setup.sh
	@touch $@

demo: setup  ## one ScaleRL run from nothing: data, base model, run, fit and plot (SEED=0)
	SEED=$(SEED) tools/demo.sh

test: setup  ## the whole test suite (ARGS="-k spool" for a part)
	$(PYTHON_BIN) -m pytest -x $(ARGS)

check: setup  ## ruff, mypy, import contracts
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-cache

sweep: setup  ## AXIS=loss_type [SCALE=ablation] [SEEDS=3] [CLUSTER=slurm|local] [THROTTLE=8] [RETRY=1] [YES=1] [DRY_RUN=1]
	@test -n "$(AXIS)" || { echo "make sweep: name an axis, such as AXIS=loss_type; there are: $(basename $(notdir $(filter-out sweeps/base.toml,$(wildcard sweeps/*.toml))))"; exit 2; }
	@$(PYTHON_BIN) -m scalerl sweep sweeps/$(AXIS).toml --scale $(or $(SCALE),demo) --seeds $(or $(SEEDS),1) \
		$(if $(CLUSTER),--cluster $(CLUSTER)) $(if $(THROTTLE),--throttle $(THROTTLE)) $(if $(DIR),--dir "$(DIR)") \
		$(if $(RETRY),--retry) $(if $(YES),--yes) $(if $(DRY_RUN),--dry-run) $(ARGS)

fit: setup  ## fit the sigmoid to a run and draw it: RUN=runs/demo-seed0
	$(PYTHON_BIN) -m scalerl fit $(RUN)

study: setup  ## every recipe of six axes at demo scale, their curves and fits; continues an interrupted study [SEEDS=3] [STEPS=200]
	SEEDS=$(or $(SEEDS),3) STEPS=$(or $(STEPS),200) tools/study.sh
