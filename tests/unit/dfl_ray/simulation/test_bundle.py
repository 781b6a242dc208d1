"""A finished run as one archive, and the same run again."""

from __future__ import annotations

import json
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dfl_ray import run
from dfl_ray.cli import main
from dfl_ray.errors import InputError
from dfl_ray.records import load_run, loading
from dfl_ray.records.bundle import METADATA, foreign, open_bundle, write_bundle
from dfl_ray.simulation.replay import compare, replay_config
from tests.conftest import small_config
from tests.fake_run import Fake, write_fake_run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("bundle")
    path = run(small_config(folder, "name=one", "rounds=2", "runtime.backend=local")).path
    assert main(["bundle", str(path), "-o", str(folder / "one.zip")]) == 0
    return path, folder / "one.zip"


def test_a_replay_is_bit_for_bit_equal(made: Any, capsys: Any) -> None:
    assert main(["replay", str(made[1]), "--json"]) == 0
    said = capsys.readouterr().out
    assert "Replay: bit for bit equal" in said
    assert json.loads(said.splitlines()[-1])["verdict"] == "equal"


def test_the_metadata_is_a_crate_of_every_file(made: Any, tmp_path: Path) -> None:
    path, archive = made
    with zipfile.ZipFile(archive) as opened:
        names = set(opened.namelist())
        crate = json.loads(opened.read(METADATA))
    entries = {entry["@id"]: entry for entry in crate["@graph"]}
    assert crate["@context"] == "https://w3id.org/ro/crate/1.1/context"
    assert entries[METADATA]["about"] == {"@id": "./"} and entries["./"]["@type"] == "Dataset"
    parts = {part["@id"] for part in entries["./"]["hasPart"]}
    assert parts == names - {METADATA} == {n for n, e in entries.items() if e["@type"] == "File"}
    assert {"config.yaml", "run.json", "partition.parquet", "requirements.txt"} <= parts
    assert not any(name.startswith("checkpoints") for name in names)
    for entry in crate["@graph"]:  # every reference leads to an entity of the crate, or outside it
        for value in entry.values():
            for reference in value if isinstance(value, list) else [value]:
                if isinstance(reference, dict):
                    assert reference["@id"] in entries or reference["@id"].startswith("https://")
    write_bundle(path, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == archive.read_bytes()


def test_what_the_run_did_not_write_is_left_out_and_named(
    tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    path = write_fake_run(tmp_path, "one", Fake(devices=2, rounds=1, every=1))
    (path / "adapters/topic").mkdir(parents=True)
    own = ("log.txt", "report.html", "adapters/topic/adapter_model.safetensors")
    for name in (*own, "checkpoints/x", "heartbeat.json"):
        (path / name).write_text("{}")
    write_bundle(path, tmp_path / "alone.zip")
    assert foreign(path) == []
    others = ("tune/tuner.pkl", "000-s0/run.json", "000-s0/rounds.parquet/part-000000000-000000000.parquet",
              "loss.pdf", "rounds.parquet/x.pkl", "adapters/x.pkl", "adapters/topic/x.pkl", "topology/x/y")  # fmt: skip
    for name in others:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text("x")
    monkeypatch.setattr("dfl_ray.simulation.fingerprint.refuse_changed_config", lambda *_: None)
    monkeypatch.setattr("dfl_ray.simulation.resuming.own_config", lambda _: None)
    assert main(["bundle", str(path), "--json"]) == 0
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "alone.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as opened:
        names = opened.namelist()
    assert {*own, "config.yaml", "run.json", "topology/graph.graphml"} <= set(names)
    assert len([name for name in names if ".parquet/" in name]) >= 10
    said = capsys.readouterr().out.splitlines()
    left_out = ["000-s0/", "adapters/topic/x.pkl", "adapters/x.pkl", "loss.pdf", "rounds.parquet/x.pkl",
                "topology/x/", "tune/"]  # fmt: skip
    assert said[1].startswith("Left out") and said[1].endswith(", ".join(left_out))
    assert json.loads(said[-1])["left_out"] == left_out


def test_the_first_difference_is_named_and_judged(
    made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    was, now = load_run(open_bundle(made[1], tmp_path / "a")), load_run(open_bundle(made[1], tmp_path / "b"))
    assert compare(was, now).verdict == "equal"
    rounds = now.table("rounds")

    def changed(column: str, by: float) -> Any:
        table = rounds.copy()
        table.loc[1, column] += by
        other = load_run(tmp_path / "b")
        part = lambda first, last: table[table["round"].between(first, last)].reset_index(drop=True)  # noqa: E731
        other.__dict__["table"] = lambda name, *, rounds: (
            part(*rounds) if name == "rounds" else now.table(name, rounds=rounds)
        )
        return compare(was, other)

    whole = changed("train_loss", 0.5)
    monkeypatch.setattr(loading, "BLOCK_ROWS", 1)
    assert compare(was, now).verdict == "equal"
    close = changed("train_loss", 1e-5)
    assert close.verdict == "close" and close.first.startswith("rounds: round 2, train_loss")
    assert changed("train_loss", 0.5) == whole and whole.verdict == "different"
    assert changed("payload_bytes", 1).verdict == "different"
    assert changed("train_loss", float("nan")).verdict == "different"
    now.info["versions"]["torch"] = "0.1"
    now.info["fingerprint"]["rows"] = {}
    told = compare(was, now).circumstances
    assert "other rows" in told and any(line.startswith("torch 0.1 in place of") for line in told)


def test_what_is_damaged_unfinished_or_another_run_is_refused(made: Any, tmp_path: Path, capsys: Any) -> None:
    path, archive = made
    bad = tmp_path / "bad.zip"
    with zipfile.ZipFile(archive) as whole, zipfile.ZipFile(bad, "w") as out:
        for name in whole.namelist():
            out.writestr(name, whole.read(name) + (b"#" if name == "config.yaml" else b""))
    with pytest.raises(InputError, match=r"damaged.*config\.yaml"):
        open_bundle(bad, tmp_path / "x")
    (tmp_path / "text.zip").write_text("no zip")
    with pytest.raises(InputError, match="no archive of a run"):
        open_bundle(tmp_path / "text.zip", tmp_path / "x")
    assert not (tmp_path / "x").exists()
    assert (
        main(["replay", str(tmp_path / "none.zip")]) == 2
        and main(["bundle", str(path), "-o", str(archive)]) == 2
    )
    said = capsys.readouterr().err
    assert "There is no file" in said and "exists" in said
    with pytest.raises(InputError, match="A replay runs what was run"):
        replay_config(path, ["seed=1"], tmp_path)


def peak_mb(work: Callable[[], object]) -> float:
    """Largest memory that Python had for some work, in MB beyond what it had before."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_run(tmp_path: Path) -> None:
    path = write_fake_run(tmp_path, "one", Fake(devices=2, rounds=1, every=1))
    weights = path / "adapters/topic/adapter_model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(np.random.default_rng(0).bytes(1 << 20) * 48)
    write_bundle(path, tmp_path / "first.zip")  # what is imported and kept on the way is not the run's
    assert peak_mb(lambda: write_bundle(path, tmp_path / "one.zip")) < 12
    assert peak_mb(lambda: open_bundle(tmp_path / "one.zip", tmp_path / "open")) < 12
    assert (tmp_path / "open" / weights.relative_to(path)).read_bytes() == weights.read_bytes()
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "first.zip").read_bytes()


def test_bytes_that_cannot_be_unpacked_are_refused(made: Any, tmp_path: Path) -> None:
    whole = bytearray(made[1].read_bytes())
    with zipfile.ZipFile(made[1]) as archive:
        entry = archive.getinfo("config.yaml")
    begin = entry.header_offset + 30 + len(entry.filename)
    for place in (begin, begin + 1, begin + entry.compress_size // 2):
        bad = bytearray(whole)
        bad[place] ^= 0xFF
        (tmp_path / "bad.zip").write_bytes(bad)
        with pytest.raises(InputError, match="no archive of a run"):
            open_bundle(tmp_path / "bad.zip", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_replay_that_nobody_keeps_has_no_report(made: Any, tmp_path: Path) -> None:
    text = (made[0] / "config.yaml").read_text()
    assert "report: false" in text
    (tmp_path / "config.yaml").write_text(text.replace("report: false", "report: true"))
    assert replay_config(tmp_path, [], tmp_path).runtime.report
    assert not replay_config(tmp_path, [], tmp_path, report=False).runtime.report
    assert replay_config(tmp_path, ["runtime.report=true"], tmp_path, report=False).runtime.report


@pytest.mark.parametrize("name", ["x #1", "a: b", "[c", "~", "\N{HORSE} é"])
def test_a_replay_goes_into_the_folder_that_is_named_whatever_its_name(name: str, made: Any) -> None:
    assert replay_config(made[0], [], Path(name)).runtime.runs_dir == str(Path(name).expanduser())


def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    import hashlib

    entry = {"@id": "../out.txt", "@type": "File", "sha256": hashlib.sha256(b"x").hexdigest()}
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as out:
        out.writestr("../out.txt", b"x")
        out.writestr(METADATA, json.dumps({"@graph": [entry]}))
    with pytest.raises(InputError, match="damaged"):
        open_bundle(tmp_path / "evil.zip", tmp_path / "in" / "side")
    assert not (tmp_path / "in" / "out.txt").exists()


@pytest.mark.parametrize(
    ("noted", "told"),
    [
        ({}, []),
        ({"lengthened": [2], "ended_after": [2]}, ["ended after round 2 and was lengthened"]),
        ({"lengthened": [9]}, ["was to end after round 9 and was given other `rounds`"]),
        (
            {"lengthened": [2, 9], "ended_after": [2]},
            ["ended after round 2 and was lengthened", "was to end after round 9 and"],
        ),
        ({"early_ends": [1, 3]}, ["ended early, after round 1, 3, and was gone on with"]),
        ({"ended_early_after": 3}, ["ended after round 3 by its caller"]),
        (
            {"changes": ["after round 2: evaluate.every=2 in place of 1"]},
            ["after round 2: evaluate.every=2 in place"],
        ),
        ({"ended_early_after": 3, "stopped_by": "a goal"}, []),
    ],
)
def test_ends_that_a_run_would_not_have_in_one_go_are_told_beside_its_replay(
    noted: dict[str, Any], told: list[str], made: Any
) -> None:
    was, now = load_run(made[0]), load_run(made[0])
    was.info.update(noted)
    lines = compare(was, now).circumstances
    assert len(lines) == len(told) and all(part in line for part, line in zip(told, lines, strict=True))
