"""The documentation's examples run, and its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


EXAMPLE = ROOT / "tests" / "plugin_example"
RECIPES = re.findall(
    r"^`([\w/]+\.(?:py|toml))`:\n\n```\w+\n(.*?)```",
    (ROOT / "docs/extending.md").read_text(),
    re.DOTALL | re.MULTILINE,
)


@pytest.mark.parametrize(("name", "text"), RECIPES, ids=lambda value: value if len(value) < 40 else "text")
def test_a_recipe_is_the_file_that_is_run(name, text):
    # tests/unit/test_plugins.py installs and runs these files.
    assert text == (EXAMPLE / name).read_text()


def test_every_file_of_the_example_package_is_a_recipe():
    files = {
        path.relative_to(EXAMPLE).as_posix() for path in EXAMPLE.rglob("*") if path.suffix in (".py", ".toml")
    }
    assert {name for name, _ in RECIPES} == files - {"dfl_example/__init__.py"}


def test_every_group_of_entry_points_is_on_the_page():
    from channels.tables import DEVICE_MIXES, PATH_LOSS, SCHEDULERS
    from dfl_ray.experts.table import RULES
    from dfl_ray.methods.aggregation_table import AGGREGATIONS
    from dfl_ray.methods.fault_table import FAULTS
    from dfl_ray.methods.table import METHODS
    from dfl_ray.tasks.sources import TASK_SOURCES
    from dfl_ray.tracking.table import TRACKERS
    from topology.tables import GRAPHS, MIXINGS, MOBILITY, PARTITIONS, PLACEMENTS

    tables = (
        DEVICE_MIXES, PATH_LOSS, SCHEDULERS, RULES, METHODS, TASK_SOURCES, TRACKERS, GRAPHS, MIXINGS, MOBILITY,
        PARTITIONS, PLACEMENTS, AGGREGATIONS, FAULTS,
    )  # fmt: skip
    named = set(re.findall(r"`(dfl_ray\.\w+)` \|", (ROOT / "docs/extending.md").read_text()))
    assert named == {table.group for table in tables}


def test_the_path_loss_recipe_is_the_standards_formula():
    from channels.pathloss import path_loss_db

    scope: dict = {}
    exec(dict(RECIPES)["dfl_example/warehouse.py"], scope)
    expected = 31.84 + 21.5 * 2 + 19 * np.log10(3.5)
    assert path_loss_db(scope["warehouse"](), 100.0, 3.5e9) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_named_in_the_documentation_exist(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    named = re.findall(
        r"`((?:dfl_ray|actors|topology|channels|tests|docs|benchmarks)/[\w./-]+\.(?:py|md|json))`", text
    )
    linked = [x for x in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in x]
    missing = [x for x in named if not (ROOT / x).exists()]
    missing += [x for x in linked if not (page.parent / x).exists()]
    assert not missing


def test_who_uses_task_labels_is_told_as_the_registry_has_it():
    from dfl_ray.methods.table import METHODS

    told = []
    for page in PAGES:
        for table in re.findall(r"(?m)^\| *(?:method)? *\| task labels.*\n((?:\|.*\n)+)", page.read_text()):
            for line in table.splitlines()[1:]:
                name = re.match(r"\w*", line.split("|")[1].strip(" `*"))[0]
                if name in METHODS:
                    told.append((name, line.split("|")[2].strip()))
    assert len(told) > 50
    assert {(n, x) for n, x in told} == {(n, "yes" if METHODS[n].spec.task_labels else "no") for n, _ in told}


def test_the_verdicts_on_papers_are_counted_right():
    page = (ROOT / "docs/papers.md").read_text()
    verdicts = re.findall(r"\| (held|not held|open) \|$", page, re.MULTILINE)
    number = {"Three": 3, "Four": 4, "Five": 5, "Six": 6, "three": 3, "four": 4, "five": 5, "six": 6}
    held, refuted, left = re.search(r"(\w+) held, (\w+) not, (\w+) open\.", page).groups()
    first = page.index("| claim | of |")
    table = verdicts[: page[first : page.index(f"{held} held")].count("\n| ")]
    assert [number[x] for x in (held, refuted, left)] == [
        table.count(x) for x in ("held", "not held", "open")
    ]
