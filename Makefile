# make run    sets up .venv and runs the default experiment; ARGS='method=dlora rounds=5' is passed on
# make test   sets up .venv and runs everything that is checked: lint, types, import rules, all tests with their branch
#             coverage; ARGS='tests/unit -x' runs some of them, without it
# make mutants  changes the pure modules in small ways and prints the changes that no test notices; not part of CI
# make setup  .venv from requirements.lock; TORCH_INDEX=URL takes torch from that index (see README, "GPU")
# make lint   ruff, pyright and the import rules
# make format rewrites the sources as `make lint` wants them
# make lock   writes requirements.lock from what .venv holds
.PHONY: run test setup lint format lock browser mutants
.DEFAULT_GOAL := run

ARGS ?=
TORCH_INDEX ?=
PYTHON ?=
PY := .venv/bin/python

run: setup
	@$(PY) -m dfl_ray run $(ARGS)

test: lint browser
ifeq ($(strip $(ARGS)),)
	@$(PY) -m coverage erase
	OMP_NUM_THREADS=1 $(PY) -m coverage run -m pytest
	@sh .ci/coverage
else
	OMP_NUM_THREADS=1 $(PY) -m pytest $(ARGS)
endif

mutants: setup
	OMP_NUM_THREADS=1 $(PY) .ci/mutants.py $(ARGS)

setup:
	@PYTHON='$(PYTHON)' TORCH_INDEX='$(TORCH_INDEX)' sh .ci/setup

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright
	.venv/bin/lint-imports

format: setup
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

lock: setup
	@sh .ci/lock

browser:
	@sh .ci/browser
