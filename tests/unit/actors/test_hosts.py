"""The classes behind the actors, in this process: they give what the objects they host give."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from actors.channel import ChannelActor
from actors.device import DeviceActor
from channels.transfers import Transfers
from dfl_ray.devices.group import DeviceGroup
from dfl_ray.simulation.experiment import build_experiment
from tests.conftest import small_config


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    return build_experiment(small_config(tmp_path_factory.mktemp("hosts")))


def test_the_channel_actor_plans_what_the_channel_plans(experiment):
    actor, channel = ChannelActor(experiment.channel), experiment.channel.make()
    count = experiment.config.devices.count
    devices, nothing = np.arange(count), np.zeros(count)
    transfers = Transfers(devices, (devices + 1) % count, np.full(count, 1000), devices)
    before = actor.snapshot()
    found = actor.plan(1, transfers, nothing, nothing)
    wanted = channel.plan_round(1, transfers, ready_s=nothing, compute_energy_j=nothing)
    assert found.airtime_s > 0
    assert found.table.equals(wanted.table)
    actor.restore(before)
    assert actor.plan(1, transfers, nothing, nothing).table.equals(found.table)


def test_the_device_actor_trains_and_answers_as_its_group(experiment):
    devices = sorted(experiment.setup.held)
    actor, group = DeviceActor(experiment.setup, devices), DeviceGroup(experiment.setup, devices)
    before = [actor.snapshot(part) for part in actor.parts()]
    reports = [host.train(1)[0] for host in (actor, group)]
    np.testing.assert_array_equal(reports[0].loss, reports[1].loss)
    assert np.isfinite(reports[0].loss).all()
    answers = [host.evaluate(1, ["likelihood"], None) for host in (actor, group)]
    assert repr(replace(answers[0], busy_s=0.0)) == repr(replace(answers[1], busy_s=0.0))
    assert actor.full_sketches().keys() == group.full_sketches().keys()
    actor.restore(*before)
    np.testing.assert_array_equal(actor.train(1)[0].loss, reports[0].loss)
    assert actor.memory()["resident_bytes"] > 0
