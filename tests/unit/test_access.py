# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Who may do what, as values."""

import os
from typing import Any

import pytest

from epa_daemon import access, options, peers
from epa_daemon.errors import CannotStart, Refusal
from epa_daemon.ledger import Ledger
from epa_daemon.options import Options, OptionsFile
from epa_daemon.peers import Peer
from epa_daemon.protocol import ACTIONS, Request
from epa_daemon.rights import Access
from tests.unit.scenes import holding, holding_all

READS = {
    *("list_allocations", "get_memory_info", "get_topology", "get_health", "get_history"),
    "get_ovs_affinity",
}
CHANGES = {"allocate_cores", "allocate_cores_percent", "allocate_numa_cores", "allocate_hugepages"}
ROOT, STRANGER = Peer(1, 0, 0), Peer(1, 4711, 4712)


def request(action: str) -> Request:
    return ACTIONS[action].model_construct()


def allowed(action: str, peer: Peer, rules: Access) -> bool:
    try:
        access.check(request(action), peer, rules)
    except Refusal as refusal:
        assert refusal.code == "not-permitted"
        return False
    return True


@pytest.mark.parametrize("action", ACTIONS)
def test_each_action_is_for_some(action: str):
    assert allowed(action, ROOT, Access())
    assert allowed(action, Peer(1, os.geteuid(), 5), Access())
    assert allowed(action, STRANGER, Access()) == (action in READS)
    listed = Access(uids=frozenset({STRANGER.uid}))
    assert allowed(action, STRANGER, listed) == (action in READS | CHANGES)
    grouped = Access(gids=frozenset({STRANGER.gid}))
    assert allowed(action, STRANGER, grouped) == (action in READS | CHANGES)


def test_an_action_that_is_in_no_list_is_an_administrators():
    class New(Request):
        def action(self) -> str:
            return "new"

    listed = Access(uids=frozenset({STRANGER.uid}))
    with pytest.raises(Refusal):
        access.check(New(), STRANGER, listed)


MADE = (
    holding_all(a=holding("2"), b=holding("3"), c=holding("4"))
    .with_maker("a", "nova")
    .with_maker("b", "ceph")
)


@pytest.mark.parametrize(
    ("peer", "snap", "spared"),
    [
        (ROOT, "", set[str]()),
        (ROOT, "nova", {"b"}),
        (ROOT, "other", {"a", "b"}),
        (ROOT, None, {"a", "b"}),
        (STRANGER, "", {"a", "b"}),
        (STRANGER, "ceph", {"a"}),
    ],
)
def test_whose_claims_are_spared(peer: Peer, snap: str | None, spared: set[str]):
    assert access.spared(peer, snap, MADE, Access(owners=True)) == spared
    assert access.spared(peer, snap, MADE, Access()) == set()


