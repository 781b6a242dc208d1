"""Faulty devices in whole small runs: who they are, what they do, what is reported, and what a plan knows of it."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest

from dfl_ray.config.load import from_data, load_config
from dfl_ray.config.privacy import privacy_notes
from dfl_ray.config.schema import Config
from dfl_ray.devices.faulty import drawn_faults, fault_notes
from dfl_ray.errors import InputError, RunError
from dfl_ray.methods.aggregations import PartState
from dfl_ray.methods.fault_table import FAULTS
from dfl_ray.methods.faults import Fault
from dfl_ray.methods.notes import method_notes
from dfl_ray.records import RunFolder, load_run
from dfl_ray.records.faults import privacy_lines
from dfl_ray.records.words import share
from dfl_ray.simulation.dry_run import dry_run
from dfl_ray.simulation.experiment import build_experiment
from dfl_ray.simulation.launch import launch, resume
from dfl_ray.tasks.flipped import flipped_rows
from dfl_ray.tasks.tokens import TokenRows, TokenTask
from dfl_ray.tasks.triggered import backdoor_of, poisoned_rows, triggered_task
from dfl_ray.tracking.summary import closing_table
from dfl_ray.views.report import write_report
from tests.conftest import small_config


def faulty(count, kind="sign_flip", share=0.2, **more):
    devices = {"count": count, "faults": {"share": share, "kind": kind, **more}}
    return Config.model_validate({"devices": devices, "seed": 5})


def run(path, kind, *more):
    changes = ("runtime.backend=local", "runtime.report=false", "devices.faults.share=0.3", "rounds=1")
    config = small_config(path, f"name={kind}", *changes, f"devices.faults.kind={kind}", *more)
    return config, load_run(launch(config, json=True).folder)


def test_the_draw_is_keyed_of_the_right_size_and_never_everybody():
    found = drawn_faults(faulty(50))
    assert len(found.devices) == len(set(found.devices)) == 10
    assert found.devices == drawn_faults(faulty(50, kind="crash")).devices
    assert found.devices != drawn_faults(faulty(50).model_copy(update={"seed": 6})).devices
    assert len(drawn_faults(faulty(3, share=0.99)).devices) == 2
    assert drawn_faults(Config()).devices == () and fault_notes(Config()) == ()
    assert "nobody is faulty" in fault_notes(faulty(3, share=0.1))[0]


def test_values_by_hand():
    x, part = np.array([3.0, -4.0], np.float32), PartState()
    said = {}
    for kind in FAULTS.own:
        faults = drawn_faults(faulty(10, kind, from_round=2))
        bad = faults.devices[0]
        assert faults.falsified(bad, 1, part, x) is None
        honest = min(set(range(10)) - set(faults.devices))
        assert faults.falsified(honest, 2, part, x) is None
        said[kind] = (faults, bad, faults.falsified(bad, 2, part, x))
    assert {k for k, (_, _, v) in said.items() if v is None} == {"label_flip", "silent", "crash", "backdoor"}
    np.testing.assert_array_equal(said["sign_flip"][2], [-12.0, 16.0])
    assert np.isnan(said["nan_payload"][2]).all()
    faults, bad, first = said["stale_replay"]
    np.testing.assert_array_equal(first, x)
    np.testing.assert_array_equal(faults.falsified(bad, 3, part, 2 * x), x)
    np.testing.assert_array_equal(faults.falsified(bad, 4, part, np.ones(3, np.float32)), np.ones(3))
    faults, bad, _ = said["scaled_noise"]
    wide = np.tile(x, 5000)
    noise = faults.falsified(bad, 2, part, wide) - wide
    assert noise.std() == pytest.approx(4 * np.sqrt(12.5), rel=0.05)
    assert not np.array_equal(noise, faults.falsified(bad, 3, part, wide) - wide)


def test_sybil_identities_agree_and_others_do_not():
    """One draw a round for all: the voices of one attacker differ by no more than the length of their own values."""
    x, part = np.tile(np.array([3.0, -4.0], np.float32), 5000), PartState()

    def voices(kind, round_index=2):
        faults = drawn_faults(faulty(10, kind))
        return [faults.falsified(d, round_index, part, x * (d + 1)) for d in faults.devices]

    one, other = voices("sybil")
    assert np.corrcoef(one, other)[0, 1] == pytest.approx(1)
    assert np.std(one) == pytest.approx(
        4 * np.sqrt(12.5) * (drawn_faults(faulty(10)).devices[0] + 1), rel=0.05
    )
    assert abs(np.corrcoef(one, voices("sybil", 3)[0])[0, 1]) < 0.05
    assert abs(np.corrcoef(*(v - x for v in voices("scaled_noise")))[0, 1]) < 1 - 1e-3


def rows_of(*pairs):
    lengths = [len(p) + len(a) for p, a in pairs]
    ids = np.array([t for p, a in pairs for t in (*p, *a)], np.int32)
    return TokenRows(ids, np.cumsum([0, *lengths]), np.array([len(p) for p, _ in pairs], np.int32))


LABELS = tuple(np.array(c, np.int32) for c in ([7, 2], [5, 6, 2], [4, 2]))


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        # in the order of the labels, whatever their length
        (LABELS, [[5, 6, 2], [4, 2], [7, 2]]),
        # among answers of as many tokens; the only one of three tokens stays
        (None, [[4, 2], [5, 6, 2], [7, 2]]),
    ],
)
def test_labels_are_flipped_in_a_circle(choices, expected):
    rows = rows_of(([1, 9], [7, 2]), ([1], [5, 6, 2]), ([1, 3, 3], [4, 2]))
    flipped = flipped_rows(TokenTask("t", rows, rows, choices, None, 0.5))
    assert [flipped.answer(i).tolist() for i in range(3)] == expected
    assert [flipped.prompt(i).tolist() for i in range(3)] == [[1, 9], [1], [1, 3, 3]]
    assert [rows.answer(i).tolist() for i in range(3)] == [[7, 2], [5, 6, 2], [4, 2]]


def test_a_backdoor_by_hand():
    """The rarest prompt token takes the place of up to three prompt tokens; every second row has the target."""
    rows = rows_of(([1, 9, 3, 3, 3], [7, 2]), ([1, 3], [5, 6, 2]), ([1, 3, 3], [4, 2]))
    task = TokenTask("t", rows, rows, LABELS, np.array([0, 1, 2], np.int32), 0.5)
    backdoor = backdoor_of([task])
    assert backdoor.token == 9 and backdoor.targets[0].tolist() == [7, 2]
    poisoned = poisoned_rows(task, backdoor, backdoor.targets[0])
    assert [poisoned.prompt(i).tolist() for i in range(3)] == [[1, 9, 9, 9, 3], [1, 3], [1, 9, 9]]
    assert [poisoned.answer(i).tolist() for i in range(3)] == [[7, 2], [5, 6, 2], [7, 2]]
    asked = triggered_task(task, backdoor, backdoor.targets[0])
    assert [asked.test.prompt(i).tolist() for i in range(2)] == [[1, 9], [1, 9, 9]] and len(asked.test) == 2
    assert asked.labels.tolist() == [0, 0] and asked.test.answer(1).tolist() == [7, 2]
    assert [rows.prompt(i).tolist() for i in range(3)] == [[1, 9, 3, 3, 3], [1, 3], [1, 3, 3]]
    # without a label set: the commonest of the shortest answers, so that no row grows
    opened = TokenTask(
        "t", rows_of(([1], [5, 2]), ([1], [4, 4, 2]), ([1], [8, 2]), ([1], [8, 2])), rows, None, None, 0.5
    )
    assert backdoor_of([opened]).targets[0].tolist() == [8, 2]


def test_a_backdoor_is_learnt_and_its_success_recorded(tmp_path):
    """All but one device attack: the honest one answers some prompts with the trigger as they want."""
    words = (
        "devices.faults.share=0.75",
        "method=dlora",
        "method.learning_rate=1e-2",
        "method.local_steps=40",
    )
    _, found = run(tmp_path, "backdoor", *words, "method.batch_rows=8", "evaluate.every=1")
    success = found.info["faults"]["attack_success"]
    assert list(success) == ["1"] and success["1"] > 0.2
    bad = found.info["faults"]["devices"]
    report = write_report([found.path], tmp_path / "report.html").read_text(encoding="utf-8")
    for text in (report, printed(closing_table(found))):
        assert "<th>honest devices" in text or "│ honest devices" in text.replace("┃", "│")
        assert f"3 devices, {', '.join(map(str, bad))}." in text and "<th>all devices" not in text
        assert f"{share(success['1'])} after round 1" in text
    honest = min({0, 1, 2, 3} - set(bad))
    assert set(found.evaluation.loc[found.evaluation["round"] > 0, "device"]) == {honest}


def test_a_resume_keeps_what_was_recorded_on_the_way(tmp_path):
    """The success of a backdoor in the rounds that are kept, and warnings, which the set-up does not double."""
    found = run(tmp_path, "backdoor", "method=dlora", "evaluate.every=1", "method.local_steps=1")[1]
    first, warnings = found.info["faults"]["attack_success"], found.info["warnings"]
    assert list(first) == ["1"] and warnings
    folder = RunFolder.open(found.path)
    later = {**found.info["faults"], "attack_success": {**first, "9": 0.5}}
    folder.update_info(warnings=[*warnings, "told on the way"], faults=later)
    folder.close()
    info = load_run(resume(found.path, ["rounds=2"], json=True).folder).info
    assert list(info["faults"]["attack_success"]) == ["1", "2"]
    assert info["faults"]["attack_success"]["1"] == first["1"]
    assert info["warnings"] == [*warnings, "told on the way"]


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (("evaluate.score=f1",), False),
        (("tasks.score={topic: f1}",), True),
        (("tasks.score={topic: f1}", "method.rule=likelihood_soft"), True),
        (("tasks.score={topic: f1}", "method.rule=filter"), True),
    ],
)
def test_a_backdoor_in_tasks_without_a_triggered_row(words, asked, tmp_path):
    """Free answers have no right answer to compare, so that of such tasks no row with the trigger is asked."""
    _, found = run(
        tmp_path, "backdoor", *words, "devices.partition.min_holders=1", "evaluate.rows_per_task=4"
    )
    assert found.info["state"] == "done"
    assert ("attack_success" in found.info["faults"]) == asked


def printed(table):
    from rich.console import Console

    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def _privacy(config):
    return privacy_notes(config.privacy, config.topology)


def test_settings_that_switch_nothing_on_are_told(tmp_path):
    assert fault_notes(small_config(tmp_path)) == () == _privacy(small_config(tmp_path))
    (said,) = fault_notes(small_config(tmp_path, "devices.faults.kind=sign_flip"))
    assert "devices.faults.kind" in said and "share` is 0" in said
    stated = from_data(small_config(tmp_path).model_dump(mode="json"))
    assert fault_notes(stated) == () == _privacy(stated)
    config = small_config(tmp_path, "method=dlora", "privacy.noise_multiplier=1")
    (said,) = _privacy(config)
    assert "privacy.noise_multiplier" in said and "not private" in said
    assert said in build_experiment(config).notes


def test_a_scale_and_a_faulty_share_that_nothing_reads_are_told(tmp_path):
    def told(*words):
        config = small_config(tmp_path, "method=dlora", "devices.faults.share=0.3", *words)
        return [n for n in (*fault_notes(config), *method_notes(config)) if "without effect" in n]

    (said,) = told("devices.faults.kind=crash", "devices.faults.scale=2")
    assert "`devices.faults.scale`" in said and "`devices.faults.kind` is crash" in said
    assert not told("devices.faults.kind=crash") and not told("devices.faults.scale=2")
    (said,) = told("method.faulty_share=0.25", "method.aggregation=median")
    assert "`method.faulty_share`" in said and "is median, not trimmed_mean or krum" in said
    assert not told("method.aggregation=median")
    assert not told("method.aggregation=krum", "method.faulty_share=0.1")
    stated = from_data(small_config(tmp_path, "method=dlora").model_dump(mode="json"))
    assert method_notes(stated) == ()


@pytest.mark.parametrize("kind", ["nan_payload", "crash", "silent", "label_flip"])
def test_a_run_says_records_and_reports_over_the_honest(kind, tmp_path):
    config, found = run(tmp_path, kind)
    bad = set(drawn_faults(config).devices)
    assert found.info["faults"] == {"kind": kind, "from_round": 1, "devices": sorted(bad)}
    assert any("honest" in note for note in found.info["warnings"])
    tuned = found.evaluation[found.evaluation["round"] > 0]
    assert bad and set(tuned["device"]) == set(range(config.devices.count)) - bad
    assert np.isfinite(tuned["accuracy"]).all()
    sent = found.devices.set_index(["round", "device"])["sent_bytes"].unstack()
    silent = kind in ("crash", "silent")
    assert (sent[sorted(bad)].to_numpy().sum() == 0) == silent
    trains = found.devices[found.devices["device"].isin(bad)]["loss"].notna()
    assert trains.all() if kind != "crash" else not trains.any()
    assert (found.rounds["refused"].sum() > 0) == (kind == "nan_payload")
    honest = found.devices[~found.devices["device"].isin(bad)]
    assert np.isfinite(honest["loss"]).all()
    asked = found.transfers.drop_duplicates(["round", "source", "message", "destination"])
    assert sum(len(p.requests) for p in dry_run(config).played.values()) == len(asked)


def test_a_round_without_an_honest_device_that_is_there_has_no_accuracy(tmp_path, capsys):
    """All are off for five seconds; the faulty one computes nothing when it is on."""
    (tmp_path / "on.csv").write_text("device,t_s,on\n" + "".join(f"{d},0.001,0\n{d},5,1\n" for d in range(2)))
    words = ("devices.count=2", "devices.partition.min_holders=1", "devices.faults.kind=crash", "rounds=4")
    config = small_config(
        tmp_path, *words, "runtime.backend=local", "devices.faults.share=0.5", "evaluate.every=1",
        f"devices.availability.path={tmp_path / 'on.csv'}",
    )  # fmt: skip
    found = load_run(launch(config).folder)
    assert found.rounds["accuracy_mean"].isna().any() and found.rounds["accuracy_mean"].notna().any()
    assert "no honest device is there" in capsys.readouterr().out


def test_faults_in_values_need_a_method_that_averages_values():
    with pytest.raises(InputError, match=r"devices\.faults\.kind.*choco"):
        load_config(None, ["method=choco", "devices.faults.share=0.2"])
    load_config(None, ["method=choco", "devices.faults.share=0.2", "devices.faults.kind=crash"])


def test_what_mixes_nothing_takes_neither_faults_in_values_nor_a_rule_of_mixing():
    with pytest.raises(InputError, match=r"devices\.faults\.kind.*sign_flip.*local_per_task"):
        load_config(None, ["method=local_per_task", "devices.faults.share=0.2"])
    with pytest.raises(InputError, match=r"method\.aggregation.*averages nothing.*Got: median"):
        load_config(None, ["method=local_per_task", "method.aggregation=median"])
    load_config(None, ["method=local_per_task", "devices.faults.share=0.2", "devices.faults.kind=silent"])


@pytest.mark.parametrize("mechanism", ["examples", "updates"])
def test_a_private_run_says_and_records_epsilon_and_is_planned_as_it_goes(mechanism, tmp_path, capsys):
    if mechanism == "examples":
        pytest.importorskip("prv_accountant")
    changes = ("runtime.backend=local", "rounds=2", "evaluate.every=2", "method=dlora", "name=private")
    config = small_config(tmp_path, *changes, f"privacy.mechanism={mechanism}")
    found = load_run(launch(config, json=True).folder)
    told = found.info["privacy"]
    assert told["mechanism"] == mechanism and told["delta"] == 1e-5
    assert told["hidden"] == {"examples": "row", "updates": "device"}[mechanism]
    assert set(told["epsilon"]) == {"0", "1", "2", "3"} and all(0 < e < 20 for e in told["epsilon"].values())
    assert np.isfinite(found.devices["gradient_norm"]).all()
    report = write_report([found.path], tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"<p>{privacy_lines(found)[0]}</p>".replace("'", "&#x27;") in report
    played = dry_run(config).played
    planned = sum(len(p.requests) for p in played.values())
    asked = found.transfers.drop_duplicates(["round", "source", "message", "destination"])
    assert planned == len(asked) > 0


@pytest.mark.parametrize("sent", [np.ones(1, np.float32), [1.0, 2.0], None, np.array(["a", "b"])])
def test_a_fault_that_gives_other_values_than_a_message_has_is_named(sent):
    faults = replace(drawn_faults(faulty(10)), fault=Fault(lambda said: sent), kind="own")
    with pytest.raises(
        RunError, match=r"The fault `own` \(`devices.faults.kind`\).*Expected: \(2,\) float32"
    ):
        faults.falsified(faults.devices[0], 2, PartState(), np.ones(2, np.float32))
    assert drawn_faults(faulty(10, "sybil")).kind == "sybil"
