"""Who gets this user's Ray token, against a control service that asks for one."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from actors import joining
from dfl_ray.errors import InputError


class Head:
    """A head's control service: answers `GetClusterId`, to everybody or to those who have its token.

    Args:
        token: What it asks for; None for nothing.
    """

    def __init__(self, token: str | None) -> None:
        self.told: list[str | None] = []
        self._token = token
        self._server = grpc.server(ThreadPoolExecutor(1))
        method = grpc.unary_unary_rpc_method_handler(self._answer)
        handler = grpc.method_handlers_generic_handler("ray.rpc.NodeInfoGcsService", {"GetClusterId": method})
        self._server.add_generic_rpc_handlers((handler,))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def _answer(self, _request: bytes, context: grpc.ServicerContext) -> bytes:
        said = dict(context.invocation_metadata()).get("authorization")
        self.told.append(said if said is None else str(said))
        if self._token is not None and said != f"Bearer {self._token}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
        return b""

    def end(self) -> None:
        """Stop listening."""
        self._server.stop(None)


@pytest.fixture
def head() -> Iterator[Head]:
    found = Head("secret")
    yield found
    found.end()


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch, tmp_path) -> None:
    """A home without a token, and an environment that says nothing of one; what is set is undone."""
    for name in (joining.MODE, "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setitem(joining.sys.modules, "ray._raylet", None)


def keep_token(tmp_path, token: str) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text(token + "\n")


def test_a_cluster_on_this_machine_gets_this_users_token(head, tmp_path):
    keep_token(tmp_path, "secret")
    joining.prepare_token(head.address)
    assert os.environ[joining.MODE] == "token"
    assert head.told == [None, "Bearer secret"]


@pytest.mark.parametrize(("token", "trouble"), [(None, "there is none"), ("other", "somebody else's")])
def test_a_token_that_is_missing_or_another_is_told(head, tmp_path, token, trouble):
    if token is not None:
        keep_token(tmp_path, token)
    with pytest.raises(InputError, match=rf"{trouble}.*auth_token"):
        joining.prepare_token(head.address)
    assert joining.MODE not in os.environ


def test_another_machine_is_not_sent_the_token(head, tmp_path, monkeypatch):
    keep_token(tmp_path, "secret")
    monkeypatch.setattr(joining, "_is_here", lambda _host: False)
    with pytest.raises(InputError, match=r"another machine.*RAY_AUTH_MODE=token"):
        joining.prepare_token(head.address)
    assert head.told == [None]


def test_whoever_says_the_mode_is_left_alone(head, monkeypatch):
    monkeypatch.setenv(joining.MODE, "disabled")
    joining.prepare_token(head.address)
    assert os.environ[joining.MODE] == "disabled" and not head.told


@pytest.mark.parametrize(
    "address", ["foo..bar:6379", f"{'a' * 64}.org:6379", "127.0.0.1:99999999999999999999"]
)
def test_what_is_no_address_is_refused_with_its_key(address):
    with pytest.raises(InputError, match=r"`runtime\.address=.*host:port of its head"):
        joining.prepare_token(address)


@pytest.mark.parametrize("address", ["auto", "ray://somewhere:1", None])
def test_nothing_is_sent_where_nothing_asks_for_it(address, tmp_path):
    keep_token(tmp_path, "secret")
    open_to_all = Head(None)
    joining.prepare_token(address or open_to_all.address)
    assert joining.MODE not in os.environ
    assert open_to_all.told == [None] * (address is None)
    open_to_all.end()


def test_the_token_is_read_where_ray_reads_it(tmp_path, monkeypatch):
    assert joining.own_token() is None
    keep_token(tmp_path, "home")
    assert joining.own_token() == "home"
    (tmp_path / "elsewhere").write_text("file")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "elsewhere"))
    assert joining.own_token() == "file"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "word")
    assert joining.own_token() == "word"


def test_this_machine_is_known_by_all_its_names():
    assert (
        joining._is_here("localhost")
        and joining._is_here("127.0.0.9")
        and joining._is_here(socket.gethostname())
    )
    assert not joining._is_here("192.0.2.77") and not joining._is_here("no-such-host.invalid")
