# Each target does its own set-up, says what it does, and is quick the second time.
#   make demo    a language model answers on the simulated chip, then a table over six generations
#   make test    the tests
#   make test-sanitize  the tests with every access of every kernel checked (docs/sanitizer.md)
#   make check   format, lint, types, tests
#   make bench   how fast the simulator is
#   make validate  predictions beside measured silicon: the committed sample, or VALIDATE_ARGS="DIR --sample 40"
PY := .venv/bin/python
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
PYTEST_ARGS ?=
SANITIZE_ARGS ?= --deselect tests/report/test_generate.py::test_three_answers_on_the_device_equal_the_cpus
VALIDATE_ARGS ?= --expected validation/expected.json

.PHONY: setup demo test test-sanitize check bench validate format clean

setup:
	@scripts/setup.sh run

demo: setup
	@.venv/bin/mtia demo $(DEMO_ARGS)

test:
	@scripts/setup.sh run test
	@OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) --dist worksteal $(PYTEST_ARGS)

# Three quarters of an hour. One at a time: the sanitizer keeps about seven bytes for each that a kernel touches. Left
# out: three answers of a whole language model.
test-sanitize:
	@scripts/setup.sh run test
	@MTIA_SANITIZE=1 OMP_NUM_THREADS=1 $(PY) -m pytest $(SANITIZE_ARGS) $(PYTEST_ARGS)

check:
	@scripts/setup.sh run dev
	.venv/bin/ruff format --check
	.venv/bin/ruff check
	.venv/bin/pyright
	@OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) --dist worksteal $(PYTEST_ARGS)

bench: setup
	@$(PY) benchmarks/run.py $(BENCH_ARGS)

validate: setup
	@.venv/bin/mtia validate $(VALIDATE_ARGS)

format:
	@scripts/setup.sh run dev
	.venv/bin/ruff check --fix
	.venv/bin/ruff format

clean:
	rm -rf build out dist src/*.egg-info src/mtia/*.so .pytest_cache .ruff_cache .hypothesis
