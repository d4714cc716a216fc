# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The rules of grants and releases (contract, parts 3 to 7), as values in and values out."""

import pytest

from epa_daemon.host import Host
from epa_daemon.ledger import MAX_SERVICES, Holding, Ledger, Policy, Pool
from epa_daemon.pools import GeneralPool, Rules
from epa_daemon.protocol import CpuRequest
from epa_daemon.sysfs import Fault
from tests.unit.scenes import (
    cores,
    granted,
    held,
    holding,
    holding_all,
    host,
    numa,
    percent,
    refused,
    rules,
    without_numa,
)

UNREADABLE = Fault("/sys/devices/system/cpu/online", "unreadable", "Permission denied", "")
MALFORMED = Fault(
    "/sys/devices/system/cpu/online", "malformed", "Invalid cpu-pool CPU list component: 'x'", ""
)
PROTECTED = Policy.NON_PREEMPTIVE


def test_checks_come_in_the_order_of_the_contract():
    """Each request breaks every later rule as well; mending one shows the next."""
    own = holding("3", policy=PROTECTED)
    offline_own = host(offline="3")
    seen = [
        refused(numa(9, 0, pool=Pool.GENERAL), host(fault=UNREADABLE), holding_all(a=own)),
        refused(
            numa(9, 0, pool=Pool.GENERAL), host(fault=UNREADABLE), holding_all(a=own), rules("0")
        ),
        refused(numa(9, 0, pool=Pool.GENERAL), None, holding_all(a=own), rules("0")),
        refused(numa(9, 1, pool=Pool.GENERAL), None, holding_all(a=own), rules("0")),
        refused(numa(9, 99), without_numa(host(isolated="")), holding_all(a=own)),
        refused(numa(9, 99), host(isolated=""), holding_all(a=own)),
        refused(numa(1, 99), host(isolated=""), holding_all(a=own)),
        refused(numa(1, 99), host(isolated="3", offline="3"), holding_all(a=own)),
        refused(numa(1, 99), host(isolated="2-3"), holding_all(a=own)),
        refused(numa(0, 99, preemption_policy=Policy.LEGACY), offline_own, holding_all(a=own)),
        refused(numa(0, -2, preemption_policy=Policy.LEGACY), offline_own, holding_all(a=own)),
        refused(numa(0, 5, preemption_policy=Policy.LEGACY), offline_own, holding_all(a=own)),
        refused(numa(0, 5), offline_own, holding_all(a=own, b=holding("2", explicit=True))),
        refused(numa(0, 6), None, holding_all(a=own, b=holding("2", explicit=True))),
    ]
    assert [refusal.code for refusal in seen] == [
        "pool-not-configured",
        "host-unreadable",
        "invalid-count",
        "wrong-pool",
        "no-numa",
        "no-such-node",
        "pool-excludes-claims",
        "no-cpus",
        "no-cpus-in-node",
        "node-too-small",
        "invalid-count",
        "policy-downgrade",
        "claims-outside-pool",
        "held-by-others",
    ]


def test_a_malformed_online_file_is_told_apart_from_an_unreadable_one():
    assert refused(cores(1), host(fault=UNREADABLE)).text == (
        "Failed to read CPU topology /sys/devices/system/cpu/online: Permission denied"
    )
    refusal = refused(cores(1), host(fault=MALFORMED))
    assert refusal.text == "Invalid cpu-pool CPU list component: 'x'"
    assert refusal.path == "/sys/devices/system/cpu/online"


@pytest.mark.parametrize("count", range(1, 141))
def test_the_heuristic_takes_80_percent_or_all_but_16(count: int):
    seen = host(isolated=f"0-{count - 1}", nodes=1, cores=count, threads=1)
    expected = int(count * 0.8) if count <= 100 else count - 16
    if expected == 0:
        assert refused(cores(0), seen).text == "Failed to allocate 0 cores"
    else:
        assert granted(cores(0), seen)[0]["cores_allocated"] == expected


def test_the_heuristic_follows_the_policy_numbers():
    by = rules(small_system_percent=50, large_system_threshold=11, large_system_reserved=5)
    assert granted(cores(0), by=by)[0]["cores_allocated"] == 7
    small = host(isolated="2-7")
    assert granted(cores(0), small, by=by)[0]["cores_allocated"] == 3


def test_the_heuristic_counts_candidates_and_not_the_whole_pool():
    reply, _ = granted(cores(0), before=holding_all(b=holding("10-15")))
    assert reply["cores_allocated"] == 4


@pytest.mark.parametrize(("share", "expected"), [(1, 1), (50, 6), (51, 7), (100, 12)])
def test_percent_is_of_the_whole_eligible_pool_rounded_up(share: int, expected: int):
    assert granted(percent(share))[0]["cores_allocated_count"] == expected


def test_percent_is_refused_where_others_hold_too_much():
    refusal = refused(percent(100), before=holding_all(b=holding("2-3")))
    assert refusal.text == "Insufficient CPUs available. Requested: 12, Available: 10"


