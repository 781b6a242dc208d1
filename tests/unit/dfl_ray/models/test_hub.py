"""A hub that can't be reached is told at once, and nothing is asked where the library knows better."""

from __future__ import annotations

import socket
import urllib.request
from pathlib import Path

import pytest
from huggingface_hub import constants

from dfl_ray.cli import main
from dfl_ray.errors import InputError
from dfl_ray.models.hub import check_hub


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A hub at a port of this machine where nobody listens, an empty cache, no proxy."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(urllib.request, "getproxies", dict)
    return address


def test_an_unknown_id_is_refused_with_the_key_that_names_it(unreachable: str, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"`model.name`: the model `a/b` is no folder here[\s\S]*127.0.0.1"
    ) as told:
        check_hub("a/b", asked_by="model.name")
    assert "hf download a/b" in str(told.value)
    with pytest.raises(InputError, match="--repo-type dataset"):
        check_hub("a/b", asked_by="tasks.templates.x.dataset", kind="dataset")
    check_hub(tmp_path, asked_by="model.name")
    check_hub(tmp_path / "not/there", asked_by="model.name")  # a path, which whoever reads it refuses


def test_what_is_cached_proxied_or_offline_is_left_to_the_library(
    unreachable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hub/models--a--b").mkdir(parents=True)
    check_hub("a/b", asked_by="model.name")
    check_hub("a/c", asked_by="x", kind="dataset", prepared=tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(urllib.request, "getproxies", lambda: {"http": "http://proxy"})
        check_hub("a/c", asked_by="model.name")
    with monkeypatch.context() as patched:
        patched.setattr(constants, "HF_HUB_OFFLINE", True)
        check_hub("a/c", asked_by="model.name")
    with pytest.raises(InputError):
        check_hub("a/c", asked_by="model.name")


def test_a_hub_that_listens_is_asked(unreachable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        check_hub("a/b", asked_by="model.name")


def test_the_command_line_says_it_in_one_line(unreachable: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "-q", "model.name=nobody/unknown-model", "rounds=1", "devices.count=9"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "can't be reached" in said.err
