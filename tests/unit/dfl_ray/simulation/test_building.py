from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from actors import pool
from dfl_ray.config.schema import RuntimeConfig
from dfl_ray.simulation import building
from dfl_ray.simulation.experiment import build_experiment
from dfl_ray.tracking.progress import QuietProgress
from tests.conftest import small_config


class Actors:
    """In place of a `RayBackend`; notes what is asked of it."""

    forked, actors = 1, 1

    def __init__(self, *_: Any) -> None:
        made.append(self)
        self.asked: list[str] = []

    def await_ready(self) -> None:
        self.asked.append("ready")

    def close(self) -> None:
        self.asked.append("close")


made: list[Actors] = []


@pytest.fixture
def on_ray(tmp_path, monkeypatch) -> Any:
    """An experiment on a Ray that is up, whose actors are `Actors`; a function that begins to make them."""
    made.clear()
    monkeypatch.setattr(pool, "RayBackend", Actors)
    monkeypatch.setattr(building, "choose_packing", lambda *_, **__: SimpleNamespace())
    monkeypatch.setattr(building, "in_words", lambda *_: "packed")
    monkeypatch.setattr("actors.cluster.nodes", list)
    experiment = build_experiment(small_config(tmp_path))

    def begin(address: str | None = None, **starting: Any) -> Any:
        parts = {"resources": dict, "why_no_forks": lambda: None, "services_lost": lambda: False}
        held = SimpleNamespace(**{**parts, "note_run": lambda _folder: None, **starting})
        runtime = RuntimeConfig(address=address)
        return building._actors(runtime, experiment, held, QuietProgress())

    return begin


def test_actors_are_being_made_before_the_folder_is_there_and_waited_for_then(on_ray, tmp_path):
    noted: list[Any] = []
    with on_ray(note_run=noted.append) as hosts:
        assert made[0].asked == [] and not noted
        hosts.note_run(tmp_path)
        assert noted == [tmp_path]
        assert hosts.ready() is made[0]
    assert made[0].asked == ["ready"] and len(made) == 1  # who asked for the backend closes it


def test_on_a_joined_cluster_they_wait_for_room_when_the_folder_is_there(on_ray):
    with on_ray("127.0.0.1:1") as hosts:
        assert not made
        hosts.ready()
    assert made[0].asked == ["ready"]


@pytest.mark.parametrize("lost", [False, True])
def test_actors_of_a_run_that_never_began_are_ended(on_ray, lost):
    with pytest.raises(LookupError), on_ray(services_lost=lambda: lost):
        raise LookupError  # the folder could not be made
    assert made[0].asked == ([] if lost else ["close"])


def test_an_error_is_told_though_the_actors_cannot_be_ended(on_ray, monkeypatch):
    def out_of_reach(_self: Actors) -> None:
        raise RuntimeError("lost connection")

    monkeypatch.setattr(Actors, "close", out_of_reach)
    with pytest.raises(LookupError), on_ray():
        raise LookupError


def test_a_run_that_goes_on_is_noted_and_checked_before_its_actors(tmp_path, monkeypatch):
    order: list[Any] = []
    held = SimpleNamespace(note_run=order.append, notes=[], prepare=lambda *_: order.append("weights"))
    monkeypatch.setattr("actors.cluster.Starting", lambda *_, **__: nullcontext(held))
    monkeypatch.setattr(building, "_actors", lambda *_: nullcontext(order.append("actors")))
    config = small_config(tmp_path, "runtime.backend=ray")
    with building.built(config, QuietProgress(), folder=tmp_path, check=order.append) as (experiment, _):
        assert order == [tmp_path, "weights", experiment, "actors"]


def test_weights_are_told_before_the_radio_is_built(tmp_path):
    told: list[str] = []

    def step(name: str) -> Any:
        told.append(name)
        return nullcontext()

    experiment = build_experiment(small_config(tmp_path), step, None, lambda w: told.append(w.config_json))
    assert told.index(experiment.setup.weights.config_json) == told.index("radio and topology") - 1
