# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The snap that is asked for: brought, held, and signed for."""

import logging

import claims
import daemon
import epa_snap
import errors
import sources
import tenants
from wanted import Effort, Findings, Wanted

logger = logging.getLogger(__name__)


def ensure(wanted: Wanted, found: Findings) -> epa_snap.Installed | None:
    """Have the snap from where it is asked for; if that fails, go on with the one that is there.

    Returns:
        What is installed then; None if nothing is.

    Raises:
        errors.Trouble: snapd cannot be asked.
    """
    current = epa_snap.installed()
    with found.collecting():
        source = _source(wanted)
        if not sources.is_installed(source, current):
            _bring(source, current, wanted)
            current = epa_snap.installed()
    if current is not None:
        with found.collecting():
            _keep(current, wanted.unit)
    return current


def newest(wanted: Wanted) -> epa_snap.Installed:
    """Have the snap from where it is asked for, in its newest revision.

    Raises:
        errors.Trouble: what stands against it; what was installed still is.
    """
    source = _source(wanted)
    current = epa_snap.installed()
    if not sources.is_installed(source, current):
        _bring(source, current, wanted)
    elif isinstance(source, sources.Store):
        sources.refresh(source)
    current = epa_snap.installed()
    if current is None:
        raise errors.NeedsOperator(f"the snap {epa_snap.NAME} is not installed")
    _keep(current, wanted.unit)
    return current


def held_now() -> daemon.Holdings | None:
    """What is held before a change; None if the daemon cannot tell."""
    try:
        return daemon.look()
    except (errors.DaemonSilent, errors.Trouble) as error:
        logger.warning("what is held now cannot be told: %s", error)
        return None


def _source(wanted: Wanted) -> sources.Source:
    return sources.choose(wanted.resource(), wanted.config.snap_channel, wanted.bundle)


def _bring(source: sources.Source, current: epa_snap.Installed | None, wanted: Wanted) -> None:
    """Install from the source, unless this is no time to.

    A revision that snapd undid, perhaps because it cannot take over the state, would stop the
    daemon for some seconds in every hook.
    """
    sources.check(source)
    if wanted.effort is Effort.FULL:
        wanted.working(f"installing the snap ({source})")
    elif current is not None:
        why = sources.undone(source)
        if isinstance(why, errors.NeedsOperator):
            raise why
    if wanted.effort is Effort.NONE:
        raise errors.HealsItself(f"{source} is not installed yet")
    before = held_now() if current else None
    sources.install(source, current)
    if before is not None:
        _tell_lost(before)


def _keep(current: epa_snap.Installed, unit: str) -> None:
    if not current.held:
        epa_snap.hold()
    try:
        tenants.register(epa_snap.NAME, current.revision, unit)
    except OSError as error:
        raise errors.NeedsOperator(f"cannot keep the snap's reference file: {error}") from error


def _tell_lost(before: daemon.Holdings) -> None:
    """Say in the log which claims another revision does not know; nothing else ever will."""
    try:
        after = daemon.wait(daemon.START_SECONDS)
    except (errors.DaemonSilent, errors.Trouble):
        return  # The next step deals with it.
    lost = claims.lost(before, after)
    if lost:
        logger.error("the new revision does not know: %s", "; ".join(lost))
    else:
        logger.info("all %d claims kept", len(before.sentences))
