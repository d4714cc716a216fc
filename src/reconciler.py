# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Read what is, compare it with what is wanted, change only what differs. Knows no Juju.

Every step may be repeated at any time: nothing is remembered between two runs, because snapd and
the daemon know it all.
"""

import contextlib
import dataclasses
import logging
import pathlib
from collections.abc import Callable, Generator

from opentelemetry import trace

import daemon
import epa_snap
import errors
import interfaces
import models
import options
import ovs_switch
import sources
import status
import tenants

logger = logging.getLogger(__name__)
tracer = trace.get_tracer(__name__)


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What this unit wants of its machine.

    Attributes:
        unit: name of the unit, for the snap's reference file.
        resource: the attached snap; None if there is none.
        working: told what is being done, only when there is work that takes time.
    """

    unit: str
    config: models.CharmConfig
    resource: pathlib.Path | None
    bundle: pathlib.Path
    working: Callable[[str], None]


def reconcile(wanted: Wanted) -> status.Report:
    """Make the machine as it is wanted, as far as it goes, and tell what is left to say."""
    with tracer.start_as_current_span("reconcile"):
        try:
            current = ensure_snap(wanted)
            holdings = ensure_daemon(wanted.working)
        except errors.NeedsOperator as error:
            logger.error("%s", error)
            return status.Report(blocked=(str(error),))
        except errors.HealsItself as error:
            logger.warning("%s", error)
            return status.Report(waiting=(str(error),))
        logger.debug("%s answers", current)
        return _configure(wanted, holdings)


def ensure_snap(wanted: Wanted) -> epa_snap.Installed:
    """Install what is asked for, hold it, and sign for it."""
    source = sources.choose(wanted.resource, wanted.config.snap_channel, wanted.bundle)
    current = epa_snap.installed()
    if not sources.is_installed(source, current):
        wanted.working(f"installing the snap ({source})")
        before = _claims_now() if current else None
        sources.install(source, current)
        current = epa_snap.installed()
        if before is not None:
            _tell_lost(before)
    if current is None:
        raise errors.NeedsOperator(f"the snap {epa_snap.NAME} is not installed")
    if not current.held:
        epa_snap.hold()
    try:
        tenants.register(epa_snap.NAME, current.revision, wanted.unit)
    except OSError as error:
        raise errors.NeedsOperator(f"cannot keep the snap's reference file: {error}") from error
    return current


def ensure_daemon(working: Callable[[str], None]) -> daemon.Holdings:
    """Connect what the daemon needs, and have it answer: by one restart, if that takes one."""
    missing = interfaces.unconnected(interfaces.plugs())
    if missing:
        working(f"connecting {', '.join(missing)}")
        if interfaces.connect_daemon(missing):
            epa_snap.restart()
            return _answer_or_blocked(daemon.START_SECONDS)
    try:
        return daemon.wait(daemon.ANSWER_SECONDS)
    except errors.DaemonSilent as error:
        logger.error("%s", error)
    working("the daemon does not answer: restarting it")
    _raise_if_it_would_refuse()
    epa_snap.restart()
    return _answer_or_blocked(daemon.START_SECONDS)


def _answer_or_blocked(seconds: float) -> daemon.Holdings:
    try:
        return daemon.wait(seconds)
    except errors.DaemonSilent as error:
        logger.error("%s", error)
        _raise_if_it_would_refuse()
        raise errors.NeedsOperator(
            f"daemon does not answer after a restart: see snap logs {epa_snap.NAME}"
        ) from error


def _raise_if_it_would_refuse() -> None:
    reasons = epa_snap.check()
    if reasons:
        raise errors.NeedsOperator(f"daemon cannot start: {reasons[0]}")


@dataclasses.dataclass
class _Findings:
    """Trouble found on the way; one kind keeps nobody from looking for the next."""

    blocked: list[str] = dataclasses.field(default_factory=list[str])
    waiting: list[str] = dataclasses.field(default_factory=list[str])

    @contextlib.contextmanager
    def collecting(self) -> Generator[None]:
        try:
            yield
        except errors.NeedsOperator as error:
            self.blocked.append(str(error))
        except errors.HealsItself as error:
            self.waiting.append(str(error))
        except errors.DaemonSilent as error:
            logger.warning("%s", error)
            self.waiting.append("waiting for the daemon to answer")


def _configure(wanted: Wanted, holdings: daemon.Holdings) -> status.Report:
    """Options, clients, and what the daemon itself has to complain of."""
    found = _Findings()
    with found.collecting():
        if options.apply(wanted.config.snap_options, holdings):
            holdings = daemon.wait(daemon.ANSWER_SECONDS)
    with found.collecting():
        known = interfaces.plugs()
        found.blocked += interfaces.connect_clients(wanted.config.plugs, known)
    with found.collecting():
        if wanted.config.ovs_dynamic_cpu_affinity and daemon.OVS_AFFINITY not in holdings.features:
            found.blocked.append("ovs-dynamic-cpu-affinity needs a newer daemon")
        ovs_switch.apply(wanted.config.ovs_dynamic_cpu_affinity)
    with found.collecting():
        if holdings.newer and holdings.pages_problem:
            found.blocked.append(f"hugepages cannot be read: {holdings.pages_problem}")
        found.blocked += daemon.problems(holdings)
    for text in found.blocked:
        logger.error("%s", text)
    blocked = tuple(dict.fromkeys(found.blocked))
    return status.Report(blocked, tuple(dict.fromkeys(found.waiting)), holdings)


def _claims_now() -> list[str] | None:
    try:
        return daemon.look().sentences
    except errors.DaemonSilent as error:
        logger.warning("what is held now cannot be told: %s", error)
        return None


def _tell_lost(before: list[str]) -> None:
    """Say in the log which claims another revision does not know; nothing else ever will."""
    try:
        after = daemon.wait(daemon.START_SECONDS).sentences
    except errors.DaemonSilent:
        return  # The next step deals with a silent daemon.
    lost = [claim for claim in before if claim not in after]
    if lost:
        logger.error("the new revision does not know: %s", "; ".join(lost))
    else:
        logger.info("all %d claims kept", len(before))
