# Two commands: `make demo` and `make test`. Each sets up .venv first, once.
PYTHON ?= python3
CORES ?= 2
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo test lint

demo: .venv/installed
	snakemake --cores $(CORES) results/digits-dit/fid.json
	@echo
	@cat results/digits-dit/fid.txt
	@echo "Pictures: results/digits-dit/samples.png results/digits-dit/training.png"

# Idle threads that spin would take the cores from the other processes that tests start.
test: export OMP_WAIT_POLICY = PASSIVE
test: .venv/installed
	python -m pytest tests

lint: .venv/installed
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile rules
	snakemake --lint

.venv/installed: requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "agd needs Python 3.11 or later; set PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	touch $@
