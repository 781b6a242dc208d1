"""What does not come to its first round leaves no trace, and what is stopped is not called a failure."""

from __future__ import annotations

import json
from contextlib import contextmanager

import pytest

from dfl_ray.errors import InputError, RunError
from dfl_ray.records import checksums, load_run
from dfl_ray.simulation import driver, export
from dfl_ray.simulation import launch as launching
from dfl_ray.simulation.backend import LocalBackend
from dfl_ray.simulation.checkpoint import Checkpoint
from dfl_ray.simulation.launch import launch, resume
from dfl_ray.simulation.resuming import refuse_ended
from dfl_ray.simulation.round_loop import nobody_left
from dfl_ray.simulation.verify import verify
from tests.conftest import small_config
from tests.records import assert_same_records


def raising(error):
    def fail(*_arguments, **_more):
        raise error

    return fail


@pytest.fixture
def run(tmp_path):
    return launch(small_config(tmp_path, "name=one", "rounds=2", "runtime.backend=local"), json=True).folder


def test_a_resume_that_is_stopped_while_it_is_set_up_leaves_the_run_as_it_was(run, monkeypatch):
    whole = launching.built

    @contextmanager
    def stopped(*arguments, **more):
        with whole(*arguments, **more):
            raise KeyboardInterrupt
        yield

    before = {name: (run / name).read_bytes() for name in ("run.json", "config.yaml")}
    kept = ("log.txt", "heartbeat.json")
    told = {name: (run / name).read_bytes() for name in kept}
    refused = InputError("The rows differ", got="others")
    with monkeypatch.context() as other:
        other.setattr(launching, "refuse_changed_inputs", raising(refused))
        with pytest.raises(InputError, match="The rows differ"):
            resume(run, ["rounds=5"], json=True)
    assert {name: (run / name).read_bytes() for name in before | told} == before | told
    monkeypatch.setattr(launching, "built", stopped)
    with pytest.raises(KeyboardInterrupt):
        resume(run, ["rounds=5"], json=True)
    assert {name: (run / name).read_bytes() for name in before} == before
    monkeypatch.setattr(launching, "built", whole)
    resume(run, ["rounds=3"], json=True)
    info = load_run(run).info
    assert load_run(run).last_round == 3 and info["lengthened"] == [2] and info["ended_after"] == [2]
    resume(run, ["rounds=4"], json=True)
    assert load_run(run).info["lengthened"] == [2, 3]


@pytest.mark.parametrize(
    "error", [RunError("no copy"), OSError(28, "No space left on device"), KeyboardInterrupt()]
)
def test_a_run_that_fails_before_its_devices_are_made_says_so_and_can_be_gone_on_with(
    tmp_path, monkeypatch, error
):
    config = small_config(tmp_path, "name=one", "rounds=1", "runtime.backend=local")
    with monkeypatch.context() as broken:
        broken.setattr(launching, "fingerprint", raising(error))
        with pytest.raises(
            (RunError, KeyboardInterrupt), match="dfl-ray resume" if isinstance(error, OSError) else None
        ):
            launch(config, json=True)
    info = load_run(tmp_path / "one").info
    stopped = isinstance(error, KeyboardInterrupt)
    assert info["state"] == ("interrupted" if stopped else "failed")
    assert stopped or str(error) in info["failed_by"]
    assert load_run(resume(tmp_path / "one", json=True).folder).info["state"] == "done"


def test_adapters_half_written_when_a_run_is_killed_are_written_again(run, monkeypatch):
    """A lengthened run is killed between two of its adapters: it is no damage, and a resume writes all of them."""
    write, written = export.write_peft_folder, []

    def killed(*arguments, **more):
        if written:
            raise KeyboardInterrupt
        written.append(write(*arguments, **more))

    before = {path: path.read_bytes() for path in (run / "adapters").rglob("*.safetensors")}
    monkeypatch.setattr(export, "write_peft_folder", killed)
    with pytest.raises(KeyboardInterrupt):
        resume(run, ["rounds=3"], json=True)
    monkeypatch.undo()
    assert written and {path: path.read_bytes() for path in before} == before
    assert not _listed(run)
    resume(run, json=True)
    assert not any(path.read_bytes() == content for path, content in before.items())
    assert _listed(run) and not verify(run).problems and not (run / ".adapters.tmp").exists()


def _listed(run):
    """Files of the run's adapters that have a checksum."""
    return [name for name in checksums.read_listed(run) or {} if name.startswith("adapters/")]


