# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Whether the store, the ledger in it and the host agree; and what requests cannot release."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from epa_daemon import chores, health, history, listener, lost_folder, opening, pools, state_folder
from epa_daemon.errors import CannotStart, NotDone, StoreFailed, StoreInDoubt
from epa_daemon.history import Cause
from epa_daemon.holder import HolderClient
from epa_daemon.host import HostReader
from epa_daemon.ledger import Ledger
from epa_daemon.observer import Observer
from epa_daemon.replies import Problem, VerifyReply
from epa_daemon.settings import Settings


@dataclass(frozen=True)
class Verdict:
    """What was found.

    Attributes:
        daemon: whether one runs, and has answered for its store.
        services: how many hold something; None where the store cannot be read.
    """

    daemon: bool
    problems: tuple[Problem, ...]
    services: int | None = None
    claimed_cpus: int | None = None


def verify(settings: Settings) -> Verdict:
    """Look at everything and change nothing; a daemon that runs is asked, it has the store.

    Raises:
        epa_client.EpaError: one runs and does not answer.
    """
    try:
        lost_folder.refuse(settings.state, settings.socket)
        return _verify_files(settings)
    except state_folder.DaemonRunning as running:
        client = HolderClient(settings.socket, running.holder)
        try:
            reply = VerifyReply.model_validate(client.request("verify"))
            seen = [Problem.model_validate(item) for item in client.get_health()["problems"]]
        except listener.Impostor as error:
            return Verdict(True, (Problem(code="foreign-socket", text=str(error)),))
        problems = (*reply.problems, *seen)
        return Verdict(True, problems, reply.services, reply.claimed_cpus)
    except CannotStart as error:
        return Verdict(False, (Problem(code="store-unusable", text=str(error)),))


def _verify_files(settings: Settings) -> Verdict:
    with tempfile.TemporaryDirectory(prefix="epa-verify-") as scratch:
        copy = opening.open_copy(settings.state, Path(scratch))
        if copy is None:
            text = f"there is no store in {settings.state}; a daemon would start without claims"
            return Verdict(False, (Problem(code="no-store", text=text),))
        try:
            ledger = copy.load()
            reply = chores.verify(copy)
        finally:
            copy.close()
    problems = (*reply.problems, *_host_problems(settings, ledger))
    return Verdict(False, problems, reply.services, reply.claimed_cpus)


def _host_problems(settings: Settings, ledger: Ledger) -> list[Problem]:
    try:
        options = settings.options.kept()
    except CannotStart as error:
        return [Problem(code="invalid-options", text=str(error))]
    rules = options.rules(pools.configured(options.cpu_pool))
    host, fitted = Observer(HostReader(settings.root), rules).look(with_memory=True)
    return health.problems(host, ledger, fitted, None)


def release_unusable(state: Path, name: str) -> None:
    """Release everything of a service whose name no request can carry; the daemon is stopped.

    Args:
        state: the folder of the store.
        name: as JSON, as `verify` shows it.

    Raises:
        NotDone: there is no such service, or requests can name it.
        CannotStart: a daemon runs on the state, or the store cannot be read.
    """
    service = _parsed(name)
    if not (state / state_folder.DATABASE).exists():
        raise NotDone(f"there is no store in {state}")
    opened = opening.open_folder(state)
    try:
        before = opened.load()
        if service not in chores.unusable_names(before):
            raise NotDone(_why_not(service, before))
        after = before.with_holding(service, None)
        for key in before.hugepages:
            after = after.with_pages(key, service, 0)
        after = after.without_idle_makers()
        opened.commit(before, after, history.events(Cause("repair"), before, after))
    except (StoreFailed, StoreInDoubt) as error:
        raise NotDone(f"{json.dumps(service)} was not released: {error}") from error
    finally:
        opened.close()


def _parsed(name: str) -> str:
    try:
        parsed = json.loads(name)
    except ValueError as error:
        raise NotDone(f"{name} is not a JSON text such as '\"a\\u0000\"': {error}") from error
    if not isinstance(parsed, str):
        raise NotDone(f"{name} is not a JSON text")
    return parsed


def _why_not(service: str, ledger: Ledger) -> str:
    quoted = json.dumps(service)
    if ledger.holds(service):
        return f"{quoted} is released by the running daemon: epa-orchestrator release SERVICE"
    return f"{quoted} holds nothing; verify names the services that can be released so"
