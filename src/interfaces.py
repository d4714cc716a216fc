# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Which plugs are connected, and connecting those that have to be."""

import dataclasses
import logging
import time
from collections.abc import Iterable
from typing import Any

from charmlibs import snap

import changes
import epa_snap
import errors
import models
import patience
import snapd

logger = logging.getLogger(__name__)

# Name of the daemon's plug -> whether a running daemon must be restarted for it (what seccomp
# allows is fixed when a process starts).
DAEMON_PLUGS = {
    "network-bind": True,
    "hardware-observe": False,
    "process-control": True,
    "etc-openvswitch": False,
}
# Clients whose configure hook runs again when this option changes.
TRIGGERS = {"openstack-hypervisor": "configure-trigger"}
_TRIGGER_SECONDS = 300.0


@dataclasses.dataclass(frozen=True)
class Plug:
    """A plug of an installed snap; `slots` are those that it is connected to."""

    snap: str
    name: str
    interface: str
    slots: frozenset[tuple[str, str]]


def plugs() -> list[Plug]:
    """All plugs of all snaps."""
    with changes.told("cannot read the connections"):
        answer: dict[str, Any] = snapd.get("/v2/connections", select="all")
    return [
        Plug(
            snap=plug["snap"],
            name=plug["plug"],
            interface=plug.get("interface", ""),
            slots=frozenset((c["snap"], c["slot"]) for c in plug.get("connections") or ()),
        )
        for plug in answer.get("plugs") or ()
    ]


def unconnected(known: Iterable[Plug]) -> list[str]:
    """The daemon's plugs that the installed revision has and that lead nowhere."""
    return [
        plug.name
        for plug in known
        if plug.snap == epa_snap.NAME and plug.name in DAEMON_PLUGS and not plug.slots
    ]


def connect_daemon(name: str) -> bool:
    """Connect a plug of the daemon; True if it must be restarted to make use of it."""
    logger.info("connecting %s:%s", epa_snap.NAME, name)
    plug = (epa_snap.NAME, name)
    changes.make(f"cannot connect {':'.join(plug)}", "snap connect", lambda: snap.connect(plug))
    return DAEMON_PLUGS[name]


def connect_client(client: models.SnapPlug, known: Iterable[Plug]) -> bool:
    """Connect a client that may be, if it is there and is not connected yet; True if it was not.

    One that is not installed is none of our business: it is connected when it appears. Nor is it
    if a plug that nobody named does not fit: the default's snap exists in versions without it.

    Raises:
        errors.Trouble: what keeps it from being connected.
    """
    mine = {plug.name: plug for plug in known if plug.snap == client.snap}
    if not mine:
        return False
    plug = mine.get(client.plug)
    if plug is None:
        _does_not_fit(client, f"{client.snap} has no plug {client.plug}")
    elif plug.interface != "content":
        _does_not_fit(client, f"{client} is no content plug")
    elif (epa_snap.NAME, epa_snap.SLOT) not in plug.slots:
        _connect(client)
        return True
    return False


def _does_not_fit(client: models.SnapPlug, text: str) -> None:
    if client not in models.CharmConfig().plugs:
        raise errors.NeedsOperator(f"epa-info-plugs: {text}")
    logger.warning("not connected: %s", text)


def _connect(client: models.SnapPlug) -> None:
    logger.info("connecting %s", client)
    ends = (client.snap, client.plug), (epa_snap.NAME, epa_snap.SLOT)
    changes.make(f"cannot connect {client}", "snap connect", lambda: snap.connect(*ends))
    option = TRIGGERS.get(client.snap)
    if option is not None:
        _trigger(client.snap, option)


def _trigger(client: str, option: str) -> None:
    """Let a client's configure hook find its new connection.

    Its failure is the client's: the connection stands, and the log says how to try again.
    """
    path, values = f"/v2/snaps/{client}/conf", {option: int(time.time())}
    seconds = patience.left(_TRIGGER_SECONDS)
    try:
        changes.make(
            f"{client}'s configure hook failed",
            "snap set",
            lambda: snapd.change("PUT", path, values, seconds),
        )
    except errors.Trouble as error:
        logger.error(
            "%s; once it is mended, try again: snap set %s %s=$(date +%%s)", error, client, option
        )
