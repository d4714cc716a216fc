# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Who may do what: the one place that every request passes before anything is done."""

from collections.abc import Collection

from epa_daemon import peers
from epa_daemon.errors import Refusal
from epa_daemon.ledger import Ledger
from epa_daemon.peers import Peer
from epa_daemon.protocol import (
    AllocateHugepages,
    CpuRequest,
    GetHealth,
    GetHistory,
    GetMemoryInfo,
    GetOvsAffinity,
    GetTopology,
    ListAllocations,
    Request,
)
from epa_daemon.rights import Access

# Whatever is in neither is an administrator's.
_READS = {GetHealth, GetHistory, GetMemoryInfo, GetOvsAffinity, GetTopology, ListAllocations}
_CHANGES = (CpuRequest, AllocateHugepages)


def check(request: Request, peer: Peer, access: Access) -> None:
    """Check that this peer may ask for this at all.

    Raises:
        Refusal: `not-permitted`.
    """
    if type(request) in _READS or peer.administrator:
        return
    if not isinstance(request, _CHANGES):
        raise Refusal(
            "not-permitted",
            f"uid {peer.uid} may not ask for {request.action()}; "
            "that is for root or the daemon's user",
        )
    if peer.uid in access.uids or (access.gids and access.gids & peer.groups()):
        return
    raise Refusal(
        "not-permitted",
        f"uid {peer.uid} may only read; changes need root, the daemon's user, "
        "or an entry in access.uids or access.gids",
    )


def spared(peer: Peer, snap: str | None, ledger: Ledger, access: Access) -> frozenset[str]:
    """The services whose claims this peer must not change.

    Args:
        peer: who asks.
        snap: its snap; one that is not known has no claims of its own, and is not "outside".
        ledger: which snap made whose claims; those of nobody are everybody's.
        access: the options in force.
    """
    if not access.owners or (peer.administrator and not peers.is_foreign(snap)):
        return frozenset()
    return frozenset(name for name, maker in ledger.made_by.items() if maker != snap)


def attributed(
    service: str, changed: Collection[str], before: Ledger, after: Ledger, snap: str | None
) -> Ledger:
    """The ledger after a change, with its claims made by the snap that asked for them.

    Only a service that held nothing before: a change never makes somebody else's claims one's
    own, nor those that nobody is known to have made. Of services among those that have changed
    and hold nothing any more, it is forgotten.
    """
    for name in changed:
        if name in after.made_by and not after.holds(name):
            after = after.with_maker(name, "")
    if before.holds(service) or not after.holds(service):
        return after
    return after.with_maker(service, snap) if snap and peers.is_foreign(snap) else after


def check_owner(service: str, forbidden: frozenset[str], ledger: Ledger, snap: str | None) -> None:
    """Check that a service is not among those that `spared` has found.

    Raises:
        Refusal: `not-permitted`.
    """
    if service in forbidden:
        caller = "a process whose snap is not known" if snap is None else _named(snap)
        raise Refusal(
            "not-permitted",
            f"The claims of service {service} were made by snap {ledger.made_by[service]}; "
            f"under policy.owners=snap only that snap, and root outside snaps, may change them, "
            f"and not {caller}",
        )


def _named(snap: str) -> str:
    return f"snap {snap}" if snap else "another user"
