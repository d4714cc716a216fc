# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Open vSwitch's CPU affinity on this very host, with processes that look like its daemons.

One CPU of this host is the general pool of a daemon that reads the real `/`.
"""

import contextlib
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.functional.daemons import Daemon, read_to_end

STAND_IN = Path(__file__).parents[1] / "stand_in.py"
OURS = frozenset(os.sched_getaffinity(0))
CPU = max(OURS)
WITHOUT_IT = OURS - {CPU}


pytestmark = pytest.mark.skipif(
    len(OURS) < 2 or len(OURS) != os.cpu_count(),
    reason="needs at least two CPUs, and all that are online: no taskset, no cpuset",
)


class StandIn:
    def __init__(self, name: str, *threads: str):
        self.process = subprocess.Popen(
            [sys.executable, str(STAND_IN), name, *threads],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def _answer(self) -> None:
        assert self.process.stdout
        assert self.process.stdout.readline()

    def tell(self, line: str) -> None:
        assert self.process.stdin
        print(line, file=self.process.stdin, flush=True)
        self._answer()

    def masks(self) -> dict[str, frozenset[int]]:
        found: dict[str, frozenset[int]] = {}
        for path in Path(f"/proc/{self.process.pid}/task").iterdir():
            name = (path / "comm").read_text().strip()
            found[name] = frozenset(os.sched_getaffinity(int(path.name)))
        return found

    def all_masks(self) -> list[frozenset[int]]:
        """Also of threads that share a name, or come and go."""
        found: list[frozenset[int]] = []
        for tid in os.listdir(f"/proc/{self.process.pid}/task"):
            with contextlib.suppress(ProcessLookupError):
                found.append(frozenset(os.sched_getaffinity(int(tid))))
        return found

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def stand_in() -> Iterator[Callable[..., StandIn]]:
    made: list[StandIn] = []

    def make(name: str = "ovs-vswitchd", *threads: str) -> StandIn:
        made.append(StandIn(name, *threads))
        return made[-1]

    yield make
    for one in made:
        one.end()


@pytest.fixture
def daemon(short_folder: Path) -> Iterator[Daemon]:
    arguments = ("--ovs-switch", str(short_folder / "etc/openvswitch/switch"))
    made = Daemon(short_folder, Path("/"), cpu_pool=str(CPU), arguments=arguments)
    yield made.start()
    made.kill()


def switch(daemon: Daemon, content: str) -> None:
    path = Path(daemon.arguments[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def grant(daemon: Daemon, count: int = 1) -> None:
    reply = daemon.ask("allocate_cores", pool="general", service_name="a", num_of_cores=count)
    assert "error" not in reply


def soon(seen: Callable[[], bool], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def problems(daemon: Daemon) -> list[str]:
    return [problem["text"] for problem in daemon.ask("get_health")["problems"]]


def test_threads_leave_a_cpu_before_its_grant_is_answered_and_come_back(
    daemon: Daemon, stand_in: Callable[..., StandIn]
):
    one = stand_in("ovs-vswitchd", "handler1", "pmd-c01/id:2", *(f"urcu{n}" for n in range(20)))
    other = stand_in("ovsdb-server")
    pinned = {"pmd-c01/id:2": frozenset({CPU})}
    switch(daemon, "1")
    soon(lambda: set(daemon.ask("get_ovs_affinity")["switch"].values()) >= {"on"})
    time.sleep(0.3)
    for _ in range(10):
        grant(daemon)
        assert one.masks() == dict.fromkeys(one.masks(), WITHOUT_IT) | pinned
        assert other.masks() == {"ovsdb-server": WITHOUT_IT}
        grant(daemon, -1)
        time.sleep(0.1)
    soon(lambda: one.masks() == dict.fromkeys(one.masks(), OURS) | pinned)
    assert problems(daemon) == []


def test_new_threads_and_processes_are_found_within_a_second(
    daemon: Daemon, stand_in: Callable[..., StandIn]
):
    switch(daemon, "1")
    grant(daemon)
    one = stand_in("ovs-vswitchd", "handler1")
    soon(lambda: set(one.masks().values()) == {WITHOUT_IT}, 1.2)
    one.tell("new handler2")
    os.sched_setaffinity(one.process.pid, OURS)
    soon(lambda: set(one.masks().values()) == {WITHOUT_IT}, 1.2)


def test_a_busy_main_thread_that_makes_threads_leaves_none_behind(
    daemon: Daemon, stand_in: Callable[..., StandIn]
):
    one = stand_in("ovs-vswitchd", "handler1")
    switch(daemon, "1")
    soon(lambda: daemon.ask("get_ovs_affinity")["switch"]["state"] == "on")
    one.tell("churn")
    for _ in range(20):
        grant(daemon)
        assert set(one.all_masks()) == {WITHOUT_IT}
        grant(daemon, -1)
        # The next look widens.
        soon(lambda: OURS in one.all_masks())


def test_a_process_that_started_just_before_a_grant_leaves_its_cpu_too(
    daemon: Daemon, stand_in: Callable[..., StandIn]
):
    switch(daemon, "1")
    soon(lambda: daemon.ask("get_ovs_affinity")["switch"]["state"] == "on")
    for _ in range(3):
        one = stand_in("ovs-vswitchd", "handler1", "handler2")
        grant(daemon)
        assert set(one.all_masks()) == {WITHOUT_IT}
        grant(daemon, -1)
        one.end()


def test_what_was_found_comes_back_also_after_a_crash(
    daemon: Daemon, stand_in: Callable[..., StandIn]
):
    one = stand_in("ovs-vswitchd", "handler1")
    os.sched_setaffinity(one.process.pid, {CPU})
    found = one.masks()
    switch(daemon, "1")
    grant(daemon)
    soon(lambda: set(one.masks().values()) == {WITHOUT_IT})
    daemon.kill()
    switch(daemon, "")
    daemon.start()
    soon(lambda: one.masks() == found)
    switch(daemon, "1")
    soon(lambda: set(one.masks().values()) == {WITHOUT_IT})
    daemon.kill()
    daemon.start()
    one.tell("new urcu2")
    assert daemon.stop() == 0
    assert one.masks() == found | {"urcu2": frozenset(os.sched_getaffinity(1))}


def test_a_process_that_ends_in_the_middle_disturbs_nothing(
    daemon: Daemon, stand_in: Callable[..., StandIn]
):
    switch(daemon, "1")
    time.sleep(0.3)
    kept = stand_in("ovsdb-server")
    for _ in range(5):
        one = stand_in("ovs-vswitchd", *(f"handler{n}" for n in range(30)))
        time.sleep(0.1)
        one.end()
        grant(daemon)
        grant(daemon, -1)
    grant(daemon)
    soon(lambda: kept.masks() == {"ovsdb-server": WITHOUT_IT})
    assert problems(daemon) == []


def test_switched_off_it_does_not_wake_up(daemon: Daemon, stand_in: Callable[..., StandIn]):
    stand_in("ovs-vswitchd", "handler1")
    switch(daemon, "")

    def woken() -> list[str]:
        tasks = sorted(Path(f"/proc/{daemon.pid}/task").iterdir())
        lines = [line for path in tasks for line in (path / "status").read_text().splitlines()]
        return [line for line in lines if "ctxt_switches" in line]

    # What was asked before may still be followed by something; a poll would go on for ever.
    for _ in range(4):
        before = woken()
        time.sleep(3)
        if woken() == before:
            return
    pytest.fail("it goes on waking up")


def test_a_switch_that_is_a_folder_is_said_once(daemon: Daemon):
    path = Path(daemon.arguments[1])
    path.mkdir(parents=True)
    soon(lambda: len(problems(daemon)) == 1)
    assert "not a regular file" in problems(daemon)[0]
    path.rmdir()
    soon(lambda: problems(daemon) == [])
    assert daemon.log.read_text().count("not a regular file") == 1


def test_the_command_shows_every_thread(daemon: Daemon, stand_in: Callable[..., StandIn]):
    one = stand_in("ovs-vswitchd", "pmd-c01/id:2")
    switch(daemon, "1")
    command = [sys.executable, "-m", "epa_daemon", "ovs", "--socket", str(daemon.socket_path)]

    def shown() -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    soon(lambda: ": on (followed by inotify)" in shown())
    rows = [line for line in shown().splitlines() if f"ovs-vswitchd {one.process.pid}" in line]
    assert len(rows) == 2
    (pmd,) = [row.split() for row in rows if "pmd" in row]
    assert pmd[4:6] == ["-", str(CPU)]


def test_who_asks_for_every_thread_keeps_others_from_nothing(
    daemon: Daemon, stand_in: Callable[..., StandIn]
):
    """Whoever asks after them for something else has it before they all have theirs."""
    stand_in("ovs-vswitchd", *(f"handler{n}" for n in range(60)))
    with contextlib.ExitStack() as stack:
        asking = [stack.enter_context(daemon.connect()) for _ in range(100)]
        for connection in asking:
            connection.sendall(b'{"version":"1.0","action":"get_ovs_affinity"}\n')
        grant(daemon)
        assert daemon.owners(pool="general") == {"a": str(CPU)}
        waiting = set(asking) - set(select.select(asking, [], [], 0)[0])
        assert waiting
        for connection in asking:
            assert b"handler59" in read_to_end(connection)


def test_a_daemon_on_another_host_tree_leaves_this_hosts_threads_alone(
    make_daemon: Callable[..., Daemon], stand_in: Callable[..., StandIn]
):
    daemon = make_daemon(cpu_pool="")
    (daemon.root / "etc/openvswitch").mkdir(parents=True)
    (daemon.root / "etc/openvswitch/enable_dynamic_cpu_affinity").write_text("1")
    one = stand_in("ovs-vswitchd")
    daemon.start()
    assert daemon.ask("get_ovs_affinity")["switch"]["state"] == "another-host"
    daemon.ask("allocate_cores", service_name="a", num_of_cores=1)
    assert one.masks() == {"ovs-vswitchd": OURS}


def test_nothing_is_moved_where_the_state_folder_is_gone(
    daemon: Daemon, stand_in: Callable[..., StandIn]
):
    """What the threads had would be written to files that no start can find again."""
    one = stand_in("ovs-vswitchd", "handler1")
    grant(daemon)
    shutil.rmtree(daemon.state)
    switch(daemon, "1")
    soon(lambda: "was removed or replaced under the daemon" in "".join(problems(daemon)))
    assert set(one.masks().values()) == {OURS}
    assert daemon.owners(pool="general") == {"a": str(CPU)}
