"""YAML in and out, for any plain data."""

import math

from hypothesis import example, given, settings
from hypothesis import strategies as st

from dfl_ray.config.load import from_data, resolved_yaml
from dfl_ray.config.overrides import apply_overrides, parse_override
from dfl_ray.config.yamlio import dump, parse

TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=20) | st.sampled_from(
    [
        "no",
        "yes",
        "on",
        "5e-3",
        "1:30",
        "null",
        "~",
        "0x1",
        "2024-01-02",
        "010",
        "1_000",
        "=",
        "<<",
        "true",
        ".inf",
    ]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
DATA = st.recursive(
    SCALARS, lambda d: st.lists(d, max_size=4) | st.dictionaries(TEXT, d, max_size=4), max_leaves=12
)


def same(a: object, b: object) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or (isinstance(a, float) and math.isclose(a, b)))


@given(DATA)
@example({":0": [":1"]})
def test_what_is_dumped_is_read_back_with_its_types(data: object) -> None:
    assert same(parse(dump(data)), data)
    assert same(parse(dump(data, flow=True, width=10**6)), data)


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=3), SCALARS)
def test_an_override_sets_its_key_and_nothing_else(path: list[str], value: object) -> None:
    text = f"{'.'.join(path)}={dump(value, flow=True, width=10**6)}"
    assert same(parse_override(text)[1], value)
    data = apply_overrides({"x": {"y": 1}}, [text])
    assert data.pop("x") == {"y": 1}
    for name in path:
        (only,) = data
        assert only == name
        data = data[name]
    assert same(data, value)


@settings(max_examples=25)  # a whole configuration each
@given(
    st.integers(0, 2**31 - 1),
    st.floats(1e-9, 1e3),
    st.sampled_from(["sparse_orthogonal", "dlora"]),
    st.lists(TEXT, max_size=3),
    st.tuples(st.floats(0.1, 1e6), st.floats(0.1, 1e6)),
)
def test_a_resolved_configuration_loads_back_equal(seed, rate, method, tags, area) -> None:
    data = {
        "seed": seed,
        "method": {"type": method, "learning_rate": rate},
        "track": {"wandb": {"tags": tags}},
        "devices": {"area_m": list(area)},
    }
    config = from_data(data)
    assert from_data(parse(resolved_yaml(config))) == config
