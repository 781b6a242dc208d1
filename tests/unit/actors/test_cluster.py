"""What Ray is told of a machine that is not as it expects: a long TMPDIR, little or no /dev/shm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from actors import cluster
from actors.memory import own_memory
from dfl_ray.cli import main
from dfl_ray.errors import InputError
from dfl_ray.packing import machine
from tests.conftest import SMALL_RUN

GB = 2**30


@pytest.fixture
def usual(monkeypatch, tmp_path):
    """A Linux machine with 20 GB of memory and as much shared memory, and the usual temporary folder."""
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/tmp")
    monkeypatch.setattr(machine.tempfile, "tempdir", "/tmp")
    monkeypatch.setattr(cluster.sys, "platform", "linux")
    monkeypatch.setattr(machine, "total_memory_bytes", lambda: 20 * GB)
    monkeypatch.setattr(cluster.os, "statvfs", lambda _path: SimpleNamespace(f_bavail=20 * GB, f_frsize=1))


@pytest.fixture
def long(tmp_path):
    folder = tmp_path / ("x" * 150)
    folder.mkdir()
    return str(folder)


def test_usually_ray_keeps_its_own_settings(usual):
    assert cluster.session_settings() == ({"_temp_dir": "/tmp"}, [])


def test_a_store_is_as_large_as_asked_for_but_no_larger_than_the_memory(usual):
    assert cluster.session_settings(600.0)[0]["object_store_memory"] == 600 * 2**20
    assert cluster.session_settings(15000.0)[0]["object_store_memory"] == 15000 * 2**20
    with pytest.raises(InputError, match=r"runtime\.object_store_mb=1e\+06"):
        cluster.session_settings(1e6)


def test_a_small_store_fits_little_shared_memory(usual, monkeypatch):
    monkeypatch.setattr(cluster.os, "statvfs", lambda _path: SimpleNamespace(f_bavail=700, f_frsize=2**20))
    settings, notes = cluster.session_settings(600.0)
    assert "_plasma_directory" not in settings and not notes


@pytest.mark.parametrize("name", ["TMPDIR", "RAY_TMPDIR"])
def test_a_long_temporary_folder_moves_the_session(usual, long, monkeypatch, tmp_path, name):
    monkeypatch.setenv(name, long)
    monkeypatch.setattr(machine.tempfile, "tempdir", long)
    settings, notes = cluster.session_settings()
    assert settings == {"_temp_dir": "/tmp"}
    assert notes == [f"{name}={long} is too long a path for Ray's sockets; its session is in /tmp"]


def test_macos_ignores_tmpdir(usual, long, monkeypatch):
    """Ray does, too."""
    monkeypatch.setenv("TMPDIR", long)
    monkeypatch.setattr(machine.tempfile, "tempdir", long)
    monkeypatch.setattr(cluster.sys, "platform", "darwin")
    assert cluster.session_settings() == ({"_temp_dir": "/tmp"}, [])


def test_without_any_short_folder_the_run_is_refused_in_one_paragraph(usual, long, monkeypatch, capsys):
    monkeypatch.setenv("TMPDIR", long)
    monkeypatch.setattr(machine.tempfile, "tempdir", long)
    monkeypatch.setattr(machine, "SHORT_FOLDERS", ())
    with pytest.raises(InputError, match=r"TMPDIR has too long a path.*runtime\.backend=local"):
        cluster.session_settings()
    assert main(["run", *SMALL_RUN, f"runtime.runs_dir={long}"]) == 2
    err = capsys.readouterr().err
    assert f"TMPDIR={long}" in err and "Traceback" not in err


def test_little_shared_memory_is_told(usual, monkeypatch):
    monkeypatch.setattr(cluster.os, "statvfs", lambda _path: SimpleNamespace(f_bavail=64, f_frsize=2**20))
    settings, notes = cluster.session_settings()
    assert settings == {
        "_temp_dir": "/tmp", "object_store_memory": int(0.3 * 20 * GB), "_plasma_directory": "/tmp",
    }  # fmt: skip
    assert notes == ["/dev/shm has only 64 MB free; Ray's object store is a file in /tmp, which is slower"]


def test_no_shared_memory_is_told_and_other_systems_do_not_look_for_it(usual, monkeypatch):
    def missing(_path: str) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(cluster.os, "statvfs", missing)
    monkeypatch.setattr(machine, "total_memory_bytes", lambda: 100 * GB)
    settings, notes = cluster.session_settings()
    assert settings["object_store_memory"] == 10**10
    assert "/dev/shm does not exist" in notes[0]
    monkeypatch.setattr(cluster.sys, "platform", "darwin")
    assert cluster.session_settings() == ({"_temp_dir": "/tmp"}, [])


def test_own_memory_without_proportional_shares(monkeypatch):
    """macOS knows private pages only."""
    import psutil

    found = SimpleNamespace(rss=5, uss=3)
    monkeypatch.setattr(psutil, "Process", lambda: SimpleNamespace(memory_full_info=lambda: found))
    monkeypatch.setattr("actors.memory.sys.platform", "darwin")
    assert own_memory() == {"resident_bytes": 5, "proportional_bytes": 3, "private_bytes": 3}


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="only Linux tells shares")
def test_own_memory_grows_with_what_is_held():
    # In a process of its own: a long test run has freed pages that new memory would fill first.
    program = (
        "import json, os; from actors.memory import own_memory; before = own_memory(); "
        "held = bytearray(os.urandom(2**24)); print(json.dumps([before, own_memory()]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    before, after = json.loads(done.stdout)
    assert after["private_bytes"] - before["private_bytes"] > 0.9 * 2**24
    assert before["private_bytes"] <= before["proportional_bytes"] <= before["resident_bytes"]
