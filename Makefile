# make demo | test | test-slow | test-slurm | lint | clean-demo
#
# PYTHON   interpreter that makes the environment (3.11 or newer)
# VENV     where the environment lies
# PIP_ARGS more arguments for pip, e.g. an index with CPU-only builds of torch

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
BIN := $(VENV)/bin

export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-slow test-slurm lint clean-demo

demo: $(VENV)/.installed
	$(BIN)/sivibench sweep demo

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q -n 2 -m "not slow and not slurm"

test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q -n 2 -m slow

# Needs SLURM's programs; Debian: apt-get install --no-install-recommends slurmctld slurmd slurm-client munge
test-slurm: $(VENV)/.installed-slurm
	SLURM_TESTS=1 $(BIN)/python -m pytest -q -n 2 -m slurm

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy bench methods targets slurm

clean-demo:
	rm -rf demo

# The stamps make the second call instant; a change of the dependencies installs again.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-slurm: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e '.[dev,hydra]'
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is missing or older than 3.11; give another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
		{ echo "error: $(PYTHON) cannot make virtual environments; apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
