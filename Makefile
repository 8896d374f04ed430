# `make demo`, `make test`, and `make tables`, the whole digits study. Each sets up .venv first, once. `make test-long` runs the
# tests that take minutes.
PYTHON ?= python3
CORES ?= 2
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo tables test test-long bench bench-gpu lint

demo: export PYTHONPATH := plugins$(if $(PYTHONPATH),:$(PYTHONPATH))
demo: .venv/installed
	@echo "7 to 10 minutes on two idle cores. What is there already is not made again."
	@snakemake --logger brief --cores $(CORES) results/digits-dit/fid.json > /dev/null
	@echo
	@cat results/digits-dit/fid.txt
	@echo "Pictures: results/digits-dit/samples.png results/digits-dit/fidelity.png results/digits-dit/training.png"

# For every job that has ended, Snakemake 9 looks at all waiting ones once per timespan, which is a second by default: after 140 jobs
# that took 36 % of a core.
tables: .venv/installed
	snakemake --cores $(CORES) --keep-going --max-jobs-per-timespan 6000/60s results/tables/digits/all

# A process per core, of one thread; a file's tests stay together, for they share what they have made.
test: export OMP_NUM_THREADS = 1
test: .venv/installed
	python -m pytest tests -m "not long" --numprocesses $(CORES) --dist loadfile --no-loadscope-reorder

test-long: .venv/installed
	python -m pytest tests -m long

# Idle threads that spin would take the cores from the other processes that tests start.
test test-long: export OMP_WAIT_POLICY = PASSIVE

# Wants idle cores. The jobs are those of `make demo`.
bench bench-gpu: export PYTHONPATH := .$(if $(PYTHONPATH),:$(PYTHONPATH))
bench: .venv/installed
	python -m benchmarks.adapter_cost
	python -m benchmarks.one_pass --shapes thin --device cpu --batch-sizes 1
	python -m benchmarks.overhead
	python -m benchmarks.dag
	snakemake --cores $(CORES) results/digits-dit/fid.json
	python -m benchmarks.jobs --results results --models digits-dit
	python docs/draw_performance.py

bench-gpu: .venv/installed
	python -m benchmarks.one_pass --device cuda
	python docs/draw_performance.py

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
