# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Who needs a snap that several charms may install on one machine.

The convention among charms: every unit keeps an empty reference file, and only the unit that finds
no other's may remove the snap.
"""

import pathlib
import re

FOLDER = pathlib.Path("/opt/singleton_snaps")


def register(snap: str, revision: str, unit: str) -> None:
    """Keep exactly one reference of this unit, to this revision.

    Raises:
        OSError: the folder cannot be written.
    """
    wanted = FOLDER / f"LCK..{snap}--rev{revision}__{_plain(unit)}"
    if not wanted.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        wanted.touch()
    for other in _references(snap):
        if other != wanted and _owner(other) == _plain(unit):
            other.unlink(missing_ok=True)


def unregister(snap: str, unit: str) -> None:
    """Drop every reference of this unit, and the folder with the last reference of all.

    Raises:
        OSError: the folder cannot be written.
    """
    for reference in _references(snap):
        if _owner(reference) == _plain(unit):
            reference.unlink(missing_ok=True)
    if FOLDER.is_dir() and not any(FOLDER.iterdir()):
        FOLDER.rmdir()


def others(snap: str, unit: str) -> list[str]:
    """Who else needs the snap, as `app_number`, sorted."""
    return sorted({_owner(file) for file in _references(snap)} - {_plain(unit)})


def _plain(unit: str) -> str:
    return unit.replace("/", "_")


def _references(snap: str) -> list[pathlib.Path]:
    pattern = re.compile(rf"LCK\.\.{re.escape(snap)}(--rev[^_]*)?__.+")
    if not FOLDER.is_dir():
        return []
    return [file for file in FOLDER.iterdir() if pattern.fullmatch(file.name)]


def _owner(reference: pathlib.Path) -> str:
    return reference.name.partition("__")[2]
