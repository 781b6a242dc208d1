"""What the machine gives: control groups of both versions, systems that lack a function, socket paths."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from dfl_ray.cli import main
from dfl_ray.packing import machine
from dfl_ray.records import load_run
from tests.conftest import SMALL_RUN

GB = 2**30


@pytest.fixture
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of eight CPUs and 64 GB, 40 of them free, without control groups; gives the mount to fill."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=40 * GB, total=64 * GB))
    monkeypatch.setattr(machine, "CGROUP_FILE", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "CGROUP_MOUNT", tmp_path / "mount")
    return tmp_path / "mount"


def group(mount: Path, line: str, folder: str, **files: str) -> None:
    """Put this process into a control group; `__` stands for the dot in a file's name."""
    with (mount.parent / "cgroup").open("a") as lines:
        lines.write(line + "\n")
    (mount / folder).mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (mount / folder / name.replace("__", ".")).write_text(text + "\n")


def test_without_limits_it_is_the_machine(plain):
    assert machine.usable_cpus() == 8
    assert machine.available_memory_bytes() == 40 * GB
    assert machine.total_memory_bytes() == 64 * GB


def test_a_process_may_be_bound_to_some_cpus(plain, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {1, 5, 6}, raising=False)
    assert machine.usable_cpus() == 3


