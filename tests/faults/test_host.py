# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""A host that changes under the claims: they stay visible, and can always be released."""

import dataclasses
import random
import shutil

from tests import host_trees
from tests.faults import load, stories, tally, witness
from tests.faults.budget import CHOSEN
from tests.faults.stories import HOST
from tests.faults.witness import Witness
from tests.functional.daemons import Daemon, MakeDaemon, Reply

REASONS = {
    "insufficient-cpus",
    "insufficient-hugepages",
    "claims-outside-pool",
    "pool-excludes-claims",
    "no-cpus",
    "no-cpus-in-node",
    "node-too-small",
    "no-such-node",
    "no-such-hugepage-size",
    "nothing-selected",
    "no-numa",
    "held-by-others",
    "invalid-cpu-pool",
}


def changed(chance: random.Random) -> host_trees.HostTree:
    """The host with something missing, or as it was."""
    assert HOST.nodes is not None
    cpus = sorted(HOST.cpus)
    match chance.randrange(5):
        case 0:
            gone = frozenset(chance.sample(cpus, chance.randrange(1, 100)))
            return dataclasses.replace(HOST, offline=gone)
        case 1:
            isolated = frozenset(chance.sample(cpus[16:], chance.randrange(112)))
            return dataclasses.replace(HOST, isolated=isolated)
        case 2:
            node = chance.choice([*HOST.nodes])
            nodes = {n: its for n, its in HOST.nodes.items() if n != node}
            pages = {key: count for key, count in HOST.pages.items() if key[0] != node}
            return dataclasses.replace(HOST, nodes=nodes, offline=HOST.nodes[node], pages=pages)
        case 3:
            pages = {
                key: (total := chance.randrange(6), chance.randint(0, total)) for key in HOST.pages
            }
            return dataclasses.replace(HOST, pages=pages)
        case _:
            return HOST


def put(daemon: Daemon, tree: host_trees.HostTree) -> None:
    shutil.rmtree(daemon.root)
    tree.write(daemon.root)


def check_totals(daemon: Daemon) -> None:
    for pool in ("isolated", "general"):
        listing = daemon.listing(pool=pool)
        assert min(v for k, v in listing.items() if k.startswith(("total_", "remaining_"))) >= 0
    for node in daemon.ask("get_memory_info")["numa_hugepages"].values():
        assert all(0 <= entry["free"] <= entry["total"] for entry in node["capacity"])


def refuses_growth(daemon: Daemon, told: Witness, tree: host_trees.HostTree) -> int:
    """Services whose claims the host does not have any more get nothing, with the reason."""
    refused = 0
    for service, held in witness.look(daemon).items():
        pool = "general" if service.endswith("0") else "isolated"
        has = tree.isolated if pool == "isolated" else frozenset(range(16))
        if held.cpus and not held.cpus <= has & tree.online:
            more = {"pool": pool, "num_of_cores": len(held.cpus) + 1}
            reply = told.ask(daemon, "allocate_cores", service_name=service, **more)
            assert reply["code"] in REASONS, reply
            assert reply["error"]
            refused += 1
    return refused


def release_one(daemon: Daemon, told: Witness, chance: random.Random) -> Reply | None:
    holding = [name for name, held in witness.look(daemon).items() if held.cpus]
    if not holding:
        return None
    service = chance.choice(sorted(holding))
    pool = "general" if service.endswith("0") else "isolated"
    return told.ask(daemon, "allocate_cores", service_name=service, pool=pool, num_of_cores=-1)


def test_a_host_that_changes_hides_no_claim_and_holds_back_no_release(make_daemon: MakeDaemon):
    daemon = make_daemon(HOST, cpu_pool=stories.GENERAL).start()
    told, chance = Witness(), random.Random(CHOSEN.seed)
    refused = released = restarts = 0
    for _ in range(CHOSEN.host_changes):
        tree = changed(chance)
        put(daemon, tree)
        if tree.isolated != HOST.isolated or chance.random() < 0.1:
            # The kernel takes another isolcpus only with a reboot.
            daemon.restart()
            restarts += 1
        assert stories.lies(told.stories, witness.look(daemon)) == []
        check_totals(daemon)
        refused += refuses_growth(daemon, told, tree)
        for _ in range(6):
            service = f"c{chance.randrange(4)}-{chance.randrange(3)}"
            request = load.requests_of(service, chance)
            reply = told.ask(daemon, **request)
            assert reply.get("code") in REASONS | {None}, reply
        reply = release_one(daemon, told, chance)
        if reply:
            assert "error" not in reply
            released += 1
        assert stories.lies(told.stories, witness.look(daemon)) == []
        check_totals(daemon)
    assert refused > 0
    assert released > 0
    tally.add(
        "test_a_host_that_changes_hides_no_claim_and_holds_back_no_release",
        changes=CHOSEN.host_changes,
        growths_refused=refused,
        releases=released,
        restarts=restarts,
    )
