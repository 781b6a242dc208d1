"""The web server of the dashboard: on 127.0.0.1 alone, GET alone, for a local Host alone."""

from __future__ import annotations

import gzip
import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dfl_ray.dashboard import pages
from dfl_ray.dashboard.ahead import Ahead
from dfl_ray.dashboard.figures import Figures
from dfl_ray.dashboard.library import ENDED, MOST_COMPARED, Library
from dfl_ray.errors import InputError
from dfl_ray.views.page import asset, figure_script, plotly_script
from dfl_ray.views.style import empty

ADDRESS = "127.0.0.1"
LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]", "::1")
"""Names by which a browser on this machine, or at the other end of a tunnel, calls the server. A page of a foreign name
that was made to point here (DNS rebinding) sends its own and is refused."""

LATER_S = 3.0
"""Seconds after its start in which the server loads nothing that a first page does without."""

HEADERS = {
    # plotly.js puts its style sheet into the page, hence the inline styles.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


class SafeHeaders:
    """Adds `HEADERS` to every answer.

    Args:
        app: The application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self._headers]
            await send(message)

        await self._app(scope, receive, send_with_headers)


def make_app(root: Path) -> Starlette:
    """Make the application.

    Args:
        root: Folder of runs, or one run.

    Returns:
        An ASGI application that writes nothing.
    """
    library = Library(root)
    figures, ahead = Figures(library), Ahead()
    routes = [
        Route("/", _page(lambda request: ("runs", pages.runs_page(library), {"list": "list"}))),
        Route("/run", _page(lambda request: _run(library, figures, ahead, request))),
        Route("/compare", _page(lambda request: _compare(library, figures, ahead, request))),
        Route("/device", _page(lambda request: _device(library, figures, ahead, request))),
        Route(
            "/tables",
            _answer(lambda request: HTMLResponse(pages.compared_tables(library, _several(request)))),
        ),
        Route("/list", _answer(lambda request: HTMLResponse(pages.runs_table(library)))),
        Route("/state", _answer(lambda request: _state(library, ahead, request))),
        Route("/figure", _answer(lambda request: _figure(figures, request))),
        Route("/asset/{name}", _answer(_asset)),
    ]
    return Starlette(
        routes=routes,
        middleware=[
            Middleware(SafeHeaders),
            Middleware(TrustedHostMiddleware, allowed_hosts=list(LOCAL_HOSTS), www_redirect=False),
            Middleware(GZipMiddleware, minimum_size=2_000, compresslevel=3),
        ],
    )


def _answer(make: Callable[[Request], Response]) -> Callable[[Request], Response]:
    """An endpoint; bad input is 404 with one sentence. Plain functions run in threads, so no page waits for another."""

    def endpoint(request: Request) -> Response:
        try:
            return make(request)
        except InputError as error:
            return Response(str(error), 404, media_type="text/plain; charset=utf-8")

    return endpoint


def _page(make: Callable[[Request], tuple[str, str, dict[str, str]]]) -> Callable[[Request], Response]:
    def endpoint(request: Request) -> Response:
        try:
            title, body, facts = make(request)
            code = 200
        except InputError as error:
            title, body, facts, code = "not to be shown", "".join(pages.problem_page(str(error))), {}, 404
        return HTMLResponse(pages.page(title, body, facts, version=_assets_version()), code)

    return endpoint


def _run(
    library: Library, figures: Figures, ahead: Ahead, request: Request
) -> tuple[str, str, dict[str, str]]:
    name = _one(request, "run")
    library.path(name)
    ahead.make(*(partial(figures.json, figure, [name]) for figure in pages.first_figures()))
    return name, pages.run_page(library, name), _live(library, name)


def _live(library: Library, name: str, device: int | None = None) -> dict[str, str]:
    """What the script is told; without a version where the tables of the run are still to be made."""
    tail = {} if device is None else {"device": str(device)}
    what = pages.RESULTS if device is None else pages.of_device(device)
    version = library.version(name) if library.kept_text([name], what) is not None else ""
    return {"run": name, "version": version, **tail}


def _compare(
    library: Library, figures: Figures, ahead: Ahead, request: Request
) -> tuple[str, str, dict[str, str]]:
    names = _several(request)
    firsts = (partial(figures.json, figure, names) for figure in pages.first_figures(several=True))
    ahead.make(partial(pages.compared_tables, library, names), *firsts)
    return f"{len(names)} runs", pages.compare_page(library, names), {}


def _several(request: Request) -> list[str]:
    names = list(dict.fromkeys(request.query_params.getlist("run")))
    if not 1 <= len(names) <= MOST_COMPARED:
        change = "Go back to the list and tick the runs."
        raise InputError(
            "Runs to compare", got=str(len(names)), expected=f"1 to {MOST_COMPARED}", change=change
        )
    return names


def _device(
    library: Library, figures: Figures, ahead: Ahead, request: Request
) -> tuple[str, str, dict[str, str]]:
    name, device = _one(request, "run"), _number(request, "device")
    count = pages.device_count(library.run(name))
    if device is None or device >= count:
        raise InputError(f"The run {name} has no such device", expected=f"0 to {count - 1}")
    firsts = (partial(figures.json, figure, [name], device=device) for figure in pages.first_device_figures())
    ahead.make(*firsts)
    return (
        f"device {device} of {name}",
        pages.device_page(library, name, device),
        _live(library, name, device),
    )


def _state(library: Library, ahead: Ahead, request: Request) -> Response:
    """What a run does now; its tables anew where the page has those of an earlier version."""
    name, device = _one(request, "run"), _number(request, "device")
    state, version = library.state(name), library.version(name)
    found: dict[str, object] = {
        "version": version,
        "status": pages.status_line(state),
        "ended": state.state in ENDED,
        "log": library.log_tail(name) if device is None else "",
    }
    if request.query_params.get("version") != version:
        ahead.settle()
        found["last_round"] = library.run(name).last_round
        found["live"] = (
            pages.results(library, name) if device is None else pages.device_tables(library, name, device)
        )
    return Response(json.dumps(found), media_type="application/json", headers={"cache-control": "no-store"})


def _figure(figures: Figures, request: Request) -> Response:
    names = request.query_params.getlist("run")
    if not 1 <= len(names) <= MOST_COMPARED:
        raise InputError("A figure shows runs", got=str(len(names)), expected=f"1 to {MOST_COMPARED}")
    name = _one(request, "name")
    text = figures.json(name, names, round=_number(request, "round"), device=_number(request, "device"))
    return Response(text, media_type="application/json", headers={"cache-control": "no-store"})


def _one(request: Request, key: str) -> str:
    return request.query_params.get(key, "")


def _number(request: Request, key: str) -> int | None:
    text = request.query_params.get(key)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise InputError(f"`{key}` is not a whole number", got=text[:20], expected="0 or more")
    return int(text)


@dataclass(frozen=True)
class Asset:
    """A script or style sheet, compressed once for all who ask."""

    text: bytes
    packed: bytes
    kind: str


@cache
def _assets() -> dict[str, Asset]:
    """Name -> script or style sheet; plotly.js is a copy of our own: nothing comes from the network."""
    texts = {
        "plotly.js": (plotly_script(), "text/javascript"),
        "figures.js": (figure_script(), "text/javascript"),
        "dashboard.js": (asset("dashboard.js"), "text/javascript"),
        "page.css": (asset("page.css") + asset("dashboard.css"), "text/css"),
    }
    return {
        name: Asset(text.encode(), gzip.compress(text.encode(), 6), kind)
        for name, (text, kind) in texts.items()
    }


@cache
def _assets_version() -> str:
    parts = b"".join(one.text for one in _assets().values())
    return hashlib.blake2b(parts, digest_size=6).hexdigest()


def _asset(request: Request) -> Response:
    found = _assets().get(request.path_params["name"])
    if found is None:
        raise InputError("There is no such file")
    headers = {"cache-control": "max-age=604800, immutable", "vary": "Accept-Encoding"}
    kind = f"{found.kind}; charset=utf-8"
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(found.packed, media_type=kind, headers={**headers, "content-encoding": "gzip"})
    return Response(found.text, media_type=kind, headers=headers)


def warm_up() -> None:
    """Do what the first page would wait for: compress the scripts, load the libraries that figures are drawn with.

    What only compared runs need, for their intervals, comes when a first page has been drawn.
    """
    _assets()
    str(empty("", "").to_json())
    time.sleep(LATER_S)
    import scipy.stats  # noqa: F401


def open_socket(port: int) -> socket.socket:
    """Take a port of this machine's own address and listen on it.

    Args:
        port: Its number; 0 takes a free one.

    Returns:
        The listening socket.

    Raises:
        InputError: The port is taken or not ours to take.
    """
    opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((ADDRESS, port))
        opened.listen(128)  # who asks before the server runs waits, and is not refused
    except OSError as error:
        opened.close()
        raise InputError(
            f"Port {port} of {ADDRESS} cannot be used",
            got=error.strerror or str(error),
            change="Give another one by `--port N`; `--port 0` takes a free one.",
        ) from error
    return opened


def serve(root: Path, opened: socket.socket) -> None:
    """Serve the dashboard until the process is interrupted.

    Args:
        root: Folder of runs, or one run.
        opened: Where to listen, as of `open_socket`.
    """
    import contextlib

    import uvicorn

    settings = uvicorn.Config(
        make_app(root),
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=2,
    )
    threading.Thread(target=warm_up, daemon=True, name="warm-up").start()
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(settings).run(sockets=[opened])
