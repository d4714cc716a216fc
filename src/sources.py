# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Where the snap comes from: an attached resource, else a channel, else the charm's own bundle."""

import dataclasses
import filecmp
import logging
import pathlib
from typing import Any

from charmlibs import snap

import changes
import epa_snap
import errors
import patience
import snapd

logger = logging.getLogger(__name__)

BLOBS = pathlib.Path("/var/lib/snapd/snaps")
_RISKS = ("stable", "candidate", "beta", "edge")
_SQUASHFS = b"hsqs"
_INSTALL_SECONDS = 480.0
_INFO_SECONDS = 60.0
_NO_CHANNEL = ("snap-channel-not-available", "snap-revision-not-available")
_NOTHING_NEWER = "snap-no-update-available"


@dataclasses.dataclass(frozen=True)
class File:
    """A snap in a file; `title` is how people call it."""

    path: pathlib.Path
    title: str

    def __str__(self) -> str:
        return self.title

    @property
    def fault(self) -> str:
        """How the sentence begins that tells why it was not installed."""
        return f"cannot install {self.title}"

    @property
    def words(self) -> str:
        """What snapd's changes that install from there have in their summary."""
        return " snap from file "


@dataclasses.dataclass(frozen=True)
class Store:
    """A channel of the store."""

    channel: str

    def __str__(self) -> str:
        return f"channel {self.channel}"

    @property
    def fault(self) -> str:
        """How the sentence begins that tells why it was not installed."""
        return f"snap-channel '{self.channel}'"

    @property
    def words(self) -> str:
        """What snapd's changes that install from there have in their summary."""
        return f' snap from "{self.channel}" channel'


Source = File | Store


def choose(resource: pathlib.Path | None, channel: str, bundle: pathlib.Path) -> Source:
    """The source that is asked for.

    Raises:
        errors.NeedsOperator: only the bundle is left, and the charm carries none.
    """
    if resource is not None and resource.stat().st_size > 0:
        return File(resource, "resource epa-orchestrator-snap")
    if channel:
        return Store(channel)
    if not bundle.is_file():
        raise errors.NeedsOperator(
            "this charm carries no snap: set snap-channel or attach epa-orchestrator-snap"
        )
    return File(bundle, "bundled snap")


def is_installed(source: Source, current: epa_snap.Installed | None) -> bool:
    """Whether what is installed came from there.

    Files are compared byte by byte with snapd's copy: a local revision tells nothing else.
    """
    if current is None:
        return False
    if isinstance(source, Store):
        return not current.local and current.channel == full_channel(source.channel, current)
    copy = BLOBS / f"{epa_snap.NAME}_{current.revision}.snap"
    return current.local and copy.is_file() and filecmp.cmp(source.path, copy, shallow=False)


def check(source: Source) -> None:
    """Look into a file: snapd would install any snap.

    Raises:
        errors.NeedsOperator: it is not this one.
        errors.HealsItself: snapd does not answer.
    """
    if isinstance(source, Store):
        return
    with source.path.open("rb") as file:
        if file.read(len(_SQUASHFS)) != _SQUASHFS:
            raise errors.NeedsOperator(f"{source} is not a snap")
    with changes.told(f"{source} is not a snap"):
        described = snapd.run("info", str(source.path), seconds=patience.left(_INFO_SECONDS))
    names = [
        line.split(":", 1)[1].strip() for line in described.splitlines() if line[:5] == "name:"
    ]
    if names != [epa_snap.NAME]:
        raise errors.NeedsOperator(f"{source} is the snap {' '.join(names)}, not {epa_snap.NAME}")


def undone(source: Source) -> errors.Trouble | None:
    """Why snapd undid the last change that brought the snap from there; None if it did not.

    snapd forgets its changes after a day.
    """
    with changes.told("cannot read snapd's changes"):
        answer = snapd.get("/v2/changes", **{"for": epa_snap.NAME, "select": "all"})
    made: list[dict[str, Any]] = [
        change for change in answer or () if source.words in change["summary"]
    ]
    last = max(made, key=lambda change: int(change["id"]), default=None)
    if last is None or last["status"] != "Error":
        return None
    return changes.trouble(source.fault, str(last.get("err", "")))


def install(source: Source, current: epa_snap.Installed | None) -> None:
    """Bring the snap from the source, in whatever way what is there now needs.

    Raises:
        errors.Trouble: it is not there, or snapd refuses.
    """
    logger.info("installing %s from %s over %s", epa_snap.NAME, source, current)
    if isinstance(source, File):
        words, seconds = ("install", "--dangerous", str(source.path)), _INSTALL_SECONDS
        changes.make(
            source.fault,
            "snap install",
            lambda: snapd.run(*words, seconds=patience.left(seconds)),
        )
    elif current is None:
        _from_store("install", source)
    elif current.local:
        # The store's revision replaces a local one only so.
        _from_store("refresh", source, amend=True)
    else:
        _from_store("refresh", source)


def refresh(source: Store) -> None:
    """Take the newest revision of the channel, if it is not installed already.

    Raises:
        errors.Trouble: it is not there, or snapd refuses.
    """
    _from_store("refresh", source)


def _from_store(action: str, source: Store, **options: bool) -> None:
    path = f"/v2/snaps/{epa_snap.NAME}"
    content = {"action": action, "channel": source.channel, **options}

    def work() -> None:
        try:
            snapd.change("POST", path, content, patience.left(_INSTALL_SECONDS))
        except snap.APIError as error:
            kind = changes.kind_of(error)
            if kind in _NO_CHANNEL:
                raise errors.NeedsOperator(f"{source.fault} is not in the store") from error
            if kind == "snap-not-found":
                raise errors.NeedsOperator(f"the store has no snap {epa_snap.NAME}") from error
            if kind != _NOTHING_NEWER:
                raise

    changes.make(source.fault, f"snap {action}", work)


def full_channel(channel: str, current: epa_snap.Installed) -> str:
    """The channel as snapd writes it: a risk alone stays on the track, a track means stable."""
    first, *rest = channel.split("/")
    if first in _RISKS:
        track = current.channel.split("/")[0] if "/" in current.channel else "latest"
        return "/".join([track, first, *rest])
    return channel if rest else f"{first}/stable"
