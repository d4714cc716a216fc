# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Who got, lost and released what, at whose request: through the socket and the command."""

import contextlib
import json
import os
import re
import sqlite3

import pytest

from tests.functional.daemons import Daemon
from tests.functional.snap_groups import ask_from
from tests.functional.test_commands import prints, run
from tests.functional.test_peers import needs_root

PAGES = {"node_id": 0, "size_kb": 2048}


def a_day(daemon: Daemon) -> None:
    daemon.ask("allocate_cores", service_name="nova", num_of_cores=6)
    daemon.ask("allocate_numa_cores", service_name="dpdk", numa_node=0, num_of_cores=2)
    daemon.ask("allocate_hugepages", service_name="nova", hugepages_requested=3, **PAGES)
    daemon.ask("allocate_hugepages", service_name="nova", hugepages_requested=1, **PAGES)
    daemon.ask("allocate_cores", service_name="nova", num_of_cores=-1)


def test_a_reclamation_is_a_loss_at_the_request_of_the_one_that_took(daemon: Daemon):
    a_day(daemon)
    events = daemon.ask("get_history")["events"]
    told = [
        (e["service_name"], e["subject"], e["got"], e["lost"], e["released"], e["requested_for"])
        for e in reversed(events)
    ]
    assert told == [
        ("nova", "cpus isolated", "2-7", "", "", "nova"),
        ("dpdk", "cpus isolated", "2-3", "", "", "dpdk"),
        ("nova", "cpus isolated", "", "2-3", "", "dpdk"),
        ("nova", "hugepages node0 2048 kB", "3", "", "", "nova"),
        ("nova", "hugepages node0 2048 kB", "", "", "2", "nova"),
        ("nova", "cpus isolated", "", "", "4-7", "nova"),
    ]
    assert {(e["uid"], e["pid"]) for e in events} == {(os.geteuid(), os.getpid())}


def test_it_is_the_same_after_a_restart_and_comes_page_by_page(daemon: Daemon):
    a_day(daemon)
    before = daemon.ask("get_history")
    assert before["next"] is None
    daemon.restart()
    assert daemon.ask("get_history") == before
    found: list[object] = []
    at: int | None = None
    for _ in range(3):
        page = daemon.ask("get_history", limit=2, before=at)
        assert len(page["events"]) == 2
        found += page["events"]
        at = page["next"]
    assert at is None
    assert found == before["events"]
    assert daemon.ask("get_history", service_name="dpdk")["events"] == [before["events"][4]]


def test_what_is_asked_must_make_sense(daemon: Daemon):
    for wrong in ({"limit": 0}, {"limit": 1001}, {"since": "yesterday"}, {"since": 5}):
        assert daemon.ask("get_history", **wrong)["code"] == "invalid-request"


def test_a_long_page_is_cut_and_nothing_is_left_out(daemon: Daemon):
    name = "ü" * 100
    for number in range(300):
        daemon.ask("allocate_cores", service_name=name, num_of_cores=1 + number % 2)
    numbers: list[int] = []
    at: int | None = None
    while True:
        raw = daemon.raw(
            json.dumps({"action": "get_history", "limit": 1000, "before": at}).encode()
        )
        assert len(raw) <= 64 * 1024
        page = json.loads(raw)
        numbers += [event["id"] for event in page["events"]]
        at = page["next"]
        if at is None:
            break
    assert numbers == list(range(300, 0, -1))
    shown = json.loads(prints(daemon, "history", "--format", "json"))["events"]
    assert [event["id"] for event in shown] == list(range(1, 301))


def test_the_command_prints_it_as_it_happened(daemon: Daemon):
    assert prints(daemon, "history") == "nothing happened\n"
    a_day(daemon)
    text = prints(daemon, "history", "--service", "nova", "--since", "1h")
    shown = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "WHEN", text)
    shown = re.sub(rf"uid \d+ pid {os.getpid()}( snap \S+)?", "US", shown)
    assert [" ".join(line.split()) for line in shown.splitlines()] == [
        "WHEN SERVICE OF GOT LOST RELEASED ACTION REQUESTED BY",
        "WHEN nova cpus isolated 2-7 - - allocate_cores US",
        "WHEN nova cpus isolated - 2-3 - allocate_numa_cores US for dpdk",
        "WHEN nova hugepages node0 2048 kB 3 - - allocate_hugepages US",
        "WHEN nova hugepages node0 2048 kB - - 2 allocate_hugepages US",
        "WHEN nova cpus isolated - - 4-7 allocate_cores US",
    ]
    assert len(prints(daemon, "history", "--last", "2").splitlines()) == 3
    assert prints(daemon, "history", "--since", "2999-01-01") == "nothing happened\n"


@pytest.mark.parametrize("since", ["yesterday", "2 fortnights", "-1h", "", "9999999d"])
def test_a_since_that_is_no_time_is_wrong_usage(daemon: Daemon, since: str):
    done = run(daemon, "history", f"--since={since}")
    assert done.returncode == 2
    assert "2026-01-31T12:00" in done.stderr


@needs_root
def test_the_snap_that_asked_is_named(daemon: Daemon):
    request = {"action": "allocate_cores", "service_name": "a", "num_of_cores": 1}
    assert ask_from("openstack-hypervisor", daemon, request)["cores_allocated"] == 1
    assert daemon.ask("get_history")["events"][0]["snap"] == "openstack-hypervisor"
    assert " snap openstack-hypervisor" in prints(daemon, "history")


def test_what_is_too_old_is_not_shown(daemon: Daemon):
    daemon.ask("allocate_cores", service_name="a", num_of_cores=1)
    daemon.ask("allocate_cores", service_name="a", num_of_cores=2)
    daemon.stop()
    statement = "UPDATE events SET at = '2001' || substr(at, 5) WHERE id = 1"
    store = daemon.state / "ledger.db"
    with contextlib.closing(sqlite3.connect(store, isolation_level=None)) as connection:
        connection.execute(statement)
    daemon.start()
    assert [event["id"] for event in daemon.ask("get_history")["events"]] == [2]
    daemon.ask("allocate_cores", service_name="a", num_of_cores=1)
    daemon.stop()
    with contextlib.closing(sqlite3.connect(store)) as connection:
        assert connection.execute("SELECT min(id), max(id) FROM events").fetchone() == (2, 3)