def test_own_cpus_count_as_available():
    refusal = refused(cores(99), before=holding_all(a=holding("2-3"), b=holding("4-5")))
    assert refusal.text == "Insufficient CPUs available. Requested: 99, Available: 10"


def test_a_count_grant_keeps_what_is_held_and_prefers_its_node():
    _, after = granted(cores(4), before=holding_all(a=holding("12-13")))
    assert held(after) == "10-13"


def test_shrinking_keeps_the_lowest_ids():
    assert held(granted(cores(2), before=holding_all(a=holding("4-7")))[1]) == "4-5"


def test_a_count_grant_clears_explicit():
    before = holding_all(a=holding("2-3", explicit=True, node=0))
    _, after = granted(cores(2), before=before)
    assert not after.holdings["a"].explicit_cpus


def test_a_numa_grant_replaces_its_node_and_keeps_the_others():
    before = granted(cores(8))[1]
    assert held(before) == "2-7,10-11"
    reply, after = granted(numa(0, 2), before=before)
    assert reply["cores_allocated"] == "2-3"
    assert held(after) == "2-3,10-11"
    assert after.holdings["a"].explicit_cpus == {2, 3}


def test_a_legacy_numa_request_takes_non_explicit_cpus_only_after_free_ones():
    before = holding_all(b=holding("4-7"))
    reply, after = granted(numa(0, 3), before=before)
    assert reply["cores_allocated"] == "2-4"
    assert held(after, "b") == "5-7"


def test_a_loser_disappears_when_nothing_is_left():
    _, after = granted(numa(0, 6), before=holding_all(b=holding("4-7")))
    assert set(after.holdings) == {"a"}


@pytest.mark.parametrize(
    "blocking",
    [
        holding("2-7", explicit=True),
        holding("2-7", policy=PROTECTED),
        holding("2-7", pool=Pool.GENERAL),
    ],
    ids=["explicit", "non-preemptive", "other pool"],
)
def test_protected_explicit_and_foreign_claims_are_never_taken(blocking: Holding):
    by = rules("2-7") if blocking.pool is Pool.GENERAL else Rules()
    refusal = refused(numa(0, 1), before=holding_all(b=blocking), by=by)
    assert refusal.text == (
        "Failed to allocate 1 cores from NUMA node 0. CPUs 2-7 are held by other services "
        "through an explicit NUMA or non-preemptive claim."
    )


def test_a_non_preemptive_request_takes_nothing():
    before = holding_all(b=holding("2-7"))
    refusal = refused(numa(0, 1, preemption_policy=PROTECTED), before=before)
    assert refusal.code == "held-by-others"


def test_an_inherited_non_preemptive_policy_takes_nothing_either():
    before = holding_all(a=holding("10", policy=PROTECTED, node=1), b=holding("2-7"))
    assert refused(numa(0, 1), before=before).code == "held-by-others"


def test_count_requests_take_nothing():
    refusal = refused(cores(7), before=holding_all(b=holding("2-7")))
    assert refusal.code == "insufficient-cpus"


def test_a_non_preemptive_request_upgrades_everything_and_a_failed_one_nothing():
    before = holding_all(a=holding("2-3", explicit=True, node=0))
    refused(numa(1, 7, preemption_policy=PROTECTED), before=before)
    assert before.holdings["a"].policy is Policy.LEGACY
    reply, after = granted(numa(1, 2, preemption_policy=PROTECTED), before=before)
    assert reply["preemption_policy"] == "non-preemptive"
    assert after.holdings["a"].policy is PROTECTED
    assert held(after) == "2-3,10-11"


def test_a_full_release_forgets_policy_and_pool():
    before = holding_all(a=holding("0", policy=PROTECTED, pool=Pool.GENERAL))
    reply, after = granted(cores(-1, pool=Pool.GENERAL), before=before, by=rules("0-1"))
    assert reply["preemption_policy"] is None
    reply, _ = granted(cores(2, preemption_policy=Policy.LEGACY), before=after)
    assert (reply["pool"], reply["preemption_policy"]) == ("isolated", "legacy")


def test_a_node_release_reports_the_policy_of_what_is_left():
    before = granted(numa(1, 2, preemption_policy=PROTECTED))[1]
    before = granted(numa(0, 2), before=before)[1]
    reply, after = granted(numa(0, -1), before=before)
    assert reply["preemption_policy"] == "non-preemptive"
    assert (reply["num_of_cores"], reply["cores_allocated"]) == (-1, "")
    assert held(after) == "10-11"
    assert granted(numa(1, -1), before=after)[0]["preemption_policy"] is None


@pytest.mark.parametrize("request_", [cores(-1), percent(0), percent(-1), numa(0, -1)])
@pytest.mark.parametrize(
    "seen",
    [host(), host(isolated=""), host(fault=UNREADABLE), host(offline="2-7,10-15")],
    ids=["as booted", "nothing isolated", "online unreadable", "all offline"],
)
def test_releases_succeed_without_claims_capacity_or_online(request_: CpuRequest, seen: Host):
    reply, after = granted(request_, seen)
    assert reply["preemption_policy"] is None
    assert after == Ledger()


