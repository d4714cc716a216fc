# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""With policy.owners=snap, a snap's claims are changed by it and by root outside snaps."""

import json
from typing import Any

import pytest

from tests.functional.daemons import Daemon, MakeDaemon, Reply
from tests.functional.snap_groups import ask_from
from tests.functional.test_peers import NOBODY, needs_root

pytestmark = needs_root


def cores(service: str, count: int, **more: Any) -> dict[str, Any]:
    return {"action": "allocate_cores", "service_name": service, "num_of_cores": count, **more}


def numa(service: str, count: int, **more: Any) -> dict[str, Any]:
    return cores(service, count, numa_node=0, **more) | {"action": "allocate_numa_cores"}


def pages(service: str, count: int) -> dict[str, Any]:
    where = {"node_id": 0, "size_kb": 2048}
    return {
        "action": "allocate_hugepages",
        "service_name": service,
        "hugepages_requested": count,
        **where,
    }


def refused(reply: Reply) -> str:
    assert reply["code"] == "not-permitted", reply
    return reply["error"]


@pytest.fixture
def owning(make_daemon: MakeDaemon) -> Daemon:
    return make_daemon(cpu_pool="0-1,8-9", arguments=("--owners", "snap")).start()


def test_a_snap_keeps_others_from_its_claims(owning: Daemon):
    assert ask_from("nova", owning, cores("a", 2))["allocated_cores"] == "2-3"
    for request in (
        cores("a", -1),
        cores("a", 3),
        cores("a", 2),  # To be told "granted" would be a lie, too.
        {"action": "allocate_cores_percent", "service_name": "a", "percent": 0},
        numa("a", -1),
        pages("a", 1),
    ):
        text = refused(ask_from("other", owning, request))
        assert "were made by snap nova" in text
        assert "not snap other" in text
    assert owning.owners() == {"a": "2-3"}
    assert ask_from("nova", owning, cores("a", 3))["allocated_cores"] == "2-4"


def test_root_outside_snaps_may_change_everything_and_the_owner_stays(owning: Daemon):
    ask_from("nova", owning, cores("a", 2))
    assert owning.ask("allocate_cores", service_name="a", num_of_cores=4)["cores_allocated"] == 4
    refused(ask_from("other", owning, cores("a", -1)))
    assert ask_from("nova", owning, cores("a", -1))["cores_allocated"] == 0


def test_a_full_release_forgets_the_owner_and_hugepages_count_as_claims(owning: Daemon):
    ask_from("nova", owning, cores("a", 2))
    ask_from("nova", owning, pages("a", 1))
    ask_from("nova", owning, cores("a", -1))
    refused(ask_from("other", owning, cores("a", 1)))
    ask_from("nova", owning, pages("a", -1))
    assert ask_from("other", owning, cores("a", 1))["cores_allocated"] == 1
    refused(ask_from("nova", owning, cores("a", 1)))


def test_claims_of_nobody_are_everybodys_and_no_change_steals_them(owning: Daemon):
    owning.ask("allocate_cores", service_name="a", num_of_cores=2)
    assert ask_from("nova", owning, cores("a", 3))["cores_allocated"] == 3
    assert ask_from("other", owning, cores("a", 2))["cores_allocated"] == 2
    assert ask_from("nova", owning, cores("a", -1))["cores_allocated"] == 0


def test_the_owner_outlives_a_restart(owning: Daemon):
    ask_from("nova", owning, cores("a", 2))
    owning.kill()
    owning.start()
    refused(ask_from("other", owning, cores("a", -1)))


def test_a_reclamation_takes_nothing_from_another_snap(owning: Daemon):
    ask_from("nova", owning, cores("a", 6))
    assert owning.owners() == {"a": "2-7"}
    text = refused(ask_from("other", owning, numa("dpdk", 2)))
    assert "snap nova holds for a" in text
    assert owning.owners() == {"a": "2-7"}
    assert owning.ask("allocate_numa_cores", service_name="dpdk", numa_node=0, num_of_cores=2)[
        "cores_allocated"
    ]


def test_a_reclamation_takes_from_those_it_may(owning: Daemon):
    ask_from("nova", owning, cores("a", 4))
    owning.ask("allocate_cores", service_name="b", num_of_cores=2)
    assert owning.owners() == {"a": "2-5", "b": "6-7"}
    assert ask_from("other", owning, numa("dpdk", 2))["cores_allocated"] == "6-7"


def test_another_user_outside_snaps_is_not_root_outside_snaps(make_daemon: MakeDaemon):
    arguments = ("--owners", "snap", "--access-uids", str(NOBODY))
    daemon = make_daemon(arguments=arguments).start()
    daemon.socket_path.chmod(0o666)
    ask_from("nova", daemon, cores("a", 2))
    text = refused(ask_from("", daemon, cores("a", -1), uid=NOBODY))
    assert "not another user" in text
    assert ask_from("", daemon, cores("b", 1), uid=NOBODY)["cores_allocated"] == 1
    assert ask_from("nova", daemon, cores("a", -1), uid=NOBODY)["cores_allocated"] == 0


def test_who_speaks_on_a_connection_whose_maker_has_ended_is_not_known(owning: Daemon):
    ask_from("nova", owning, cores("a", 2))
    text = refused(ask_from("nova", owning, cores("a", -1), speaker="child"))
    assert "a process whose snap is not known" in text
    assert "error" not in ask_from("nova", owning, cores("b", 1), speaker="child")
    assert owning.ask("get_history", service_name="b")["events"][0]["snap"] is None
    assert ask_from("other", owning, cores("b", -1))["cores_allocated"] == 0


def test_switched_off_and_on_while_it_runs(make_daemon: MakeDaemon):
    daemon = make_daemon(cpu_pool=None)
    file = daemon.folder / "options.json"
    daemon.arguments = ("--options-file", str(file))
    daemon.start()
    assert ask_from("nova", daemon, cores("a", 2))["cores_allocated"] == 2
    assert ask_from("other", daemon, cores("a", 3))["cores_allocated"] == 3
    numbers = {
        "cpu_pool": None,
        "small_system_percent": 80,
        "large_system_threshold": 100,
        "large_system_reserved": 16,
    }
    for owners in ("snap", None):
        offered = json.dumps(numbers | {"owners": owners})
        file.with_name("options.json.new").write_text(offered)
        assert daemon.ask("reload")["options"]["owners"] == owners
        reply = ask_from("other", daemon, cores("a", 2))
        assert ("error" in reply) == (owners == "snap")
