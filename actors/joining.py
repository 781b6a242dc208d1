"""Joining a Ray cluster that is up: who may have this user's token, and what is said where it cannot be joined.

Ray starts clusters with token authentication and finds the token by itself where `auto` joins one. An address that is
given gets no token from it, unless RAY_AUTH_MODE says so, and Ray then asks in vain for ten seconds. Here the cluster
is asked first. One on this machine gets the token of this user, which never leaves the machine; one elsewhere gets it
only if RAY_AUTH_MODE=token says so, since an address may lead to a stranger.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actors.own_ray import handler_kept
from actors.session import job_config
from dfl_ray.errors import InputError, first_line

MODE = "RAY_AUTH_MODE"
"""Ray's variable that says whether tokens are asked for and sent."""
GET_CLUSTER_ID = "/ray.rpc.NodeInfoGcsService/GetClusterId"
"""The first thing that Ray asks of a cluster's control service; its request is empty."""
ANSWER_WAIT_S = 5.0
"""Longest wait for one answer of a cluster."""


def prepare_token(address: str) -> None:
    """See that somebody listens at host:port, and have Ray use this user's token where the cluster asks for one.

    Args:
        address: `runtime.address`; anything but host:port is left to Ray.

    Raises:
        InputError: Nobody listens, or the cluster asks for a token that is not there, is another, or may not be sent.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]") or "localhost"
    if not port.isdigit() or "/" in host:
        return
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_WAIT_S).close()
    except (OSError, UnicodeError, OverflowError) as error:  # the latter: no host's name, no port
        raise not_joined(address, str(error)) from error
    if MODE in os.environ or not _is_refused(host, int(port), None):
        return
    if not _is_here(host):
        raise _token_trouble(
            address,
            "it asks for a token and is another machine",
            f"Set {MODE}=token if that machine may have yours.",
        )
    token = own_token()
    if token is None:
        raise _token_trouble(
            address, "it asks for a token, and there is none", "Copy the cluster's token there."
        )
    if _is_refused(host, int(port), token):
        raise _token_trouble(
            address, "it does not take this user's token: it is somebody else's", "Copy its token."
        )
    os.environ[MODE] = "token"
    raylet: Any = sys.modules.get("ray._raylet")
    if raylet is not None:  # it has read the variable when it was imported
        raylet.Config.initialize("")


def join(address: str, settings: Mapping[str, Any]) -> None:
    """Join a cluster.

    Args:
        address: `runtime.address`.
        settings: Further arguments of `ray.init`.

    Raises:
        InputError: It cannot be joined.
    """
    prepare_token(address)
    import ray

    try:
        with handler_kept():
            ray.init(address=address, job_config=job_config(), **settings)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise not_joined(address, first_line(error)) from error


def own_token() -> str | None:
    """This user's token, from where Ray reads it: RAY_AUTH_TOKEN, the file RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token.

    Returns:
        The token; None where there is none.
    """
    if os.environ.get("RAY_AUTH_TOKEN"):
        return os.environ["RAY_AUTH_TOKEN"]
    path = os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token"
    try:
        return Path(path).read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def _is_refused(host: str, port: int, token: str | None) -> bool:
    """Whether a cluster's control service refuses whoever comes with that token; False where it cannot be told."""
    import grpc

    metadata = () if token is None else (("authorization", f"Bearer {token}"),)
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    # Without the proxy of the environment: Ray uses none either.
    with grpc.insecure_channel(place, options=(("grpc.enable_http_proxy", 0),)) as channel:
        ask = channel.unary_unary(GET_CLUSTER_ID, _as_is, _as_is)
        try:
            ask(b"", timeout=ANSWER_WAIT_S, metadata=metadata)
        except grpc.RpcError as error:
            return isinstance(error, grpc.Call) and error.code() == grpc.StatusCode.UNAUTHENTICATED
    return False


def _as_is(message: bytes) -> bytes:
    return message


def _is_here(host: str) -> bool:
    """Whether a host is this machine."""
    import psutil

    own = {a.address.split("%")[0] for addresses in psutil.net_if_addrs().values() for a in addresses}
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return all(ip in own or ip.startswith("127.") or ip == "::1" for ip in found)


def _token_trouble(address: str, trouble: str, change: str) -> InputError:
    return InputError(
        f"The Ray cluster at `runtime.address={address}` cannot be joined",
        got=trouble,
        expected="the token of `ray get-auth-token` on the cluster's head, in ~/.ray/auth_token",
        change=change,
    )


def not_joined(address: str, reason: str) -> InputError:
    """What is said of a cluster that cannot be joined.

    Args:
        address: `runtime.address`.
        reason: Why.

    Returns:
        The error, to be raised.
    """
    return InputError(
        f"No Ray cluster can be joined at `runtime.address={address}`",
        got=reason,
        expected="`auto` beside a running cluster, or host:port of its head",
        change="Start one with `ray start --head`, or leave `runtime.address` out to start one here.",
    )


def services_joined() -> tuple[str, str]:
    """Where the services of the cluster that was joined are: the raylet's socket, the control service's host:port."""
    import ray
    from ray._private.worker import global_worker

    node: Any = global_worker.node
    return str(node.raylet_socket_name), ray.get_runtime_context().gcs_address
