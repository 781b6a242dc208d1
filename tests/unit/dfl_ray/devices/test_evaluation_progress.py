"""An evaluation tells how far it is over all its rules, and merges nothing that no row asks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dfl_ray.devices.group import DeviceGroup
from dfl_ray.simulation.experiment import build_experiment
from dfl_ray.wire.message import Kind, pack, unpack
from tests.conftest import small_config


def test_parts_are_counted_over_all_rules(tmp_path):
    config = small_config(
        tmp_path, "runtime.backend=local", "evaluate.rules=[oracle, average, sum]", "method.density=1"
    )
    group = DeviceGroup(build_experiment(config).setup, range(config.devices.count), None)
    group.train(1)
    told: list[tuple[int, int]] = []
    group.follow(lambda done, total: told.append((done, total)))
    group.evaluate(1, ["oracle", "average", "sum"], None)
    done, totals = [d for d, _ in told], {total for _, total in told}
    assert done == sorted(set(done)) and done[0] == 0
    assert len(totals) == 1
    rows = len(group._evaluator.scorer.rows[0])
    (total,) = totals
    # Devices have trained apart, so each has a whole of its own under the rules that merge: all rows of all tasks.
    wholes = config.devices.count * len(group.setup.tasks) * rows
    assert total >= 2 * wholes and done[-1] > total - rows * len(group.setup.tasks) - 1


def test_an_adapter_that_no_row_asks_is_not_made(tmp_path):
    config = small_config(tmp_path, "runtime.backend=local")
    group = DeviceGroup(build_experiment(config).setup, range(config.devices.count), None)
    group.evaluate(0, ["base"], None)
    scorer = group._evaluator.scorer
    nothing = {task: np.zeros(len(rows), bool) for task, rows in enumerate(scorer.rows)}

    def make(key):
        raise AssertionError(key)

    scores = scorer.score({"unasked": nothing}, make)["unasked"]
    assert not any(score.any() for score in scores.values())


def test_a_router_forgets_sketches_that_have_been_replaced(tmp_path):
    """While sketches spread every evaluation has hundreds of sets of them, and none comes back."""
    config = small_config(tmp_path, "runtime.backend=local", "evaluate.rules=[likelihood]")
    group = DeviceGroup(build_experiment(config).setup, range(config.devices.count), None)
    group.train(1)
    sizes = []
    for evaluation in range(4):
        for device in group.devices.values():
            for place, data in device.memory.updates.items():
                if place[0] == Kind.SKETCH:  # the same bytes, as if published in a later round
                    again = replace(unpack(data.tobytes()), version=10 + evaluation)
                    device.memory.updates[place] = np.frombuffer(pack(again), np.uint8)
        group.evaluate(1, ["likelihood"], None)
        sizes.append(len(group._evaluator.router._known))
    assert sizes[0] > 0 and sizes[-1] <= 2 * sizes[0]
