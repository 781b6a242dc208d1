"""Runs at a URL: the copy is the working folder, another machine goes on with it, and a store that fails is told."""

from __future__ import annotations

import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from dfl_ray import load_run, run
from dfl_ray.cli import main
from dfl_ray.config.load import load_config, resolved_yaml
from dfl_ray.errors import InputError, RunError
from dfl_ray.records import RunFolder
from dfl_ray.records.loading import comparable
from dfl_ray.records.remote import Mirror, fetched, is_remote, known_copy, runs_at, working_folder
from dfl_ray.records.schema import TABLES
from tests.conftest import small_config


def contents(folder: Path) -> dict[str, bytes]:
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {name: data for name, data in found.items() if name not in (".lock", "heartbeat.json", "log.txt")}


def same_records(one: Any, other: Any) -> None:
    for name in TABLES:
        assert comparable(one.table(name)).equals(comparable(other.table(name))), name


def check_runs(url: str, snapshot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run at a URL; its copy as a dying machine would leave it after round 3, gone on with on another machine."""
    words = [f"runtime.runs_dir={url}", "runtime.backend=local", "name=one", "evaluate.every=4"]
    config = small_config(tmp_path, *words)
    here, other = tmp_path / "here", tmp_path / "other"
    monkeypatch.setenv("XDG_CACHE_HOME", str(here))

    def watch(so_far: Any) -> None:
        if so_far.last_round == 4:  # before the checkpoint of round 4 is copied
            snapshot()

    whole = run(config, on_round_end=watch)
    assert whole.path == working_folder(url) / "one" and whole.path.is_relative_to(here)
    monkeypatch.setenv("XDG_CACHE_HOME", str(other))
    assert runs_at(url) == ["one"]
    read = load_run(f"{url}/one")
    assert read.path.is_relative_to(other) and not any((read.path / "checkpoints").iterdir())
    same_records(whole, read)
    assert contents(fetched(f"{url}/one", whole=True)) == contents(whole.path)
    with pytest.raises(InputError, match="resume"):
        run(config)
    shutil.rmtree(other)

    dead = f"{url}-dead"
    begin = ["run", "--resume", "name=one", f"runtime.runs_dir={dead}", "-q"]
    assert main(begin) == 0
    same_records(whole, load_run(f"{dead}/one"))
    assert main(begin) == 0  # a batch queue may give the same words once more
    again = contents(fetched(f"{dead}/one", whole=True))
    assert {n for n in again if n.startswith("checkpoints/")} == {
        n for n in contents(whole.path) if n.startswith("checkpoints/")
    }


def test_a_run_at_a_file_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    store = tmp_path / "store/runs"

    def snapshot() -> None:
        shutil.copytree(store, tmp_path / "store/runs-dead")

    check_runs(store.as_uri(), snapshot, tmp_path, monkeypatch)
    assert "Resuming" not in capsys.readouterr().out  # it was told to be quiet
    url = f"{store.as_uri()}/one"
    assert main(["verify", url]) == 0 and "whole" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    assert main(["plot", url, "loss", "-o", "loss.json"]) == 0 and (tmp_path / "loss.json").is_file()
    assert main(["bundle", url]) == 0 and (tmp_path / "one.zip").is_file()
    capsys.readouterr()
    for words in (["status", store.as_uri()], ["dashboard", store.as_uri()]):
        assert main(words) == 2 and "copies of runs" in capsys.readouterr().err


def free_port() -> int:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A local S3 server with one bucket."""
    pytest.importorskip("s3fs", reason="s3fs is not installed: pip install 'dfl-ray[s3]'")
    server = shutil.which("moto_server")
    if server is None:
        pytest.skip("no moto_server in PATH: pip install 'moto[server]'")
    port = free_port()
    process = subprocess.Popen(
        [server, "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for name, value in (
            ("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}"), ("AWS_ACCESS_KEY_ID", "x"),
            ("AWS_SECRET_ACCESS_KEY", "x"), ("AWS_DEFAULT_REGION", "us-east-1"),
        ):  # fmt: skip
            monkeypatch.setenv(name, value)
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1)
                break
            except OSError:
                time.sleep(0.1)
        system = fsspec.filesystem("s3", skip_instance_cache=True)
        system.mkdir("bucket")
        yield system
    finally:
        process.terminate()
        process.wait()


@pytest.mark.exhaustive
def test_a_run_on_s3(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot() -> None:
        s3.invalidate_cache()
        for name in s3.find("bucket/runs"):
            s3.copy(name, name.replace("bucket/runs/", "bucket/runs-dead/"))

    check_runs("s3://bucket/runs", snapshot, tmp_path, monkeypatch)
    with pytest.raises(InputError, match="is not a run"):
        fetched("s3://bucket/runs/two")
    assert runs_at("s3://bucket/nothing") == []


def test_the_copy_follows_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, folder = "memory://store/runs/one", tmp_path / "one"
    system = fsspec.filesystem("memory")
    written: list[str] = []
    put = type(system).put_file
    monkeypatch.setattr(
        type(system), "put_file", lambda self, a, b, **more: (written.append(b), put(self, a, b, **more))[1]
    )
    for name in (
        "run.json",
        "checksums.json",
        "checkpoints/round-1/manifest.json",
        "checkpoints/round-1/a",
        "t/1",
        ".lock",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    mirror = Mirror(folder, url)
    mirror.push()
    assert [name.split("/one/")[1] for name in written] == [
        "checkpoints/round-1/a", "t/1", "checkpoints/round-1/manifest.json", "run.json", "checksums.json",
    ]  # fmt: skip
    written.clear()
    (folder / "t/1").unlink()
    (folder / "t/2").write_text("x")
    mirror.push()
    assert [name.split("/one/")[1] for name in written] == ["t/2"]
    there = {name.split("/one/")[1] for name in system.find("/store/runs/one")}
    assert there == {
        "run.json",
        "checksums.json",
        "checkpoints/round-1/manifest.json",
        "checkpoints/round-1/a",
        "t/2",
    }
    # On another machine all is copied anew, and what only the copy has is dropped.
    (folder / "t/2").unlink()
    known_copy(folder, url).push()
    assert "t/2" not in {name.split("/one/")[1] for name in system.find("/store/runs/one")}

    def refuse(*_args: object, **_more: object) -> None:
        raise PermissionError("not yours")

    monkeypatch.setattr(type(system), "put_file", refuse)
    (folder / "t/3").write_text("y")
    with pytest.raises(RunError, match=r"PermissionError: not yours.*is whole"):
        mirror.push()
    monkeypatch.setattr(type(system), "put_file", put)
    mirror.push()
    assert "t/3" in {name.split("/one/")[1] for name in system.find("/store/runs/one")}


def test_places_that_cannot_be_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert is_remote("s3://b/runs") and not is_remote("runs") and not is_remote("/a/runs")
    assert working_folder("s3://b/runs/") == working_folder("s3://b/runs") != working_folder("s3://b/run")
    with pytest.raises(InputError, match="nosuch://"):
        load_run("nosuch://x/runs/one")
    with pytest.raises(InputError, match="is not a run"):
        load_run((tmp_path / "store").as_uri())
    system = fsspec.filesystem("memory")
    for name in ("run.json", "../../evil"):
        system.pipe_file(f"/bad/runs/one/{name}", b"{}")
    names = {n: {"size": 2} for n in ("/bad/runs/one/run.json", "/bad/runs/one/../../evil")}
    monkeypatch.setattr(type(system), "find", lambda *_a, **_k: names)
    with pytest.raises(InputError, match="leads out"):
        fetched("memory://bad/runs/one")
    assert not list(tmp_path.rglob("evil"))


def test_a_folder_newer_than_its_copy_is_not_fetched_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "here"))
    url = (tmp_path / "store").as_uri()
    made = RunFolder.create(working_folder(url), "one", resolved_yaml(load_config()))
    made.close()
    known_copy(made.path, f"{url}/one").push()
    assert load_run(f"{url}/one").info["state"] == "running" and not capsys.readouterr().err
    (made.path / "log.txt").write_text("a line behind the last copy")
    fetched(f"{url}/one")  # a log keeps nothing from being fetched
    assert not capsys.readouterr().err and not (made.path / "log.txt").exists()

    # From here on the copy fails: a checkpoint and a state are here alone.
    newest = made.path / "checkpoints/round-000010/manifest.json"
    newest.parent.mkdir()
    newest.write_text("{}")
    made.update_info(state="interrupted")
    for whole in (False, True):
        assert fetched(f"{url}/one", whole=whole) == made.path and newest.is_file()
        assert made.info["state"] == "interrupted" and "is newer than its copy" in capsys.readouterr().err
    known_copy(made.path, f"{url}/one").push()
    fetched(f"{url}/one", whole=True)
    assert newest.is_file() and not capsys.readouterr().err

    # Another machine goes on: what it has written is fetched, and its dropped checkpoints go with `whole` alone.
    (tmp_path / "store/one/checkpoints/round-000010/manifest.json").unlink()
    info = tmp_path / "store/one/run.json"
    info.write_text(info.read_text().replace("interrupted", "done"))
    assert load_run(f"{url}/one").info["state"] == "done" and newest.is_file()
    fetched(f"{url}/one", whole=True)
    assert not newest.exists()


def test_a_folder_of_which_nothing_is_known_or_that_is_half_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "here"))
    url, told = "memory://newer/runs/one", list[str]()
    system = fsspec.filesystem("memory")
    for name in ("run.json", "t/1"):
        system.pipe_file(f"/newer/runs/one/{name}", b"{}")
    folder = working_folder("memory://newer/runs") / "one"
    get = type(system).get_file

    def refuse(self: Any, there: str, here: str, **more: Any) -> None:
        if there.endswith("t/1"):
            raise TimeoutError("gone")
        get(self, there, here, **more)

    monkeypatch.setattr(type(system), "get_file", refuse)
    with pytest.raises(InputError, match="TimeoutError: gone"):
        fetched(url)
    monkeypatch.setattr(type(system), "get_file", get)
    fetched(url, say=told.append)  # what was half fetched is no work of this machine
    assert contents(folder) == {"run.json": b"{}", "t/1": b"{}"} and not told
    (folder.parent / ".one.copied.json").unlink()
    (folder / "t/2").write_text("x")
    fetched(url, say=told.append)
    assert (folder / "t/2").is_file() and "move the folder away" in told[0]