def test_the_command_in_the_daemons_own_snap_is_root_outside_snaps(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(peers, "_OWN_SNAP", "epa-orchestrator")
    assert access.spared(ROOT, "epa-orchestrator", MADE, Access(owners=True)) == set()
    after = MADE.with_holding("d", holding("5"))
    assert access.attributed("d", {"d"}, MADE, after, "epa-orchestrator").made_by == MADE.made_by


def test_who_claims_first_is_the_maker_until_nothing_is_left():
    one = Ledger().with_pages((0, 4), "a", 1)
    made = access.attributed("a", {"a"}, Ledger(), one, "nova")
    assert made.made_by == {"a": "nova"}
    more = access.attributed("a", {"a"}, made, made.with_holding("a", holding("2")), "other")
    assert more.made_by == {"a": "nova"}
    left = access.attributed("a", {"a"}, more, more.with_pages((0, 4), "a", 0), "nova")
    assert left.made_by == {"a": "nova"}
    gone = access.attributed("x", {"a", "x"}, left, left.with_holding("a", None), "other")
    assert gone.made_by == {}
    unknown = access.attributed("a", {"a"}, gone, gone.with_holding("a", holding("2")), None)
    assert unknown.made_by == {}
    known = unknown.with_holding("a", holding("2-3"))
    assert access.attributed("a", {"a"}, unknown, known, "nova").made_by == {}


@pytest.mark.parametrize(
    ("cgroup", "uid", "snap"),
    [
        (b"0::/system.slice/snap.nova.compute.service\n", 0, "nova"),
        (b"0::/system.slice/snap.nova.compute.service\n", 5, "nova"),
        (b"0::/system.slice/snap.nova_two.compute-1.service\n", 0, "nova_two"),
        (b"0::/system.slice/snap.nova.hook.configure-1-2.scope\n", 0, "nova"),
        (b"12:pids:/system.slice\n1:name=systemd:/system.slice/snap.a.b.service\n", 0, "a"),
        (b"0::/user.slice/user-0.slice/user@0.service/app.slice/snap.a.b-1.scope\n", 0, "a"),
        # A user may name a scope of their own like that of any snap.
        (b"0::/user.slice/user-5.slice/user@5.service/app.slice/snap.a.b-1.scope\n", 5, None),
        # And a service the groups below its own.
        (b"0::/system.slice/snap.lxd.daemon.service/snap.a.b.service\n", 0, "lxd"),
        (b"0::/system.slice/notsnap.a.b.service\n", 0, ""),
        # The hooks of a component, as systemd writes a "+".
        (b"0::/system.slice/snap.a\\x2bcomp.hook.install-1-2.scope\n", 0, "a"),
        (b"0::/system.slice/snap.a_two\\x2bcomp.hook.remove-1-2.scope\n", 0, "a_two"),
        (b"0::/system.slice/snap.a+comp.hook.install-1-2.scope\n", 0, "a"),
        # A quota group is no snap.
        (b"0::/snap.grp.slice/snap.foo.svc.service\n", 0, "foo"),
        (b"0::/snap.grp.slice/snap.grp-sub.slice/snap.foo.svc.service\n", 0, "foo"),
        (b"0::/snap.epa-orchestrator.slice/snap.foo.app-1-2.scope\n", 0, "foo"),
        (b"0::/snap.grp.slice\n", 0, ""),
        # What looks like a snap's and is not understood might be anybody's.
        (b"0::/system.slice/snap.A.svc.service\n", 0, None),
        (b"0::/system.slice/snap.a\\x2dq.svc.service\n", 0, None),
        (b"0::/system.slice/snap.a+.svc.service\n", 0, None),
        (b"0::/system.slice/snap.a+comp.svc.service\n", 0, None),
        (b"0::/system.slice/snap.foo.service\n", 0, None),
        (b"0::/system.slice/snap.foo\n", 0, None),
        (b"0::/snap.foo/snap.bar.svc.service\n", 0, None),
        (b"0::/system.slice/ssh.service/snap.a.b.service\n", 0, ""),
        (b"0::/system.slice/ssh.service\n", 0, ""),
        (b"0::/\n", 0, ""),
        (b"", 0, None),
    ],
)
def test_the_snap_of_a_control_group(cgroup: bytes, uid: int, snap: str | None):
    assert peers.snap_in(cgroup, uid) == snap


def test_without_a_connection_nothing_is_known():
    assert Peer(os.getpid(), 0, 0).snap() is None
    assert Peer(os.getpid(), 0, 7).groups() == {7}


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (None, ()),
        ("", ()),
        ([], ()),
        (1000, (1000,)),
        ("1000", (1000,)),
        (" 1001 ,1000,1001", (1000, 1001)),
        ([2, "1"], (1, 2)),
        (0, (0,)),
        (2**32 - 2, (2**32 - 2,)),
    ],
)
def test_lists_of_numbers(value: object, found: tuple[int, ...]):
    assert options.ids("access.uids", value) == found


@pytest.mark.parametrize("value", [-1, 2**32 - 1, 1.5, True, "x", "1,,2", " ", {}, [[1]], "1-3"])
def test_what_is_no_list_of_numbers(value: object):
    with pytest.raises(CannotStart, match=r"^Invalid access\.gids: '.*' is not a list of numbers"):
        options.ids("access.gids", value)


def test_too_long_a_list():
    with pytest.raises(CannotStart, match="more than 64"):
        options.ids("access.gids", list(range(65)))


@pytest.mark.parametrize("value", ["Snap", "", True, 1, [], {}])
def test_what_is_no_kind_of_owner(value: object):
    with pytest.raises(CannotStart, match=r"^Invalid policy\.owners: "):
        options.owners(value)


def test_the_options_file_keeps_who_may(tmp_path: Any):
    file = OptionsFile(tmp_path / "options.json")
    kept = Options(access_uids=(1, 2), access_gids=(3,), owners="snap")
    file.keep(kept)
    assert file.kept() == kept
    assert kept.access == Access(frozenset({1, 2}), frozenset({3}), owners=True)
