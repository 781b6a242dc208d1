"""What movement refuses in the midst of a run."""

from __future__ import annotations

import pytest

from dfl_ray.errors import RunError
from dfl_ray.network.deployment import build_deployment, graph_for
from dfl_ray.network.movement import Movement
from tests.conftest import small_config


def test_parts_that_merge_beyond_what_fastest_weights_are_found_for_end_the_run_in_words(
    tmp_path, monkeypatch
):
    """Two groups of three meet after five seconds; fastest weights are held to four devices here."""
    monkeypatch.setattr("topology.fastest.MOST_DEVICES", 4)
    lines = ["device,t_s,x_m,y_m"]
    for device in range(6):
        x, y = 100 + device + 2500 * (device % 2), 10 + 15 * device
        lines += [f"{device},0,{x},{y}", f"{device},4,{x},{y}", f"{device},5,{100 + device},{y}"]
    path = tmp_path / "trace.csv"
    path.write_text("\n".join(lines) + "\n")
    config = small_config(
        tmp_path, "devices.count=6", "devices.area_m=[3000,100]", "devices.mobility=trace",
        f"devices.mobility.path={path}", "topology.mixing=fastest",
    )  # fmt: skip
    built = build_deployment(config, 3)
    movement = Movement(
        config, built.channel, built.topology, graph_for(config, built.topology), built.sketches
    )
    assert movement.advance(1.0, 1).parts == 2
    with pytest.raises(
        RunError, match=r"In round 2 no graph can be built .* up to 4 devices, got one of 6; choose"
    ):
        movement.advance(6.0, 2)
