# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The action refresh-snap: the newest revision, and what became of the claims."""

from opentelemetry import trace

import claims
import daemon
import epa_snap
import errors
import installation
import reconciler
import status
from wanted import Findings, Wanted

tracer = trace.get_tracer(__name__)


def refresh_snap(wanted: Wanted) -> dict[str, str]:
    """Take the newest revision, and say what became of the claims.

    Claims are compared before any client is connected, as that may make it ask for others.

    Raises:
        errors.Trouble: what is asked for cannot be had, or the daemon does not answer.
        errors.ActionFailed: claims are lost.
    """
    with tracer.start_as_current_span("refresh"):
        before, held = epa_snap.installed(), installation.held_now()
        current = installation.newest(wanted)
        after = reconciler.ensure_daemon(wanted.working, Findings())
        return {
            "result": _what_happened(before, current),
            "revision": current.revision,
            "version": current.version,
            "allocations": _compared(held, after),
        }


def _what_happened(before: epa_snap.Installed | None, after: epa_snap.Installed) -> str:
    if before is None:
        return f"installed revision {after.revision}"
    if before.revision != after.revision:
        return f"refreshed from revision {before.revision} to {after.revision}"
    if after.local:
        return (
            "locally installed snap: a newer one comes with a newer charm or an attached resource"
        )
    return f"revision {after.revision} is already the newest of {after.channel}"


def _compared(before: daemon.Holdings | None, after: daemon.Holdings) -> str:
    """One line on the claims.

    Raises:
        errors.ActionFailed: some are lost.
    """
    state = status.allocation_state(after)
    if before is None:
        return f"not known before; now {state}"
    lost = claims.lost(before, after)
    if lost:
        raise errors.ActionFailed(f"claims lost by the refresh: {'; '.join(lost)}")
    same = sorted(before.sentences) == sorted(after.sentences)
    return f"{'unchanged' if same else 'kept, and more'}: {state}"