def test_without_affinity_the_cpus_are_counted(plain, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert machine.usable_cpus() == 8
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.usable_cpus() == 1


@pytest.mark.parametrize(
    ("quota", "cpus"),
    [("200000 100000", 2), ("250000 100000", 2), ("50000 100000", 1), ("max 100000", 8), ("1600000 100000", 8),
     ("nonsense", 8)],
)  # fmt: skip
def test_a_quota_of_version_2_limits_the_cpus(plain, quota, cpus):
    group(plain, "0::/user/run", "user/run", cpu__max=quota)
    assert machine.usable_cpus() == cpus


def test_the_smallest_quota_of_all_parents_counts(plain):
    group(plain, "0::/user/run", "user/run", cpu__max="600000 100000")
    (plain / "user" / "cpu.max").write_text("300000 100000\n")
    assert machine.usable_cpus() == 3


@pytest.mark.parametrize("mounted_at", ["cpu", "cpu,cpuacct"])
@pytest.mark.parametrize(("quota", "cpus"), [("400000", 4), ("-1", 8)])
def test_a_quota_of_version_1_limits_the_cpus(plain, mounted_at, quota, cpus):
    files = {"cpu__cfs_quota_us": quota, "cpu__cfs_period_us": "100000"}
    group(plain, "4:cpu,cpuacct:/job", f"{mounted_at}/job", **files)
    assert machine.usable_cpus() == cpus


def test_a_container_finds_its_group_at_the_root_of_the_mount(plain):
    """Without a namespace of its own, it is told the host's path, which it cannot see."""
    (plain.parent / "cgroup").write_text("5:cpu:/docker/abc\n6:memory:/docker/abc\n")
    for controller in ("cpu", "memory"):
        (plain / controller).mkdir(parents=True)
    (plain / "cpu" / "cpu.cfs_quota_us").write_text("300000\n")
    (plain / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    (plain / "memory" / "memory.limit_in_bytes").write_text(f"{5 * GB}\n")
    (plain / "memory" / "memory.usage_in_bytes").write_text(f"{2 * GB}\n")
    assert machine.usable_cpus() == 3
    assert machine.available_memory_bytes() == 3 * GB


def test_memory_of_version_2_is_limit_minus_use_and_unused_pages_of_files_are_free(plain):
    stat = f"anon {4 * GB}\ninactive_file {GB}\nactive_file {GB}"
    group(plain, "0::/run", "run", memory__max=str(8 * GB), memory__current=str(6 * GB), memory__stat=stat)
    assert machine.available_memory_bytes() == 3 * GB
    assert machine.total_memory_bytes() == 8 * GB


def test_memory_of_version_1(plain):
    files = {"memory__limit_in_bytes": str(8 * GB), "memory__usage_in_bytes": str(6 * GB),
             "memory__stat": f"inactive_file 0\ntotal_inactive_file {2 * GB}"}  # fmt: skip
    group(plain, "9:memory:/run", "memory/run", **files)
    assert machine.available_memory_bytes() == 4 * GB


def test_no_limit_and_a_full_group(plain):
    group(plain, "0::/run", "run", memory__max="max", memory__current=str(6 * GB))
    assert machine.available_memory_bytes() == 40 * GB
    group(plain, "9:memory:/run", "memory/run", memory__limit_in_bytes="100", memory__usage_in_bytes="200")
    assert machine.available_memory_bytes() == 0


def test_peak_memory_has_one_unit_on_all_systems(monkeypatch):
    import resource

    monkeypatch.setattr(resource, "getrusage", lambda _who: SimpleNamespace(ru_maxrss=3000))
    monkeypatch.setattr(machine.sys, "platform", "linux")
    assert machine.peak_memory_bytes() == 3000 * 1024
    monkeypatch.setattr(machine.sys, "platform", "darwin")
    assert machine.peak_memory_bytes() == 3000


def test_gpus_are_those_of_the_driver_that_are_visible(monkeypatch):
    listed = {"/proc/driver/nvidia/gpus": ["0000:01:00.0", "0000:02:00.0", "0000:03:00.0"]}
    monkeypatch.setattr(machine.os, "listdir", lambda path: listed[path])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert machine.visible_gpus() == 3
    for chosen, count in (("0,2", 2), ("", 0), ("-1", 0), ("0,1,2,3,4", 3)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
        assert machine.visible_gpus() == count


def test_without_the_drivers_folder_nvidia_smi_is_asked(tmp_path, monkeypatch):
    def missing(_path: str) -> list[str]:
        raise FileNotFoundError

    monkeypatch.setattr(machine.os, "listdir", missing)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.visible_gpus() == 0
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: One (UUID: x)'\necho 'GPU 1: Two (UUID: y)'\necho other\n")
    program.chmod(0o755)
    assert machine.visible_gpus() == 2


@pytest.mark.parametrize("extra", [0, 1])
def test_the_longest_socket_path_is_the_systems(tmp_path, extra):
    """What is said to fit can be bound, one byte more cannot."""
    folder = tmp_path / "a"
    folder.mkdir()
    name = "s" * (machine.SOCKET_PATH_BYTES - len(os.fsencode(folder)) - 1 + extra)
    assert machine.fits_a_socket(str(folder), name) == (not extra)
    with socket.socket(socket.AF_UNIX) as found:
        if not extra:
            found.bind(str(folder / name))
            return
        with pytest.raises(OSError, match="AF_UNIX path too long"):
            found.bind(str(folder / name))


def test_a_short_folder_is_found_where_the_users_own_is_too_long(tmp_path, monkeypatch):
    short, long = tmp_path / "s", tmp_path / ("x" * 150)
    short.mkdir()
    long.mkdir()
    monkeypatch.setattr(machine.tempfile, "tempdir", str(short))
    assert machine.socket_folder("a/b") == str(short)
    monkeypatch.setattr(machine.tempfile, "tempdir", str(long))
    monkeypatch.setattr(machine, "SHORT_FOLDERS", (str(tmp_path / "missing"), str(short)))
    assert machine.socket_folder("a/b") == str(short)
    monkeypatch.setattr(machine, "SHORT_FOLDERS", ())
    assert machine.socket_folder("a/b") is None


@pytest.fixture
def bare_system(monkeypatch, tmp_path):
    """A system with nothing of Linux's own: no affinity, no control groups."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(machine, "CGROUP_FILE", tmp_path / "none")


@pytest.mark.parametrize("command", ["plan", "config"])
def test_the_first_commands_need_nothing_of_linux(bare_system, command, capsys):
    assert main([command, *SMALL_RUN]) == 0
    assert capsys.readouterr().out


def test_a_local_run_needs_nothing_of_linux(bare_system, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    words = ["name=bare", "runtime.backend=local", "rounds=1", f"runtime.runs_dir={tmp_path}"]
    assert main(["run", *SMALL_RUN, *words]) == 0
    assert load_run(tmp_path / "bare").info["host"]["cpus"] == 6
