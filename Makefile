# scalerl: `make` lists what there is to do. Everything runs from .venv, which `make setup` makes.
export OMP_NUM_THREADS ?= 1
unexport PYTHONDONTWRITEBYTECODE    # without compiled files every start of an engine takes seconds longer
PYTHON_BIN := .venv/bin/python
SEED ?= 0
RUN ?= runs/demo-seed0
AXES := $(basename $(notdir $(filter-out sweeps/base.toml,$(wildcard sweeps/*.toml))))

.DEFAULT_GOAL := help
.PHONY: help setup demo real test test-fast check sweep fit grpo study families

help:  ## print this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 12

setup: .venv/.ready  ## make .venv, with the CPU or the GPU build of the engines as the machine is; quick when nothing changed

.venv/.ready: setup.cfg setup.py tools/setup.sh
	tools/setup.sh
	@touch $@

demo: setup  ## make data and a tiny base model, train one ScaleRL run, fit and plot it: [SEED=0]
	SEED=$(SEED) tools/demo.sh

real: setup  ## fetch SmolLM2-135M-Instruct, train it on word problems, fit and plot the run: [STEPS=20] [SEED=0]
	SEED=$(SEED) STEPS=$(or $(STEPS),20) tools/real.sh

test: setup  ## run the whole test suite, fast tests first, or a part: [ARGS="-k spool"]
	$(PYTHON_BIN) -m pytest -x $(ARGS)

test-fast: setup  ## run the tests that need no engine, Slurm, sandbox or browser: under four minutes
	$(PYTHON_BIN) -m pytest -x -m "not engine and not slurm and not sandbox and not browser" $(ARGS)

check: setup  ## run ruff, mypy and the import contracts
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-cache

sweep: setup  ## run an axis: AXIS=loss_type [BASE=baseline SCALE=demo SEEDS=1 CLUSTER=slurm THROTTLE=8 RETRY=1 YES=1 DRY_RUN=1 DIR=... ARGS=...]
	@test -n "$(AXIS)" || { echo "make sweep: name an axis, such as AXIS=loss_type; there are: $(AXES)"; exit 2; }
	@$(PYTHON_BIN) -m scalerl sweep sweeps/$(basename $(notdir $(AXIS))).toml --from-make \
		--scale $(or $(SCALE),demo) --seeds $(or $(SEEDS),1) $(if $(BASE),--base $(BASE)) \
		$(if $(CLUSTER),--cluster $(CLUSTER)) $(if $(THROTTLE),--throttle $(THROTTLE)) \
		$(if $(DIR),--dir "$(DIR)") $(if $(RETRY),--retry) $(if $(YES),--yes) $(if $(DRY_RUN),--dry-run) $(ARGS)

fit: setup  ## fit the sigmoid to a run and draw it: [RUN=runs/demo-seed0]
	$(PYTHON_BIN) -m scalerl fit $(RUN)

grpo: setup  ## print GRPO's advantages and clipping of one group of a run, step by step: [RUN=runs/demo-seed0] [ARGS="--group 3000"]
	$(PYTHON_BIN) tools/grpo.py $(RUN) $(ARGS)

study: setup  ## run the 14 recipes of six axes at demo scale and fit their curves, or go on with it: [SEEDS=3] [STEPS=200]
	SEEDS=$(or $(SEEDS),3) STEPS=$(or $(STEPS),200) tools/study.sh

families: setup  ## train and sample a tiny model of every architecture, and write the table of scalerl/trainer/README.md
	$(PYTHON_BIN) tools/family_table.py --output scalerl/trainer/README.md
