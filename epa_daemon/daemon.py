# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The daemon's life: start, and serve until told to stop."""

import asyncio
import logging
import os
import resource
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from epa_daemon import listener, lost_folder, opening, pools, preflight, state_folder, takeover
from epa_daemon.committer import Committer
from epa_daemon.engine import Engine
from epa_daemon.errors import CannotStart
from epa_daemon.host import HostReader
from epa_daemon.keeper import Keeper
from epa_daemon.ledger import Ledger
from epa_daemon.observer import Observer
from epa_daemon.options import Options, OptionsFile, Prefer
from epa_daemon.ovs import Ovs
from epa_daemon.server import MAX_CONNECTIONS, Server
from epa_daemon.settings import Settings
from epa_daemon.store import Store

logger = logging.getLogger(__name__)

_GRACE_SECONDS = 5.0
# Connections, and what the process itself needs.
_DESCRIPTORS = MAX_CONNECTIONS + 128


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        CannotStart: with the reason, in one line; nothing was changed, but that a socket that was
            left by a killed daemon is gone.
    """
    try:
        _run(settings)
    except state_folder.DaemonRunning:
        raise  # It may be about to put its own socket there.
    except CannotStart:
        listener.discard_stale(settings.socket)
        raise


def _run(settings: Settings) -> None:
    preflight.check_folders(settings)
    lost_folder.refuse(settings.state, settings.socket)
    opened = opening.open_folder(settings.state)
    try:
        # Before the import: the older daemon may still be running on the file.
        listener.check(settings.socket)
        # With the state in hand: whoever changes the file now knows to tell the daemon too.
        options = settings.options.kept()
        prefer = options.takeover_prefer
        ledger = takeover.run(settings.data, settings.state, opened, opened.load(), prefer)
        _forget_preference(settings.options, options)
        asyncio.run(_serve(settings, options, opened, ledger))
    except CannotStart:
        raise
    except Exception as error:
        _abort({"message": "the daemon failed", "exception": error})
    finally:
        opened.close()


def _forget_preference(file: OptionsFile, options: Options) -> None:
    """An operator's word is for the contradiction that was seen, not for a later one."""
    if options.takeover_prefer and file.path:
        file.keep(replace(options, takeover_prefer=None))


async def _serve(settings: Settings, options: Options, opened: Store, ledger: Ledger) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: _abort(context))
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    _allow_descriptors()
    rules = options.rules(pools.configured(options.cpu_pool))
    observer = Observer(HostReader(settings.root), rules)
    committer = Committer()
    ovs = None
    if settings.root == Path("/"):
        keeper = Keeper(opened.masks, ledger.owned)
        ovs = Ovs(keeper, committer, observer, settings.ovs_switch)
    engine = Engine(opened, ledger, observer, settings, committer, options.access, ovs)
    engine.start()
    if ovs:
        ovs.start()
    with listener.listening(settings.socket) as listening:
        server = Server(listening, engine.submit)
        server.start()
        logger.info("listening on %s, state in %s", settings.socket, settings.state)
        _notify("READY=1")
        await stopping.wait()
        logger.info("stopping")
        _notify("STOPPING=1")
        server.stop()
    await _drain(engine, server)
    if ovs:
        await ovs.stop(_GRACE_SECONDS)


async def _drain(engine: Engine, server: Server) -> None:
    """Finish what is under way, within bounds: a disk that hangs must not keep us for ever."""
    deadline = time.monotonic() + _GRACE_SECONDS
    while (engine.busy or server.connections) and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    if engine.busy:
        logger.error(
            "what the thread that commits is doing did not end within %.0f s; what a commit would "
            "have granted was not acknowledged",
            _GRACE_SECONDS,
        )
        logging.shutdown()
        os._exit(1)


def _abort(context: dict[str, Any]) -> NoReturn:
    """A bug outside any request: end at once and be restarted, rather than go on half broken.

    The service manager restarts after a signal (on-abnormal), not after a refusal to start.
    """
    logger.critical("%s", context.get("message"), exc_info=context.get("exception"))
    logging.shutdown()
    os.abort()


def _allow_descriptors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _notify(message: str) -> None:
    """Tell the service manager, where it asked to be told (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifier:
        try:
            notifier.sendto(message.encode(), address)
        except OSError as error:
            logger.warning("cannot notify the service manager at %s: %s", address, error)


def take_over(settings: Settings, prefer: Prefer) -> bool:
    """Import an old state that contradicts the ledger, by the operator's word; daemon stopped.

    Returns:
        Whether there was an old state.

    Raises:
        CannotStart: a daemon runs on the state or the socket, or the old state cannot be
            understood.
    """
    preflight.check_folders(settings)
    lost_folder.refuse(settings.state, settings.socket)
    opened = opening.open_folder(settings.state)
    try:
        listener.check(settings.socket)
        there = (settings.data / takeover.FILE_NAME).exists()
        takeover.run(settings.data, settings.state, opened, opened.load(), prefer)
    finally:
        opened.close()
    return there
