"""Whose a run folder is: its name, and the lock of who writes to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dfl_ray.errors import InputError
from dfl_ray.records import RunFolder, load_run


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path, "one", {"seed": 3, "method": {"type": "dlora"}})


def test_a_taken_name_is_refused_or_gets_a_suffix(folder: RunFolder):
    folder.close()
    with pytest.raises(InputError, match="resume"):
        RunFolder.create(folder.path.parent, "one", {})
    second = RunFolder.create(folder.path.parent, "one", {}, suffix_if_taken=True)
    third = RunFolder.create(folder.path.parent, "one", {}, suffix_if_taken=True)
    assert [second.path.name, third.path.name] == ["one-2", "one-3"]
    assert load_run(third.path).name == "one-3"


@pytest.mark.parametrize("name", ["", "..", "a/b"])
def test_a_name_that_is_no_folder_name_is_refused(tmp_path: Path, name: str):
    with pytest.raises(InputError, match="name"):
        RunFolder.create(tmp_path, name, {})


def test_an_existing_empty_folder_is_taken(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    assert RunFolder.create(tmp_path, "empty", {}).path == tmp_path / "empty"


def test_the_second_writer_is_refused_until_the_first_is_dead(folder: RunFolder):
    folder.close()
    code = (
        "import sys,time; from dfl_ray.records import RunFolder; f = RunFolder.open(sys.argv[1]); "
        "print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(folder.path)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match=f"process {holder.pid}"):
            RunFolder.open(folder.path)
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    RunFolder.open(folder.path).close()


def test_the_lock_is_not_taken_twice_in_one_process_and_can_be_given_back_twice(folder: RunFolder):
    with pytest.raises(InputError, match=f"process {os.getpid()}"):
        RunFolder.open(folder.path)
    folder.close()
    folder.close()
    RunFolder.open(folder.path).close()


def test_a_forked_child_neither_gives_the_lock_back_nor_keeps_it(tmp_path: Path):
    """The child outlives its parent, which is killed; before that it has dropped its copy of the lock."""
    code = """
import gc, os, sys, time
from dfl_ray.records import RunFolder
f = RunFolder.create(sys.argv[1], "forked", {})
if os.fork() == 0:
    f = None
    gc.collect()
    print(os.getpid(), flush=True)
    time.sleep(60)
    os._exit(0)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    child = 0
    try:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        with pytest.raises(InputError, match=f"process {parent.pid}"):
            RunFolder.open(tmp_path / "forked")
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        RunFolder.open(tmp_path / "forked").close()
    finally:
        parent.kill()
        if child:
            os.kill(child, signal.SIGKILL)


def test_without_locks_in_the_file_system_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import errno
    import fcntl

    def refuse(_descriptor: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    RunFolder.create(tmp_path, "unguarded", {}).close()
    assert load_run(tmp_path / "unguarded").last_round == 0
