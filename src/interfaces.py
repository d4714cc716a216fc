# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Which plugs are connected, and connecting those that have to be."""

import dataclasses
import logging
import time
from collections.abc import Iterable
from typing import Any

from charmlibs import snap
from opentelemetry import trace

import epa_snap
import errors
import models
import snapd

logger = logging.getLogger(__name__)
tracer = trace.get_tracer(__name__)

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


@dataclasses.dataclass(frozen=True)
class Plug:
    """A plug of an installed snap; `slots` are those that it is connected to."""

    snap: str
    name: str
    interface: str
    slots: frozenset[tuple[str, str]]


def plugs() -> list[Plug]:
    """All plugs of all snaps."""
    with epa_snap.told("cannot read the connections"):
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


def connect_daemon(names: Iterable[str]) -> bool:
    """Connect plugs of the daemon; True if it must be restarted to make use of them."""
    restart = False
    for name in names:
        logger.info("connecting %s:%s", epa_snap.NAME, name)
        with (
            epa_snap.told(f"cannot connect {epa_snap.NAME}:{name}"),
            tracer.start_as_current_span("snap connect"),
        ):
            snap.connect((epa_snap.NAME, name))
        restart = restart or DAEMON_PLUGS[name]
    return restart


def connect_clients(allowed: Iterable[models.SnapPlug], known: Iterable[Plug]) -> list[str]:
    """Connect those clients that are there and allowed; returns what an operator should mend.

    A client that is not installed is none of our business: it is connected when it appears.
    """
    there = {(plug.snap, plug.name): plug for plug in known}
    snaps = {plug.snap for plug in there.values()}
    faults: list[str] = []
    for client in allowed:
        plug = there.get((client.snap, client.plug))
        if plug is None:
            if client.snap in snaps:
                faults.append(f"epa-info-plugs: {client.snap} has no plug {client.plug}")
        elif plug.interface != "content":
            faults.append(f"epa-info-plugs: {client} is no content plug")
        elif (epa_snap.NAME, epa_snap.SLOT) not in plug.slots:
            faults += _connect_client(client)
    return faults


def _connect_client(client: models.SnapPlug) -> list[str]:
    logger.info("connecting %s", client)
    try:
        with (
            epa_snap.told(f"cannot connect {client}"),
            tracer.start_as_current_span("snap connect"),
        ):
            snap.connect((client.snap, client.plug), (epa_snap.NAME, epa_snap.SLOT))
    except errors.NeedsOperator as error:
        return [str(error)]
    _trigger(client.snap)
    return []


def _trigger(client: str) -> None:
    """Let a client's configure hook find its new connection.

    Its failure is the client's: the connection stands, and the log says how to try again.
    """
    option = TRIGGERS.get(client)
    if option is None:
        return
    try:
        with epa_snap.told(f"{client}'s configure hook failed"):
            snap.set(client, {option: int(time.time())})
    except errors.Trouble as error:
        logger.error(
            "%s; once it is mended, try again: snap set %s %s=$(date +%%s)", error, client, option
        )
