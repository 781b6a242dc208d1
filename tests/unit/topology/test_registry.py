"""Registries: names, order, lazy import, and errors that name the nearest."""

import importlib.metadata
import subprocess
import sys

import pytest

from topology import registry
from topology.registry import FUNCTION, Registry, check_option_values, check_options, unknown_name
from topology.tables import GRAPHS, MIXINGS, MOBILITY, PARTITIONS, PLACEMENTS

TABLE: Registry = Registry("number", "dfl_ray.numbers", {"pi": "math:pi", "e": "math:e"})


def test_a_registry_is_a_mapping_in_its_own_order():
    assert list(TABLE) == ["pi", "e"] and len(TABLE) == 2
    assert TABLE["pi"] == pytest.approx(3.14159, abs=1e-5)
    assert "e" in TABLE and "i" not in TABLE and TABLE.get("i") is None


def test_an_unknown_name_is_told_with_the_nearest():
    with pytest.raises(
        ValueError, match=r"unknown number 'pie'; expected one of e, pi\. Did you mean 'pi'\?"
    ):
        TABLE["pie"]
    with pytest.raises(KeyError):
        TABLE["pie"]
    assert str(unknown_name("thing", "x", [])) == "unknown thing 'x'; expected one of none."


@pytest.mark.parametrize("table", [GRAPHS, PLACEMENTS, PARTITIONS, MOBILITY, MIXINGS], ids=lambda t: t.what)
def test_every_name_leads_to_something_callable(table):
    assert all(callable(table[name]) for name in table.own)


def test_own_names_win_over_installed_ones(monkeypatch):
    point = importlib.metadata.EntryPoint("pi", "math:tau", "dfl_ray.numbers")
    other = importlib.metadata.EntryPoint("tau", "math:tau", "dfl_ray.numbers")
    monkeypatch.setattr(registry, "installed", lambda group: {"pi": point, "tau": other})
    table = Registry("number", "dfl_ray.numbers", {"pi": "math:pi"}, ("builtins:float",))
    assert list(table) == ["pi", "tau"]
    assert table["pi"] == pytest.approx(3.14159, abs=1e-5) and table["tau"] == 2 * table["pi"]


@pytest.mark.parametrize(
    ("place", "kinds", "said"),
    [
        ("math:pi", (FUNCTION,), "but that is 3.14159.*; expected a function or class whose parameters"),
        ("builtins:dict", (FUNCTION,), "but that is the class dict; expected a function"),
        ("math:pi", ("fractions:Fraction", "builtins:tuple"), "expected a fractions.Fraction or a tuple"),
        ("math:nothing", (FUNCTION,), "cannot be imported: module 'math' has no attribute"),
        ("foreign_module:x", (FUNCTION,), "cannot be imported: RuntimeError: needs a GPU"),
    ],
)
def test_what_a_package_has_and_cannot_be_used_is_told(monkeypatch, tmp_path, place, kinds, said):
    (tmp_path / "foreign_module.py").write_text("raise RuntimeError('needs a GPU')")
    monkeypatch.syspath_prepend(tmp_path)
    point = importlib.metadata.EntryPoint("x", place, "dfl_ray.numbers")
    monkeypatch.setattr(registry, "installed", lambda group: {"x": point})
    table = Registry("number", "dfl_ray.numbers", {"pi": "math:pi"}, kinds)
    with pytest.raises(ValueError, match=said) as caught:
        table["x"]
    named = (
        f"number 'x' is named by an installed package as '{place}' (entry-point group dfl_ray.numbers) but"
    )
    assert str(caught.value).startswith(named)
    assert list(table) == ["pi", "x"] and list(table.usable()) == ["pi"]


def test_options_are_checked_against_the_signature():
    def build(inputs, *, order="tour", path):
        return inputs, order, path

    check_options("graph 'x'", build, ("inputs",), {"path": 1})
    with pytest.raises(ValueError, match=r"unknown option of graph 'x' 'odrer'.*Did you mean 'order'"):
        check_options("graph 'x'", build, ("inputs",), {"odrer": 1, "path": 1})
    with pytest.raises(ValueError, match="needs the option 'path'"):
        check_options("graph 'x'", build, ("inputs",), {})


def test_types_that_cannot_be_read_are_told():
    def build(inputs, *, size: "Missing" = 3):  # noqa: F821
        return inputs, size

    check_option_values("graph 'x'", build, {})
    with pytest.raises(
        ValueError, match=r"types of the options of graph 'x' cannot be read.*not under TYPE_CHECKING"
    ):
        check_option_values("graph 'x'", build, {"size": 1})


def test_reading_a_graphs_options_imports_neither_scipy_nor_networkx():
    program = (
        "import sys; from topology.tables import GRAPHS; [GRAPHS[name] for name in GRAPHS.own];"
        "print(sorted({'scipy', 'networkx'} & {name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
