"""Mutation testing of the pure modules with mutmut: `make mutants`, `make mutants ARGS='--packages dfl_ray/wire'`.

A mutant is the code with one small change (`<` for `<=`, 2 for 1); a test that fails for it kills it. A seeded
sample of the mutants is tried, and each that survives is either explained in `tests/mutants.toml` or fails this
program. Functions compiled by numba carry a decorator and are not mutated: mutmut leaves decorated functions
alone. Everything happens in a copy of the tracked and new files in a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("channels", "dfl_ray/lora", "dfl_ray/wire", "dfl_ray/methods")
EXPLAINED = ROOT / "tests/mutants.toml"
SURVIVED = 0
NOT_TESTED = 33


def main() -> int:
    """Sample, try and judge the mutants; the exit code is 1 if one survives unexplained."""
    asked = arguments()
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        folder = Path(name)
        copy_sources(folder)
        configure(folder, asked.packages, asked.tests)
        # mutmut knows its mutants by name only after it has made them: a name that none has makes them all
        # and measures which test reaches which function, and tries none.
        first = mutmut(folder, ["none.such"])
        names = sample(mutant_names(folder), asked.packages, asked.count, asked.seed)
        if not names:
            print(first.stdout[-4000:])
            print("mutants: none were made; the tests that they need must pass first")
            return 1
        print(f"mutants: {len(names)} of {len(mutant_names(folder))}, seed {asked.seed}", flush=True)
        tried = mutmut(folder, ["--max-children", str(asked.workers), *names])
        if all(outcomes(folder)[name] is None for name in names):
            print(tried.stdout[-4000:])
        return judge(folder, names)


def arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--packages", nargs="+", choices=PACKAGES, default=list(PACKAGES))
    parser.add_argument("--count", type=int, default=60, help="mutants of each package")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--tests", nargs="*", help="test files or folders in place of the packages' own")
    return parser.parse_args()


def copy_sources(folder: Path) -> None:
    """Copy what git tracks or would track; ignored files (environments, runs) stay behind."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        source, target = ROOT / name, folder / name
        if source.is_file() and not source.is_symlink():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)


def own_tests(packages: list[str]) -> list[str]:
    """Folders of the tests that mirror the packages."""
    kinds = ("unit", "property", "oracle")
    found = [f"tests/{kind}/{package}" for package in packages for kind in kinds]
    return [name for name in found if (ROOT / name).is_dir()]


def configure(folder: Path, packages: list[str], tests: list[str] | None) -> None:
    """Tell mutmut in the copy's pyproject.toml what to change and which tests to run."""
    settings = {
        "source_paths": ["topology", "channels", "dfl_ray", "actors"],
        "only_mutate": [f"{package}/*" for package in packages],
        "also_copy": ["pyproject.toml", "benchmarks", "docs", "README.md"],
        "pytest_add_cli_args": ["-m", "not slow and not ray", "--hypothesis-profile=mutants"],
        "pytest_add_cli_args_test_selection": tests or own_tests(packages),
        # A mutant's result depends on its own function and the tests; nothing is kept from run to run.
        "track_dependencies": False,
        "use_git_change_detection": False,
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    with (folder / "pyproject.toml").open("a", encoding="utf-8") as file:
        file.write("\n[tool.mutmut]\n" + "\n".join(lines) + "\n")


def mutmut(folder: Path, words: list[str]) -> subprocess.CompletedProcess[str]:
    """Run `mutmut run` in the copy."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    command = [sys.executable, "-m", "mutmut", "run", *words]
    return subprocess.run(
        command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )


def outcomes(folder: Path) -> dict[str, int | None]:
    """Exit code of the tests for every mutant; None for one that was not tried."""
    found: dict[str, int | None] = {}
    for path in (folder / "mutants").rglob("*.meta"):
        found |= json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]
    return found


def mutant_names(folder: Path) -> list[str]:
    """Names of all mutants, sorted."""
    return sorted(outcomes(folder))


def sample(names: list[str], packages: list[str], count: int, seed: int) -> list[str]:
    """At most `count` mutants of each package, drawn with the seed."""
    chosen: list[str] = []
    for package in packages:
        own = [name for name in names if name.startswith(package.replace("/", ".") + ".")]
        chosen += random.Random(f"{seed}/{package}").sample(own, min(count, len(own)))
    return sorted(chosen)


def judge(folder: Path, names: list[str]) -> int:
    """Print the survivors and the score; 1 if a survivor has no explanation."""
    explained = {entry["change"].strip(): entry["why"] for entry in tomllib.loads(
        EXPLAINED.read_text(encoding="utf-8"))["mutant"]}  # fmt: skip
    results = outcomes(folder)
    untried = [name for name in names if results[name] is None]
    survivors = [name for name in names if results[name] in (SURVIVED, NOT_TESTED)]
    open_ones = 0
    for name in survivors:
        change = show(folder, name)
        why = explained.get(change)
        open_ones += why is None
        print(f"\n{name}: {'explained: ' + why if why else 'SURVIVES'}\n{change}")
    killed = len(names) - len(survivors) - len(untried)
    print(
        f"\nmutants: {killed} killed, {len(survivors)} survive, {open_ones} of them unexplained, "
        f"{len(untried)} not tried"
    )
    return 1 if open_ones or untried else 0


def show(folder: Path, name: str) -> str:
    """The mutant's function and its changed lines, as `tests/mutants.toml` names it."""
    done = subprocess.run(
        [sys.executable, "-m", "mutmut", "show", name],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    changed = [
        line for line in done.stdout.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")
    ]
    return "\n".join([name.rpartition("__mutmut_")[0], *changed])


if __name__ == "__main__":
    sys.exit(main())
