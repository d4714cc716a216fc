# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""What would keep a daemon from working, found out without changing anything."""

import os
import tempfile
from pathlib import Path

from epa_daemon import listener, lost_folder, opening, pools, state_folder, takeover
from epa_daemon.errors import CannotStart
from epa_daemon.host import HostReader
from epa_daemon.ledger import Ledger
from epa_daemon.options import Options
from epa_daemon.pools import GeneralPool
from epa_daemon.replies import Problem
from epa_daemon.settings import Settings


def check(settings: Settings) -> list[Problem]:
    """What would keep the daemon from working with these settings and this state.

    Looks at copies and changes nothing. Where a daemon runs on the state, only the settings are
    checked: the running daemon has proven that its state is good.
    """
    problems: list[Problem] = []
    ledger = Ledger()
    try:
        check_folders(settings)
        lost_folder.refuse(settings.state, settings.socket)
        ledger = stored_ledger(settings)
        listener.check(settings.socket)
    except CannotStart as error:
        running = isinstance(error, state_folder.DaemonRunning)
        if not running or isinstance(error, lost_folder.FolderLost):
            problems.append(Problem(code="cannot-start", text=str(error)))
    try:
        options = settings.options.kept()
        host = HostReader(settings.root).read()
        pools.validate(options.cpu_pool, host.topology.present, host.isolated, ledger)
    except CannotStart as error:
        problems.append(Problem(code="cannot-start", text=str(error)))
    except pools.PoolError as error:
        problems.append(Problem(code="invalid-cpu-pool", text=str(error)))
    return problems


def accept(settings: Settings, before: Options | None, options: Options) -> GeneralPool | None:
    """The general pool of new options, instead of those before, while no daemon runs.

    Raises:
        PoolError: the daemon would refuse it.
        CannotStart: the state, which has a say, cannot be read; `DaemonRunning` if a daemon has
            it, which is the one to ask then.
    """
    ledger = stored_ledger(settings)
    host = HostReader(settings.root).read()
    current = pools.configured(before.cpu_pool) if before else None
    return pools.accept(options.cpu_pool, current, host.topology.present, host.isolated, ledger)


def check_folders(settings: Settings) -> None:
    """Check that host, state and shared folder can be where they are said to be.

    Raises:
        CannotStart: they cannot.
    """
    if not os.path.isdir(settings.root):
        raise CannotStart(f"there is no host tree {settings.root}")
    state, data = settings.state.absolute(), settings.data.absolute()
    if state == data or data in state.parents:
        raise CannotStart(
            f"the state folder {state} is in the shared folder, where clients can write; "
            "give another --state"
        )


def stored_ledger(settings: Settings) -> Ledger:
    """What a daemon would start with, from a copy: the store and an old state not imported yet.

    Raises:
        CannotStart: it would refuse to; `DaemonRunning` if one runs.
    """
    state_folder.check_writable(settings.state)
    with tempfile.TemporaryDirectory(prefix="epa-check-") as scratch:
        copy = opening.open_copy(settings.state, Path(scratch))
        try:
            ledger = copy.load() if copy else Ledger()
            old = takeover.read(settings.data / takeover.FILE_NAME)
            if old and not (copy and copy.has_imported(old.source.sha256)):
                ledger = takeover.merge(ledger, old, settings.options.kept().takeover_prefer)
        finally:
            if copy:
                copy.close()
    return ledger