def test_a_lengthened_run_killed_before_its_adapters_does_not_keep_those_of_its_first_end(run, monkeypatch):
    before = {path: path.read_bytes() for path in (run / "adapters").rglob("*.safetensors")}
    with monkeypatch.context() as killed:
        killed.setattr(driver.Driver, "save_adapters", raising(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            resume(run, ["rounds=3"], json=True)
    assert _listed(run) and load_run(run).info["adapters_after"] == 2
    resume(run, json=True)
    assert load_run(run).info["adapters_after"] == 3
    assert not any(path.read_bytes() == content for path, content in before.items())


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
@pytest.mark.parametrize("end", ["stop.joules=1e-9", "devices.battery_j=0.02", "caller"])
def test_a_run_that_ended_early_and_died_before_its_adapters_is_finished_as_if_it_had_not(
    tmp_path, monkeypatch, end, error
):
    words = ["rounds=9", "runtime.backend=local", *([] if end == "caller" else [end])]

    def ran(name):
        config = small_config(tmp_path, f"name={name}", *words)
        return launch(config, json=True, on_round_end=lambda folder: end == "caller").folder

    whole = load_run(ran("whole"))
    with monkeypatch.context() as killed:
        killed.setattr(export, "save_final_adapters", raising(error))
        with pytest.raises((KeyboardInterrupt, RunError)):
            ran("cut")
    assert not (tmp_path / "cut" / "adapters").exists()
    cut = load_run(resume(tmp_path / "cut", json=True).folder)
    assert_same_records(whole, cut, exact=True)
    ends = ("state", "ended_early_after", "stopped_by", "early_ends", "failed_by", "adapters_after")
    assert [cut.info.get(key) for key in ends] == [whole.info.get(key) for key in ends]
    assert whole.last_round < 9 and cut.info["state"] == "done" and _listed(cut.path)
    if end.startswith("devices"):
        with pytest.raises(InputError, match="cannot go on"):
            resume(cut.path, json=True)
    elif end.startswith("stop"):
        assert load_run(resume(cut.path, ["stop.joules=null", "rounds=3"], json=True).folder).last_round == 3


def test_a_tracker_that_is_not_there_is_missed_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("dfl_ray.tracking.guard.find_spec", lambda _module: None)
    config = small_config(
        tmp_path, "name=one", "rounds=1", "runtime.backend=local", "track.trackers=[trackio]"
    )
    with pytest.raises(InputError, match="trackio"):
        launch(config, json=True)
    assert not (tmp_path / "one").exists()


@pytest.mark.parametrize("gone", [True, False])
def test_an_end_that_was_not_saved_is_no_end(tmp_path, gone):
    """The checkpoint of the round in which nobody was left is the only one that is not gone on with."""
    config = small_config(tmp_path, "rounds=9")
    info = {"stopped_by": nobody_left(gone), "ended_early_after": 7}
    refuse_ended(tmp_path, info, Checkpoint(4, None, {"absent": [0]}), config)
    with pytest.raises(InputError, match="cannot go on: after round 7"):
        refuse_ended(tmp_path, info, Checkpoint(7, None, {"absent": [0]}), config)


def test_a_second_interrupt_is_no_failure(tmp_path, monkeypatch):
    def interrupted(_self, *_):
        raise KeyboardInterrupt

    monkeypatch.setattr(LocalBackend, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        launch(small_config(tmp_path, "name=one", "rounds=2", "runtime.backend=local"), json=True)
    info = json.loads((tmp_path / "one" / "run.json").read_text())
    assert info["state"] == "interrupted" and "failed_by" not in info


def test_trackers_have_a_last_round_that_comes_early_once_and_what_is_new_of_it(tmp_path, monkeypatch):
    told = []

    class Recorder:
        def start(self, *_):
            pass

        def log_round(self, row, extras=None):
            told.append(dict(row))

        def save_adapters(self, path):
            pass

        def finish(self, summary=None, *, failed=False):
            pass

    monkeypatch.setattr(launching, "make_tracker", lambda *_, **__: Recorder())
    config = small_config(tmp_path, "name=one", "rounds=9", "evaluate.every=5", "runtime.backend=local")
    launch(config, json=True, on_round_end=lambda _run: len(told) == 2)
    assert [row["round"] for row in told] == [1, 2, 2]
    assert "payload_bytes" in told[1] and not {"payload_bytes", "energy_j"} & set(told[2])
    assert told[2]["accuracy_mean"] is not None
