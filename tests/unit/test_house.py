"""The house: foreign packages, the wheel, the lock, the scripts."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from dfl_ray.config.yamlio import parse

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("dfl_ray", "actors", "topology", "channels")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def python(program: str, *path: Path) -> subprocess.CompletedProcess[str]:
    # -I keeps the current folder and PYTHONPATH out.
    head = "".join(f"sys.path.insert(0, {str(place)!r});" for place in path)
    return subprocess.run(
        [sys.executable, "-I", "-c", f"import sys;{head}{program}"], capture_output=True, text=True
    )


@pytest.mark.parametrize("name", ["channels", "topology", "actors"])
@pytest.mark.parametrize("form", ["package", "module", "namespace"])
def test_a_foreign_package_of_our_name_is_refused(name: str, form: str, tmp_path: Path) -> None:
    place = tmp_path / (f"{name}.py" if form == "module" else name)
    if form == "module":
        place.write_text("", encoding="utf-8")
    else:
        place.mkdir()
        (place / ("__init__.py" if form == "package" else "layers.py")).write_text("", encoding="utf-8")
    done = python("import dfl_ray", ROOT, tmp_path)
    if form == "namespace" and done.returncode == 0:
        # A folder without __init__.py gives way to a real package further down the path.
        assert (ROOT / name / "__init__.py").is_file()
        return
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"ImportError: The package `{name}` is {place}")
    assert str(ROOT / name) in last and "sys.path" in last


def test_a_foreign_package_behind_ours_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "channels").mkdir()
    (tmp_path / "channels/__init__.py").write_text("", encoding="utf-8")
    assert python("import dfl_ray", tmp_path, ROOT).returncode == 0


def test_a_missing_neighbour_is_named(tmp_path: Path) -> None:
    for name in ("dfl_ray", "topology", "actors"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("", encoding="utf-8")
    for name in ("__init__.py", "version.py"):
        shutil.copy(ROOT / "dfl_ray" / name, tmp_path / "dfl_ray")
    # Without site-packages, where an editable install would bring the missing package back.
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import dfl_ray"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True)
    assert "The package `channels` cannot be found" in done.stderr.splitlines()[-1]


def test_importing_the_package_imports_nothing_else() -> None:
    done = python(
        "import dfl_ray;print(sorted({'numpy','pandas','channels','topology'} & set(sys.modules)))", ROOT
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_load_run_is_reached_from_the_package() -> None:
    import dfl_ray
    from dfl_ray.records import load_run

    assert dfl_ray.load_run is load_run
    assert {name for name in dfl_ray.__all__ if not callable(getattr(dfl_ray, name))} == {"__version__"}
    with pytest.raises(AttributeError, match="load_runs"):
        _ = dfl_ray.load_runs  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_the_four_packages_whole_and_nothing_else(wheel: set[str]) -> None:
    sources = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix in (".py", ".yaml", ".json", ".safetensors")
    }
    assert sources - wheel == set()
    assert {name.split("/")[0] for name in wheel if ".dist-info/" not in name} <= set(PACKAGES)
    for name in ("dfl_ray/presets/default.yaml", "dfl_ray/cli/parser.py", "channels/settings.py"):
        assert name in wheel
    assert {f"{package}/py.typed" for package in PACKAGES} <= wheel
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel)


def imported_names(folder: Path) -> set[str]:
    import ast

    found: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                found.add(node.module.split(".")[0])
    return found


def test_what_the_packages_import_is_declared_and_what_is_declared_is_imported() -> None:
    from importlib.metadata import packages_distributions

    from packaging.requirements import Requirement

    installed = packages_distributions()

    def distribution(name: str) -> str:
        return re.sub(r"[-_.]+", "-", installed[name][0]).lower()

    imported = {
        "ruamel-yaml" if name == "ruamel" else distribution(name)
        for name in set.union(*(imported_names(ROOT / package) for package in PACKAGES))
        - set(sys.stdlib_module_names) - set(PACKAGES)
    }  # fmt: skip
    needed = {re.sub(r"[-_.]+", "-", Requirement(text).name) for text in PROJECT["project"]["dependencies"]}
    extras = PROJECT["project"]["optional-dependencies"]
    optional = {Requirement(text).name for name in ("gguf", "hub", "privacy") for text in extras[name]}
    assert imported - optional - needed == set()
    # peft loads the folders that a run writes; filelock is for the run's lock.
    assert needed - imported <= {"filelock", "peft"}


def test_torch_is_a_range_and_its_pin_belongs_to_the_lock() -> None:
    (torch,) = (text for text in PROJECT["project"]["dependencies"] if text.startswith("torch"))
    assert torch == "torch>=2.9"
    assert locked()["torch"] == "2.13.0"


def test_the_citation_names_this_version_and_the_methods_paper() -> None:
    citation = parse((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert citation["version"] == PROJECT["project"]["version"]
    assert citation["license"] == PROJECT["project"]["license"] == "Apache-2.0"
    (paper,) = citation["references"]
    assert paper["identifiers"] == [{"type": "other", "value": "arXiv:2602.20492"}]
    for entry in (citation, paper):
        assert entry["title"] and all(a.get("name") or a.get("family-names") for a in entry["authors"])


def test_the_wheel_holds_the_embedded_model(wheel: set[str]) -> None:
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        assert f"dfl_ray/models/embedded/{name}" in wheel


def test_the_version_is_one() -> None:
    from dfl_ray.version import VERSION

    assert PROJECT["project"]["version"] == VERSION


def locked() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.!]+", pin) for pin in pins), "every line is one exact version"
    return {
        re.sub(r"[-_.]+", "-", name).lower(): version for name, version in (pin.split("==") for pin in pins)
    }


NOT_LOCKED = {"harness", "s3", "gpu"}
"""Extras whose packages stand outside the lock: lm-eval takes python-dateutil below 3, s3fs is for S3 alone, and
bitsandbytes for bases in 4 bits alone."""


def test_the_lock_pins_all_that_the_project_asks_for() -> None:
    from packaging.requirements import Requirement

    pins = locked()
    project = PROJECT["project"]
    groups = project["optional-dependencies"]
    extras = [need for name, group in groups.items() if name not in NOT_LOCKED for need in group]
    asked = [*project["dependencies"], *extras, *PROJECT["build-system"]["requires"]]
    for text in asked:
        need = Requirement(text)
        if need.name == project["name"]:  # an extra that takes in other extras
            assert need.extras <= set(project["optional-dependencies"])
            continue
        version = pins[re.sub(r"[-_.]+", "-", need.name).lower()]
        assert need.specifier.contains(version, prereleases=True), f"{text} is locked at {version}"


def test_every_locked_file_but_torchs_has_hashes() -> None:
    text = (ROOT / "requirements.hashes").read_text(encoding="utf-8")
    entries = re.findall(
        r"(?m)^([\w.-]+)==([\w.!]+)(?: ;[^\\\n]*)?((?: \\\n +--hash=sha256:[0-9a-f]{64})+)$", text
    )
    assert len(entries) == len(re.findall(r"(?m)^[^#\s]", text))
    hashed = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version, _ in entries}
    assert hashed == {name: version for name, version in locked().items() if name != "torch"}


def test_this_environment_is_the_locked_one() -> None:
    from importlib.metadata import version

    for name, pinned in locked().items():
        assert version(name).split("+")[0] == pinned, name


def test_scripts_are_whole_and_ci_runs_make_test() -> None:
    for name in ("setup", "lock", "browser", "run", "coverage"):
        script = ROOT / ".ci" / name
        assert subprocess.run(["sh", "-n", str(script)], capture_output=True).returncode == 0
        assert script.stat().st_mode & 0o111
    assert "make test" in (ROOT / ".ci/run").read_text(encoding="utf-8")


def test_make_test_runs_every_check() -> None:
    done = subprocess.run(["make", "--dry-run", "test"], cwd=ROOT, capture_output=True, text=True, check=True)
    for step in (
        "ruff check .",
        "ruff format --check .",
        "pyrefly",
        "lint-imports",
        "-m coverage run -m pytest",
        ".ci/coverage",
    ):
        assert step in done.stdout


def test_setup_does_nothing_when_nothing_has_changed(tmp_path: Path) -> None:
    for name in ("requirements.lock", "requirements.hashes", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/setup", tmp_path / ".ci")
    (tmp_path / ".venv").mkdir()
    names = ("requirements.lock", "requirements.hashes", "pyproject.toml")
    together = b"".join((tmp_path / name).read_bytes() for name in names)
    checksum = (
        subprocess.run(["cksum"], input=together, capture_output=True, check=True).stdout.decode().strip()
    )
    (tmp_path / ".venv/.dfl-ray-setup").write_text(f"{checksum}\n\n", encoding="utf-8")
    # With no interpreter on the path anything but stopping at once would fail.
    done = subprocess.run(["sh", ".ci/setup"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (tmp_path / "requirements.lock").write_text("# changed\n", encoding="utf-8")
    done = subprocess.run(
        ["sh", ".ci/setup"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "PYTHON": "none"},
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "no Python 3.11 or newer" in done.stderr


def test_setup_names_the_missing_venv_module_in_one_line(tmp_path: Path) -> None:
    for name in ("requirements.lock", "requirements.hashes", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/setup", tmp_path / ".ci")
    bare = tmp_path / "python"
    bare.write_text('#!/bin/sh\ncase "$2" in *venv*) exit 1;; esac\nexit 0\n', encoding="utf-8")
    bare.chmod(0o755)
    done = subprocess.run(
        ["sh", ".ci/setup"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "PYTHON": str(bare)},
    )
    assert done.returncode == 1
    assert (
        done.stderr
        == f"setup: {bare} has no venv module. On Debian or Ubuntu: apt-get install python3-venv\n"
    )


def test_the_pre_commit_hooks_are_the_tools_of_make_lint() -> None:
    hooks = parse((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    tools = {hook["entry"].split()[0] for hook in hooks}
    assert tools == {".venv/bin/ruff", ".venv/bin/pyrefly", ".venv/bin/lint-imports"}


def test_the_readme_lists_the_commands_there_are() -> None:
    from dfl_ray.cli.parser import _TABLE

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `dfl-ray (\w+)", text, re.MULTILINE)) == set(_TABLE)


def test_files_are_at_most_400_lines_and_functions_40() -> None:
    import ast

    long: list[str] = []
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if text.count("\n") > 400:
            long.append(f"{path}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                documented = ast.get_docstring(node) is not None and len(node.body) > 1
                lines = (node.end_lineno or 0) - node.body[1 if documented else 0].lineno + 1
                if lines > 40:
                    long.append(f"{path}:{node.lineno} {node.name}: {lines} lines below its docstring")
    assert long == []


def imports_of(path: Path, known: dict[str, Path]) -> set[Path]:
    """The project's files that a file imports, anywhere in it, for types included."""
    import ast

    found: set[Path] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in known else node.module for name in names]
        found |= {known[name] for name in names if name in known}
    return found - {path}


def test_no_files_import_one_another_in_a_circle() -> None:
    import graphlib

    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    known = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in files
    }
    graph = {path: imports_of(path, known) for path in files}
    assert sum(map(len, graph.values())) > 500
    try:
        tuple(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        raise AssertionError([str(path.relative_to(ROOT)) for path in error.args[1]]) from None
