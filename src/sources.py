# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Where the snap comes from: an attached resource, else a channel, else the charm's own bundle."""

import contextlib
import dataclasses
import filecmp
import logging
import pathlib
from collections.abc import Generator

from charmlibs import snap
from opentelemetry import trace

import epa_snap
import errors
import snapd

logger = logging.getLogger(__name__)
tracer = trace.get_tracer(__name__)

BLOBS = pathlib.Path("/var/lib/snapd/snaps")
_RISKS = ("stable", "candidate", "beta", "edge")
_SQUASHFS = b"hsqs"
_INSTALL_SECONDS = 480.0
# How /usr/bin/snap says that a channel, or a revision in it, does not exist.
_NOT_AVAILABLE = ("is not available on", "no snap revision available")


@dataclasses.dataclass(frozen=True)
class File:
    """A snap in a file; `title` is how people call it."""

    path: pathlib.Path
    title: str

    def __str__(self) -> str:
        return self.title


@dataclasses.dataclass(frozen=True)
class Store:
    """A channel of the store."""

    channel: str

    def __str__(self) -> str:
        return f"channel {self.channel}"


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


def install(source: Source, current: epa_snap.Installed | None) -> None:
    """Bring the snap from the source, in whatever way what is there now needs.

    Raises:
        errors.Trouble: it is not there, or snapd refuses.
    """
    logger.info("installing %s from %s over %s", epa_snap.NAME, source, current)
    with tracer.start_as_current_span("snap install"):
        if isinstance(source, File):
            _install_file(source)
        elif current is None:
            with _channel_told(source.channel):
                snap.install(epa_snap.NAME, source.channel)
        elif current.local:
            _replace_local(source.channel)
        else:
            with _channel_told(source.channel):
                snap.refresh(epa_snap.NAME, source.channel)


def refresh(channel: str) -> bool:
    """Take the newest revision of the channel; False if it is installed already."""
    with _channel_told(channel), tracer.start_as_current_span("snap refresh"):
        return bool(snap.refresh(epa_snap.NAME, channel or None))


def full_channel(channel: str, current: epa_snap.Installed) -> str:
    """The channel as snapd writes it: a risk alone stays on the track, a track means stable."""
    first, *rest = channel.split("/")
    if first in _RISKS:
        track = current.channel.split("/")[0] if "/" in current.channel else "latest"
        return "/".join([track, first, *rest])
    return channel if rest else f"{first}/stable"


def _install_file(source: File) -> None:
    """Install a file, after a look at whether it is this snap at all: snapd would take any."""
    with source.path.open("rb") as file:
        if file.read(len(_SQUASHFS)) != _SQUASHFS:
            raise errors.NeedsOperator(f"{source} is not a snap")
    described = _run(f"{source} is not a snap", "info", str(source.path))
    names = [
        line.split(":", 1)[1].strip() for line in described.splitlines() if line[:5] == "name:"
    ]
    if names != [epa_snap.NAME]:
        raise errors.NeedsOperator(f"{source} is the snap {' '.join(names)}, not {epa_snap.NAME}")
    _run(f"cannot install {source}", "install", "--dangerous", str(source.path))


def _replace_local(channel: str) -> None:
    """The store's revision replaces a local one only with --amend, which charmlibs-snap lacks."""
    try:
        _run(
            f"snap-channel '{channel}'",
            *("refresh", "--amend", f"--channel={channel}", epa_snap.NAME),
        )
    except errors.NeedsOperator as error:
        if any(words in str(error) for words in _NOT_AVAILABLE):
            raise errors.NeedsOperator(f"snap-channel '{channel}' is not in the store") from error
        raise


def _run(what: str, *arguments: str) -> str:
    try:
        return snapd.run(*arguments, seconds=_INSTALL_SECONDS)
    except snapd.CommandFailed as error:
        if "cannot communicate with server" in str(error):
            raise errors.HealsItself("waiting for snapd to answer") from error
        raise epa_snap.trouble(what, str(error)) from error


@contextlib.contextmanager
def _channel_told(channel: str) -> Generator[None]:
    """Say which channel the store has not; every other error is told as everywhere."""
    try:
        with epa_snap.told(f"snap-channel '{channel}'"):
            yield
    except errors.NeedsOperator as error:
        cause = error.__cause__
        if isinstance(cause, snap.ChannelNotAvailableError | snap.RevisionNotAvailableError):
            text = f"snap-channel '{channel}' is not in the store"
            raise errors.NeedsOperator(text) from cause
        if isinstance(cause, snap.NotInStoreError):
            raise errors.NeedsOperator(f"the store has no snap {epa_snap.NAME}") from cause
        raise
