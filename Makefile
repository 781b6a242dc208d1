# make run    sets up .venv and runs the default experiment; ARGS='method=dlora rounds=5' is passed on
# make test   sets up .venv and runs everything that is checked: lint, types, import rules, all tests
# make setup  .venv from requirements.lock; TORCH_INDEX=URL takes torch from that index (see README, "GPU")
# make lint   ruff, pyright and the import rules
# make format rewrites the sources as `make lint` wants them
# make lock   writes requirements.lock from what .venv holds
.PHONY: run test setup lint format lock browser
.DEFAULT_GOAL := run

ARGS ?=
TORCH_INDEX ?=
PYTHON ?=
PY := .venv/bin/python

run: setup
	@$(PY) -m dfl_ray run $(ARGS)

test: lint browser
	OMP_NUM_THREADS=1 $(PY) -m pytest $(ARGS)

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
