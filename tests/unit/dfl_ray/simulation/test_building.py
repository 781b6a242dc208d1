from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from actors import pool
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
    chosen = SimpleNamespace(reason="", groups=((0,),), memory_mb=1.0)
    monkeypatch.setattr(building, "choose_packing", lambda *_, **__: chosen)
    monkeypatch.setattr(building, "in_words", lambda *_: "packed")
    monkeypatch.setattr("actors.cluster.nodes", list)
    config = small_config(tmp_path)
    experiment = build_experiment(config)

    def begin(**starting: Any) -> Any:
        parts = {"resources": dict, "why_no_forks": lambda: None, "services_lost": lambda: False}
        held = SimpleNamespace(**{**parts, "note_run": lambda _folder: None, **starting})
        return building._making_actors(config.runtime, experiment, held, QuietProgress())

    return begin


def test_actors_are_being_made_before_the_folder_is_there_and_waited_for_then(on_ray, tmp_path):
    noted = []
    with on_ray(note_run=noted.append) as make:
        assert made[0].asked == [] and not noted
        assert make(tmp_path) is made[0]
        assert made[0].asked == ["ready"] and noted == [tmp_path]
    assert made[0].asked == ["ready", "close"]


@pytest.mark.parametrize("lost", [False, True])
def test_actors_of_a_run_that_never_began_are_ended(on_ray, lost):
    with pytest.raises(LookupError), on_ray(services_lost=lambda: lost):
        raise LookupError  # the folder could not be made
    assert made[0].asked == ([] if lost else ["close"])


def test_weights_are_told_before_the_radio_is_built(tmp_path):
    told: list[str] = []

    def step(name: str) -> Any:
        told.append(name)
        return nullcontext()

    experiment = build_experiment(small_config(tmp_path), step, None, lambda w: told.append(w.config_json))
    assert told.index(experiment.setup.weights.config_json) == told.index("radio and topology") - 1
