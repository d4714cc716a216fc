# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Leaving a machine without pulling CPUs from under those who run on them."""

import logging

from opentelemetry import trace

import daemon
import epa_snap
import errors
import ovs_switch
import tenants

logger = logging.getLogger(__name__)
tracer = trace.get_tracer(__name__)

REMOVE = f"snap remove {epa_snap.NAME}"
FINISH = f"if nobody holds anything, finish by hand: {REMOVE}"


def leave(unit: str) -> None:
    """Drop this unit's reference, and remove the snap if nobody needs it.

    Where anything speaks against it, the snap stays installed, running and held, and the log says
    what does, and how to finish.
    """
    with tracer.start_as_current_span("leave"):
        try:
            tenants.unregister(epa_snap.NAME, unit)
            others = tenants.others(epa_snap.NAME, unit)
            if not others:
                ovs_switch.apply(wanted=False)
            if current := epa_snap.installed():
                _remove_or_keep(current, others)
        except (errors.Trouble, OSError) as error:
            logger.error("could not clean up (%s); %s", error, FINISH)


def _remove_or_keep(current: epa_snap.Installed, others: list[str]) -> None:
    reason = why_it_stays(others)
    if reason is None:
        logger.info("nobody holds anything: removing the snap")
        epa_snap.remove()
        return
    logger.warning("the snap stays: %s", reason)
    if not current.held:
        epa_snap.hold()


def why_it_stays(others: list[str]) -> str | None:
    """What speaks against a removal, and how to finish it by hand; None if nothing does.

    The daemon is asked in any case: one that is silent must not be left behind.
    """
    try:
        holdings = _answer()
    except (errors.Trouble, errors.DaemonSilent) as error:
        logger.error("%s", error)
        reason = f"who holds CPUs cannot be told ({error}); if nobody does: {REMOVE}"
    else:
        claims = holdings.sentences
        if holdings.pages_problem:
            claims.append(f"hugepages unknown ({holdings.pages_problem})")
        reason = f"{'; '.join(claims)}; once they are released: {REMOVE}" if claims else None
    return f"{', '.join(others)} need it" if others else reason


def _answer() -> daemon.Holdings:
    """What the daemon lists, if need be after a restart.

    Clients test for the socket alone, so a stopped daemon must not be left behind.

    Raises:
        errors.Trouble: it refuses, or cannot be restarted.
        errors.DaemonSilent: it stays silent.
    """
    try:
        return daemon.look()
    except errors.DaemonSilent as error:
        logger.warning("%s; restarting the daemon", error)
    epa_snap.restart()
    return daemon.wait(daemon.START_SECONDS)