def test_a_node_release_frees_a_claim_whose_cpu_is_offline():
    before = granted(numa(0, 6))[1]
    _, after = granted(numa(0, -1), host(offline="4-7"), before)
    assert held(after) == ""


def test_an_imported_claim_without_a_node_counts_where_its_cpu_is():
    before = holding_all(a=holding("2-3,10-11"))
    assert held(granted(numa(1, -1), before=before)[1]) == "2-3"


def test_shared_cpus_of_a_grant_and_of_a_release():
    before = holding_all(b=holding("2-3"))
    reply, after = granted(cores(4), before=before)
    assert (reply["allocated_cores"], reply["shared_cpus"]) == ("4-7", "10-15")
    reply, _ = granted(cores(-1), before=after)
    assert reply["shared_cpus"] == "4-7,10-15"


def test_both_pools_share_one_ledger():
    before = granted(cores(2, service="g", pool=Pool.GENERAL), by=rules("0-1,8-9"))[1]
    reply, after = granted(cores(12), before=before, by=rules("0-1,8-9"))
    assert reply["remaining_available_cpus"] == 0
    assert held(after, "g") == "0-1"
    assert refused(cores(1, service="g"), before=after).text == (
        "Service g owns CPUs in pool general; "
        "release that allocation in its pool before switching pools"
    )


def test_a_shrunk_pool_blocks_every_grant_in_it_but_no_release():
    before = holding_all(b=holding("2-3"))
    seen = host(isolated="4-7")
    assert refused(cores(1), seen, before).text == (
        "cpu-pool excludes allocated CPUs: 2-3; "
        "release or migrate these allocations before changing the pool"
    )
    assert granted(cores(-1, service="b"), seen, before)[1] == Ledger()


def test_a_general_pool_with_an_error_has_no_cpus_but_releases():
    by = Rules(GeneralPool(frozenset(), "overlap"))
    assert refused(cores(1, pool=Pool.GENERAL), by=by).text == "No CPUs available"
    assert granted(cores(-1, pool=Pool.GENERAL), by=by)[1] == Ledger()


def test_no_isolated_cpus_says_what_clients_look_for():
    text = "No CPUs available: No Isolated CPUs configured"
    assert refused(cores(0), host(isolated="")).text == text
    assert refused(cores(0), host(offline="2-7,10-15")).text == text


def test_nodes_that_cannot_serve_say_why():
    assert refused(numa(5, 1)).text == "NUMA node 5 does not exist"
    assert refused(numa(0, 1), without_numa(host())).text == "NUMA topology not available"
    assert refused(numa(1, 1), host(isolated="2-7")).text == (
        "No eligible CPUs available in NUMA node 1"
    )
    assert refused(numa(0, 7)).text == (
        "NUMA node 0 only has 6 eligible CPUs, but 7 were requested"
    )
    assert refused(numa(0, -2)).text == "Invalid NUMA core count"
    assert refused(numa(0, 0)).text == "num_of_cores=0 is invalid for allocate_numa_cores"


@pytest.mark.parametrize("request_", [cores(3), numa(0, 3), percent(25)])
def test_contested_services_cannot_grow(request_: CpuRequest):
    before = holding_all(a=holding("2-3", node=0), b=holding("3-4", node=0))
    assert refused(request_, before=before).code == "contested"


@pytest.mark.parametrize("request_", [cores(2), numa(0, 2), percent(10)])
def test_contested_services_keep_what_they_have_when_they_ask_again(request_: CpuRequest):
    """Not even where nothing is free: an error would be final for the client."""
    before = holding_all(
        a=holding("2-3", node=0),
        b=holding("3-4", node=0),
        c=holding("5-7,10-15", explicit=True),
    )
    _, after = granted(request_, before=before)
    assert (held(after), held(after, "b")) == ("2-3", "3-4")
    _, after = granted(cores(1), before=after)
    assert held(after) == "2"
    assert after.contested == frozenset()


def test_a_claim_made_on_a_node_is_replaced_there_even_if_its_cpu_has_moved():
    before = holding_all(a=holding("10", explicit=True, node=0))
    assert held(granted(numa(0, 2), before=before)[1]) == "2-3"


def test_the_number_of_services_is_bounded():
    names = {f"s{i}": holding(str(i), pool=Pool.GENERAL) for i in range(20, 20 + MAX_SERVICES)}
    before = holding_all(**names)
    by = rules(f"20-{20 + MAX_SERVICES}")
    assert refused(cores(1), before=before, by=by).code == "too-many-services"
    after = granted(cores(-1, service="s20", pool=Pool.GENERAL), before=before, by=by)[1]
    assert held(granted(cores(1), before=after, by=by)[1]) == "2"


def test_a_repeated_request_changes_nothing_at_all():
    for request in (cores(5), percent(40), numa(1, 3)):
        after = granted(request)[1]
        assert granted(request, before=after)[1] is after
