"""Sections made from builders: every option of every graph, placement, partition and mobility model is a key."""

from __future__ import annotations

import inspect
import pickle
import subprocess
import sys
from typing import Annotated, Any

import pytest
from pydantic import BaseModel

from channels.registry import Within
from dfl_ray.config import variants
from dfl_ray.config.describe import describe
from dfl_ray.config.load import load_config
from dfl_ray.config.options import documented, section_of
from dfl_ray.errors import InputError
from topology.tables import GRAPHS, MOBILITY, PARTITIONS, PLACEMENTS

SECTIONS = {
    "graph": (GRAPHS, variants.topology_section, {"inputs"}),
    "placement": (PLACEMENTS, variants.placement_section, {"count", "area_m", "rng"}),
    "partition": (PARTITIONS, variants.partition_section, {"devices", "tasks", "rng", "names"}),
    "mobility model": (MOBILITY, variants.mobility_section, {"positions_m", "area_m", "rng"}),
}
ALL = [(kind, name) for kind, (table, _, _) in SECTIONS.items() for name in table.own]
NOT_FROM_YAML = {"features", "feature_devices"}


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_every_option_is_a_key_with_a_meaning_and_the_builders_default(kind: str, name: str) -> None:
    table, section_for, given = SECTIONS[kind]
    section = section_for(name)
    parameters = inspect.signature(table[name]).parameters
    options = set(parameters) - given - NOT_FROM_YAML
    assert options <= set(section.model_fields)
    for option in options:
        field = section.model_fields[option]
        assert field.description, f"{name}.{option} has no meaning"
        default = parameters[option].default
        assert field.is_required() if default is inspect.Parameter.empty else field.default == default


def other_value(field: Any, option: str) -> object:
    if option in ("by", "probability"):
        return {"by": "similarity", "probability": 0.4}[option]
    choices = [
        c for c in getattr(field.annotation, "__args__", ()) if isinstance(c, str) and c != field.default
    ]
    if choices:
        return choices[0]
    default = field.default
    if isinstance(default, bool):
        return not default
    if "path" in option:
        return "/some/file"
    if isinstance(default, tuple):
        return [1.5] * len(default)
    if isinstance(default, float):
        return round(default * 0.5 + 0.25, 3)
    return 4 if default is None or field.is_required() else default + 2


def changed(kind: str, name: str) -> tuple[str, dict[str, object]]:
    place, base = {
        "graph": ("topology", variants.TopologyConfig),
        "placement": ("devices.placement", variants.PlacementConfig),
        "partition": ("devices.partition", variants.PartitionConfig),
        "mobility model": ("devices.mobility", variants.MobilityConfig),
    }[kind]
    fields = SECTIONS[kind][1](name).model_fields
    return place, {o: other_value(f, o) for o, f in fields.items() if o not in base.model_fields}


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_every_option_goes_through_yaml_and_back(kind: str, name: str, tmp_path: Any) -> None:
    place, options = changed(kind, name)
    words = [f"{place}={name}", *(f"{place}.{option}={value}" for option, value in options.items())]
    words = [word.replace("=True", "=true").replace("=False", "=false") for word in words]
    config = load_config(None, ["tasks.names=null", "devices.count=100", *words])
    section = config
    for step in place.split("."):
        section = getattr(section, step)
    assert section.options() == {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    assert pickle.loads(pickle.dumps(config)) == config
    path = tmp_path / "again.yaml"
    path.write_text(describe(config), encoding="utf-8")
    assert load_config(path) == config


@pytest.mark.parametrize(
    ("topology", "keys"),
    [
        ("ring", {"order"}),
        ("grid", {"columns", "wrap"}),
        ("d_cliques", {"clique_size", "between", "far"}),
        ("k_nearest", {"degree"}),
        ("complete", set()),
    ],
)
def test_a_graph_has_its_own_keys_and_no_others(topology: str, keys: set[str]) -> None:
    assert set(load_config(None, [f"topology={topology}"]).topology.options()) == keys


def test_the_default_graph_takes_the_keys_it_always_took() -> None:
    config = load_config(None, ["topology.max_degree=3", "topology.min_gap=0.5", "topology.strict=true"])
    options = config.topology.options()
    assert (options["max_degree"], options["min_gap"], options["strict"]) == (3, 0.5, True)
    assert (options["airtime_weight"], options["energy_weight"], options["collision_weight"]) == (
        1.0,
        0.0,
        0.0,
    )


def test_short_names_of_keys_mean_the_full_ones(tmp_path: Any) -> None:
    short = load_config(
        None, ["devices.partition=dirichlet", "devices.dirichlet_alpha=2.0", "devices.min_holders=1"]
    )
    full = load_config(
        None, ["devices.partition={type: dirichlet, alpha: 2.0}", "devices.partition.min_holders=1"]
    )
    assert short == full
    path = tmp_path / "short.yaml"
    path.write_text("devices: {partition: one_each, min_holders: 1, placement: poisson}\n", encoding="utf-8")
    devices = load_config(path).devices
    assert (devices.partition.type, devices.placement.type) == ("one_each", "poisson")
    assert devices.partition.options() == {"min_holders": 1}


class Empty(BaseModel):
    """No keys of all."""

    shared: int = 0


def build(given: int, *, size: Annotated[int, Within(ge=2, le=5)] = 3, name: str | None = None) -> None:
    """Build something.

    Args:
        given: Not the user's.
        size: Number of
            things.
        name: None = unnamed.
    """


def test_a_signature_becomes_a_section() -> None:
    section = section_of("thing", "small", build, ("given",), Empty)
    assert list(section.model_fields) == ["shared", "type", "size", "name"]
    assert section.model_fields["size"].description == "number of things"
    assert section(size=5).model_dump() == {"shared": 0, "type": "small", "size": 5, "name": None}
    for wrong in ({"size": 6}, {"size": 1}, {"type": "large"}):
        with pytest.raises(ValueError):
            section(**wrong)


def test_a_builder_without_types_is_refused() -> None:
    def untyped(inputs, *, size=3):
        """Build something."""

    with pytest.raises(InputError, match="`size` of the thing `x` has no type"):
        section_of("thing", "x", untyped, ("inputs",), Empty)


def test_an_option_cannot_take_the_name_of_a_key_of_all() -> None:
    def clash(inputs: int, *, shared: int = 3) -> None:
        """Build something."""

    with pytest.raises(InputError, match="shared"):
        section_of("thing", "x", clash, ("inputs",), Empty)


def test_documented_reads_the_entries_of_one_heading() -> None:
    assert documented(build, "Args") == {
        "given": "not the user's", "size": "number of things", "name": "none = unnamed"
    }  # fmt: skip
    assert documented(build, "Attributes") == {}


def test_reading_a_configuration_imports_nothing_heavy() -> None:
    program = (
        "import sys; from dfl_ray.config.load import load_config; from dfl_ray.config.describe import describe;"
        "describe(load_config(None, ['method=dlora', 'topology=ring', 'devices.placement=hotspots']));"
        "print(sorted({'torch', 'transformers', 'ray', 'scipy', 'numba', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
