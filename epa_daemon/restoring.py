# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Putting a backup in the place of the store, whole or not at all; the daemon is stopped.

The store from before stays beside it. While files are exchanged a marker is there with which no
daemon starts: of a database and a log that belong to two stores, SQLite would make one.
"""

import contextlib
import datetime
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from epa_daemon import acknowledged, backups, cpulist, history, opening, state_folder
from epa_daemon.acknowledged import Word
from epa_daemon.errors import CannotStart, NotDone, StoreFailed, StoreInDoubt
from epa_daemon.history import Cause
from epa_daemon.ledger import Ledger
from epa_daemon.mask_store import Rows
from epa_daemon.store import Store

_NEW = f"{state_folder.DATABASE}.restored"


@dataclass(frozen=True)
class Restored:
    """What a restore came to.

    Attributes:
        services: how many hold something now.
        kept: where the store from before is; None where there was none.
        forgotten: claims of the store from before that the backup does not have, a sentence each.
        unknown: why the two could not be compared; "" if they were.
    """

    services: int
    kept: Path | None
    forgotten: tuple[str, ...]
    unknown: str


@dataclass(frozen=True)
class _Present:
    """The store before the restore.

    Attributes:
        ledger: None where there is none, or none can be read.
        unknown: why it cannot be read; "" for no such reason.
        masks: what Open vSwitch's threads had, which is of this boot and in no backup.
    """

    ledger: Ledger | None = None
    unknown: str = ""
    masks: tuple[str | None, Rows] = (None, [])


def restore(state: Path, file: str, discard_claims: bool) -> Restored:
    """Make a backup the store of a state folder.

    Args:
        state: made if it is missing.
        file: the backup; `-` for standard input.
        discard_claims: go on where the present store has claims that the backup does not have,
            or cannot be read and so may have.

    Raises:
        NotDone: it is refused, or failed; the store is as it was, or a restore is begun that no
            daemon starts with until it is run again.
        CannotStart: a daemon runs on the state.
    """
    held = state_folder.lock(state)
    try:
        return _restore(state, file, discard_claims)
    except (OSError, StoreFailed, StoreInDoubt) as error:
        raise NotDone(f"cannot restore {file}: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            (state / _NEW).unlink(missing_ok=True)
        os.close(held)


def _restore(state: Path, file: str, discard_claims: bool) -> Restored:
    new = backups.receive(file, state / _NEW)
    try:
        ledger = new.committed
        present = _present(state, new)
        forgotten = contradictions(present.ledger, ledger) if present.ledger else []
        if not discard_claims:
            _refuse(forgotten, present.unknown)
        if present.ledger:
            new.commit(ledger, ledger, history.events(Cause("restore"), present.ledger, ledger))
        new.masks.take(present.masks)
        new.become_another()
        new.settle()
    finally:
        new.close()
    kept = _exchange(state, state / _NEW)
    return Restored(len(ledger.services()), kept, tuple(forgotten), present.unknown)


def _refuse(forgotten: list[str], unknown: str) -> None:
    if unknown:
        raise NotDone(
            f"the present store cannot be compared with the backup: {unknown}; claims in it that "
            "the backup does not have would be forgotten, and their CPUs handed out again: if no "
            "workload runs on such CPUs, say --discard-claims"
        )
    if forgotten:
        raise NotDone(
            f"the backup contradicts claims that are live: {'; '.join(forgotten)}; release them "
            "first, or say --discard-claims to forget them"
        )


def contradictions(present: Ledger, backup: Ledger) -> list[str]:
    """What is claimed now and would not be any more, a sentence each. Pure."""
    found: list[str] = []
    for name, holding in sorted(present.holdings.items()):
        then = backup.holdings.get(name)
        gone = holding.cpus - backup.cpus_of(name)
        if gone:
            found.append(f"{name!r} holds CPUs {cpulist.format_ranges(gone)} now")
        elif then and then.pool is not holding.pool:
            found.append(f"{name!r} holds its CPUs in pool {holding.pool} now")
        elif then and holding.protected and not then.protected:
            found.append(f"the claims of {name!r} are protected now")
    found += _shared_again(present, backup)
    for name, snap in sorted(present.made_by.items()):
        if backup.holds(name) and backup.made_by.get(name) != snap:
            found.append(f"the claims of {name!r} are those of snap {snap} now")
    for (node, size), records in sorted(present.hugepages.items()):
        for name, count in sorted(records.items()):
            if backup.pages_of((node, size), name) < count:
                found.append(f"{name!r} has {count} hugepages of {size} kB on node {node} now")
    return found


def _shared_again(present: Ledger, backup: Ledger) -> list[str]:
    """CPUs that an import gave to several, of whom some have released since."""
    found: list[str] = []
    for name, holding in sorted(present.holdings.items()):
        kept = holding.cpus & backup.cpus_of(name) & backup.contested
        more = {cpu for cpu in kept if not set(backup.owners[cpu]) <= set(present.owners[cpu])}
        if more:
            ranges = cpulist.format_ranges(more)
            found.append(
                f"{name!r} holds CPUs {ranges} now, which the backup gives to another too"
            )
    return found


def _present(state: Path, new: Store) -> _Present:
    kept = _kept_by_unfinished(state)
    if kept == "":
        return _Present()
    name = kept or state_folder.DATABASE
    with tempfile.TemporaryDirectory(prefix="epa-restore-") as scratch:
        try:
            copy = state_folder.copy_files(state, Path(scratch), name)
            if copy is None:
                if kept:
                    return _Present(unknown=f"{kept} is missing")
                return _missing(state, acknowledged.read(Path(scratch), state), new)
            opened = opening.open_file(copy, state / name)
        except (CannotStart, OSError) as error:
            return _Present(unknown=str(error.__cause__ or error))
        try:
            if not kept:
                word = acknowledged.read(Path(scratch), state)
                acknowledged.check(word, opened.word, state)
            return _Present(opened.load(), masks=opened.masks.kept())
        except (CannotStart, StoreFailed) as error:
            return _Present(unknown=str(error.__cause__ or error))
        finally:
            opened.close()


def _missing(state: Path, kept: Word | None, new: Store) -> _Present:
    """No store; what was acknowledged of it may all be in the backup."""
    if kept and kept.store == new.id and kept.generation <= new.generation:
        return _Present()
    acknowledged.refuse_missing(kept, state / state_folder.DATABASE)
    return _Present()


def _kept_by_unfinished(state: Path) -> str | None:
    """The file that an interrupted restore has kept, "" for none; None where there was no such."""
    try:
        return (state / state_folder.RESTORING).read_text()
    except FileNotFoundError:
        return None


def _exchange(state: Path, new: Path) -> Path | None:
    marker, database = state / state_folder.RESTORING, state / state_folder.DATABASE
    log = database.with_name(f"{database.name}-wal")
    name = _kept_by_unfinished(state)
    if name is not None:
        kept = state / name if name else None
    else:
        kept = _keep(state, database, log)
        _mark(marker, kept)
    log.unlink(missing_ok=True)
    # It is of the store from before, which may have seen more commits.
    (state / acknowledged.NAME).unlink(missing_ok=True)
    database.with_name(f"{database.name}-shm").unlink(missing_ok=True)
    state_folder.sync_folder(state)
    os.replace(new, database)
    state_folder.sync_folder(state)
    marker.unlink()
    state_folder.sync_folder(state)
    return kept


def _keep(state: Path, database: Path, log: Path) -> Path | None:
    now = datetime.datetime.now(datetime.UTC)
    kept = state / f"{database.name}.replaced-{now:%Y%m%dT%H%M%S.%fZ}"
    there = [(database, kept), (log, kept.with_name(f"{kept.name}-wal"))]
    found = [(old, copy) for old, copy in there if os.path.lexists(old)]
    for old, copy in found:
        try:
            os.link(old, copy, follow_symlinks=False)
        except OSError:
            # A file system without hard links.
            shutil.copyfile(old, copy)
            with copy.open("rb") as file:
                os.fsync(file.fileno())
    state_folder.sync_folder(state)
    return kept if found else None


def _mark(marker: Path, kept: Path | None) -> None:
    new = marker.with_name(f"{marker.name}.new")
    with new.open("w") as file:
        file.write(kept.name if kept else "")
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, marker)
    state_folder.sync_folder(marker.parent)
