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

FINISH = f"snap remove {epa_snap.NAME}"


def leave(unit: str) -> None:
    """Drop this unit's reference, and remove the snap if nobody needs it.

    Where anything speaks against it, the snap stays installed, running and held, and the log says
    what does, and how to finish.
    """
    with tracer.start_as_current_span("leave"):
        try:
            tenants.unregister(epa_snap.NAME, unit)
            others = tenants.others(epa_snap.NAME, unit)
            if others:
                logger.warning("the snap stays: %s need it", ", ".join(others))
            else:
                ovs_switch.apply(wanted=False)
                if epa_snap.installed() is not None:
                    _remove_unless_held()
        except (errors.Trouble, OSError) as error:
            logger.error("could not clean up (%s); finish by hand: %s", error, FINISH)


def _remove_unless_held() -> None:
    try:
        holdings = daemon.look()
    except errors.DaemonSilent as error:
        logger.warning(
            "the snap stays: who holds CPUs cannot be told (%s); if nobody does: %s", error, FINISH
        )
        return
    claims = holdings.sentences
    if holdings.pages_problem:
        claims.append(f"hugepages unknown ({holdings.pages_problem})")
    if claims:
        logger.warning("the snap stays: %s; once they are released: %s", "; ".join(claims), FINISH)
        return
    logger.info("nobody holds anything: removing the snap")
    epa_snap.remove()
