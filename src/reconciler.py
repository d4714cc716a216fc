# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Read what is, compare it with what is wanted, change only what differs. Knows no Juju.

Every step may be repeated at any time: nothing is remembered between two runs, because snapd and
the daemon know it all.
"""

import logging
from collections.abc import Callable

from opentelemetry import trace

import daemon
import epa_snap
import errors
import installation
import interfaces
import options
import ovs_switch
import status
from wanted import Findings, Wanted

logger = logging.getLogger(__name__)
tracer = trace.get_tracer(__name__)


def reconcile(wanted: Wanted) -> status.Report:
    """Make the machine as it is wanted, as far as it goes, and tell what is left to say."""
    found = Findings()
    holdings: daemon.Holdings | None = None
    with tracer.start_as_current_span("reconcile"), found.collecting():
        if installation.ensure(wanted, found):
            holdings = ensure_daemon(wanted.working, found)
            holdings = _configure(wanted, holdings, found)
    blocked, waiting = dict.fromkeys(found.blocked), dict.fromkeys(found.waiting)
    return status.Report(tuple(blocked), tuple(waiting), holdings)


def ensure_daemon(working: Callable[[str], None], found: Findings) -> daemon.Holdings:
    """Connect what the daemon needs, and have it answer: by one restart, if that takes one.

    Raises:
        errors.Trouble: it does not answer, and why.
    """
    stale = False
    for name in interfaces.unconnected(interfaces.plugs()):
        with found.collecting():
            stale = interfaces.connect_daemon(name) or stale
    if stale:
        working("restarting the daemon, for its new connections")
        epa_snap.restart()
        return _answer_or_blocked(daemon.START_SECONDS)
    try:
        return daemon.wait(daemon.ANSWER_SECONDS)
    except errors.DaemonSilent as error:
        logger.error("%s", error)
    _raise_if_it_would_refuse()
    working("the daemon does not answer: restarting it")
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


def _configure(wanted: Wanted, holdings: daemon.Holdings, found: Findings) -> daemon.Holdings:
    """Options, clients, and what the daemon itself complains of; returns what is held now."""
    with found.collecting():
        if options.apply(wanted.config.snap_options, holdings):
            holdings = daemon.wait(daemon.ANSWER_SECONDS)
    with found.collecting():
        known, told = interfaces.plugs(), False
        for client in wanted.config.plugs:
            with found.collecting():
                told = interfaces.connect_client(client, known) or told
        if told:
            holdings = daemon.wait(daemon.ANSWER_SECONDS)
    with found.collecting():
        spread = wanted.config.ovs_dynamic_cpu_affinity
        if spread and daemon.OVS_AFFINITY not in holdings.features:
            raise errors.NeedsOperator("ovs-dynamic-cpu-affinity needs a newer daemon")
        ovs_switch.apply(spread)
    with found.collecting():
        if holdings.newer and holdings.pages_problem:
            found.blocked.append(f"hugepages cannot be read: {holdings.pages_problem}")
        found.blocked += daemon.problems(holdings)
    return holdings
