"""Methods beside the default one on RayBackend: the records of LocalBackend, whatever the packing."""

from __future__ import annotations

import pytest

from dfl_ray.records import load_run
from dfl_ray.simulation.launch import launch
from tests.conftest import small_config
from tests.records import assert_same_records

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_ray")]

SHORT = ("rounds=2", "evaluate.every=1")


def made(tmp_path, name, *overrides):
    return load_run(launch(small_config(tmp_path, f"name={name}", *SHORT, *overrides), json=True).folder)


@pytest.fixture(scope="module")
def central(tmp_path_factory):
    return made(tmp_path_factory.mktemp("central"), "local", "method=centralized", "runtime.backend=local")


@pytest.mark.parametrize("per_actor", ["2", pytest.param("4", marks=pytest.mark.exhaustive)])
def test_centralized_has_one_learner_wherever_it_is_hosted(central, tmp_path, per_actor):
    run = made(tmp_path, "ray", "method=centralized", f"runtime.devices_per_actor={per_actor}")
    assert_same_records(central, run, exact=False)
    assert run.rounds["payload_bytes"].sum() == 0
    assert set(run.evaluation.loc[run.evaluation["round"] > 0, "device"]) == {0}
    assert set(run.devices.loc[run.devices["loss"].notna(), "device"]) == {0}
    assert run.devices["actor"].nunique() == 4 // int(per_actor)


@pytest.mark.parametrize(
    "method",
    [
        "flora",
        "sparse_orthogonal method.rule=filter",
        pytest.param("dlora_per_task", marks=pytest.mark.exhaustive),
        pytest.param("choco", marks=pytest.mark.exhaustive),
        pytest.param("hetlora", marks=pytest.mark.exhaustive),
    ],
)
def test_methods_with_memory_of_their_own(tmp_path, method):
    """Public copies, a merged base, ranks that differ, sketches as they came."""
    words = f"method={method}".split()
    local = made(tmp_path, "local", *words, "runtime.backend=local")
    run = made(tmp_path, "ray", *words, "runtime.devices_per_actor=2")
    assert_same_records(local, run, exact=False)
    assert run.rounds["payload_bytes"].sum() > 0
    assert run.devices["actor"].nunique() == 2
