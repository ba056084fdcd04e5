"""``rankalloc serve``: the API, the dispatcher and, with the embedded broker, one supervised worker."""

from __future__ import annotations

import logging
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from types import FrameType
from typing import Any

import uvicorn

from allocator.base.access import is_loopback
from allocator.base.devices import check_device
from allocator.base.errors import Conflict, InvalidInput
from allocator.base.settings import Settings
from allocator.jobs.machine.dispatcher import Dispatcher
from allocator.jobs.machine.supervisor import Supervisor
from allocator.store import Store
from api.app import create_app

log = logging.getLogger(__name__)

_READY_WITHIN_S = 30.0
_DRAIN_S = 3
_SWITCH_S = 0.0005
"""The time that a thread may keep the interpreter while another waits for it; Python's own 5 ms is for programs that compute. A
read takes the interpreter some ten times (a thread's turn, a query's rows, a socket), so that a plan being solved beside it
would add 50 ms to its one.
"""


def run(
    settings: Settings,
    host: str,
    port: int,
    ready_callback: Callable[[str], None],
    *,
    dispatch: bool = True,
) -> None:
    """Serve until SIGINT or SIGTERM, then stop everything that was started.

    ``ready_callback`` gets the URL once ``/readyz`` answers; ``port`` 0 takes a free one. Without ``dispatch`` a process of
    its own must (``rankalloc dispatcher``): this one only stores what is to be published.

    Raises:
        InvalidInput: ``host`` is reachable from elsewhere, and nobody would have to log in, since no token was ever made;
            or the worker that runs beside would not find its device.
        SchemaMismatch: a database that somebody runs is at another revision.
        Conflict: the port is taken.
    """
    if settings.embedded_broker:
        check_device(settings, apart=True)
    settings.prepare_home()
    with closing(Store.open(settings, create=True)) as store:
        tokens_needed = store.tokens.any()
        if not tokens_needed:
            _refuse_open_bind(settings, host)
        with _listen(host, port) as listener:
            _serve(settings, listener, store, ready_callback, tokens_needed=tokens_needed, dispatch=dispatch)


def _serve(
    settings: Settings,
    listener: socket.socket,
    store: Store,
    ready_callback: Callable[[str], None],
    *,
    tokens_needed: bool,
    dispatch: bool,
) -> None:
    sys.setswitchinterval(_SWITCH_S)
    dispatcher = Dispatcher(store, settings) if dispatch else None
    supervisor = Supervisor(store, settings) if settings.embedded_broker else None
    beside: dict[str, Any] = {}
    if dispatcher is not None:
        beside = {"wake": dispatcher.wake, "dispatched_s_ago": dispatcher.looked_s_ago}
    app = create_app(settings, store=store, tokens_needed=tokens_needed, **beside)
    # What proxies say is read by the application itself, which has to know who connects.
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, proxy_headers=False, timeout_graceful_shutdown=_DRAIN_S
    )
    server = _Server(config)

    def stop(_signal: int, _frame: FrameType | None) -> None:
        app.state.services.stopping.set()
        server.should_exit = True

    with _signals(stop):
        if dispatcher is not None:
            dispatcher.start()
        if supervisor is not None:
            supervisor.start()
        announcement = (_url(listener) + settings.root_path, settings.allowed_hosts, ready_callback)
        threading.Thread(target=_announce, args=announcement, daemon=True).start()
        try:
            server.run(sockets=[listener])
        finally:
            if supervisor is not None:
                supervisor.stop()
            if dispatcher is not None:
                dispatcher.stop()


def _url(listener: socket.socket) -> str:
    """The service's address for this machine, also where it listens on all addresses."""
    host, port, *_ = listener.getsockname()
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Ours are handled in `run`: uvicorn's would raise them again afterwards and end the process too
        early.
        """
        yield


def _refuse_open_bind(settings: Settings, host: str) -> None:
    if settings.allow_unauthenticated_bind:
        return
    if not is_loopback(host):
        reason = (
            "nobody has to log in while no token has been made, so only this machine may connect. Make one first"
            " (`rankalloc tokens create --team default --name NAME --scope admin`), or use"
        )
        at = f"Refusing to listen on {host!r}"
        raise InvalidInput.of("host", host, "127.0.0.1, ::1 or localhost", reason, at=at)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol has to be named: asyncio sends small writes at once (TCP_NODELAY) only where it sees that it is TCP.
    # Otherwise an answer's body waits for its head to be acknowledged, which takes the other side 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise Conflict(
            f"Cannot listen on {host}:{port}: {error.strerror}. Choose another port; 0 takes a free one."
        ) from error
    return listener


@contextmanager
def _signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """``handler`` for SIGINT and SIGTERM while the block runs; nothing outside the main thread, which gets
    none.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)


def _announce(url: str, allowed_hosts: list[str], ready_callback: Callable[[str], None]) -> None:
    # An address that is no name of the service is refused like any foreign name.
    request = urllib.request.Request(f"{url}/readyz", headers={"Host": allowed_hosts[0]})  # noqa: S310 - our own http URL
    deadline = time.monotonic() + _READY_WITHIN_S
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(request, timeout=2):  # noqa: S310
                ready_callback(url)
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    log.error("%s did not become ready within %.0f s", url, _READY_WITHIN_S)
