# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Moving threads on a kernel that does what a real one is hard to be made to do."""

import errno
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from epa_daemon import cpulist, mask_store, mover, opening, store, threads
from epa_daemon.affinity import Cpus, Thread
from epa_daemon.errors import StoreFailed
from epa_daemon.keeper import Keeper
from epa_daemon.threads import Process

ONLINE = frozenset(range(8))
CPUS = Cpus(ONLINE, frozenset(range(4, 8)), frozenset())
SWITCHD = Process(100, 1, "ovs-vswitchd")
DATABASE = Process(200, 2, "ovsdb-server")
ORDINARY = frozenset(range(4))
INIT = frozenset({0})


@dataclass
class FakeThread:
    process: Process
    name: str
    mask: frozenset[int] = ORDINARY
    cpuset: frozenset[int] = ONLINE
    refuses: int = 0
    start: int = 1
    ticks: int = 0
    sets: list[frozenset[int]] = field(default_factory=list[frozenset[int]])


@dataclass
class Kernel:
    """Threads by number, and what happens when one is moved."""

    threads: dict[int, FakeThread] = field(default_factory=dict[int, FakeThread])
    on_move: Callable[[int], None] = lambda _tid: None
    # What sched_getaffinity shows: a CPU that begins to go offline is missing at once.
    active: frozenset[int] = ONLINE
    # Processes that the last look did not see yet.
    late: list[Process] = field(default_factory=list[Process])
    # Threads that are being made: they have their masks, and are listed at the end of it.
    cloned: list[int] = field(default_factory=list[int])
    unreadable: set[int] = field(default_factory=set[int])
    # How often the main thread of SWITCHD has slept, as each question for it is answered.
    slept: list[float] = field(default_factory=list[float])

    def find(self, _unreadable: object) -> list[Process]:
        found = dict.fromkeys(thread.process for thread in self.threads.values())
        return [process for process in found if process not in self.late]

    def started(self, _unreadable: object) -> list[Process]:
        return self.late

    def tids(self, pid: int, unreadable: Callable[[str, OSError], None]) -> list[int]:
        if pid in self.unreadable:
            unreadable(f"/proc/{pid}/task", OSError(errno.EACCES, "Permission denied"))
            return []
        return [tid for tid, one in self.threads.items() if one.process.pid == pid]

    def thread(self, _pid: int, tid: int, _unreadable: object) -> Thread | None:
        one = self.threads.get(tid)
        return one and Thread(tid, one.start, one.name, one.mask & self.active, 0, one.ticks)

    def name(self, _pid: int, tid: int) -> str:
        return self.threads[tid].name if tid in self.threads else ""

    def mask_of(self, tid: int, _unreadable: object) -> frozenset[int] | None:
        return self.threads[tid].mask & self.active if tid in self.threads else None

    def allowed(self, _pid: int, tid: int) -> frozenset[int] | None:
        if tid == 1:
            return INIT
        return self.threads[tid].mask if tid in self.threads else None

    def set_mask(self, tid: int, cpus: frozenset[int]) -> None:
        self.on_move(tid)
        one = self.threads.get(tid)
        if one is None:
            raise ProcessLookupError(errno.ESRCH, "No such process")
        if one.refuses or not cpus & one.cpuset:
            number = one.refuses or errno.EINVAL
            raise OSError(number, {1: "Operation not permitted", 22: "Invalid argument"}[number])
        one.mask = cpus & one.cpuset
        one.sets.append(one.mask)

    def sleeps(self, pid: int) -> float:
        """What is being made is there when it sleeps, or has slept."""
        answer = self.slept.pop(0) if self.slept and pid == SWITCHD.pid else math.inf
        if pid == SWITCHD.pid and not self.slept:
            for tid in self.cloned:
                self.threads[tid] = FakeThread(SWITCHD, "handler9", ONLINE)
            self.cloned = []
        return answer

    def masks(self) -> set[str]:
        return {cpulist.format_ranges(one.mask) for one in self.threads.values()}


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel(
        {
            100: FakeThread(SWITCHD, "ovs-vswitchd"),
            101: FakeThread(SWITCHD, "handler1"),
            102: FakeThread(SWITCHD, "pmd-c03/id:2", frozenset({3})),
            200: FakeThread(DATABASE, "ovsdb-server"),
        }
    )
    for name in ("sleeps", "tids", "thread", "name", "allowed", "mask_of", "set_mask"):
        monkeypatch.setattr(threads, name, getattr(made, name))
    monkeypatch.setattr(threads, "Finder", lambda: made)
    monkeypatch.setattr(mover, "_is_online", ONLINE.__contains__)
    monkeypatch.setenv("SNAP_NAME", "epa-orchestrator")
    return made


@pytest.fixture
def opened(tmp_path: Path):
    made = opening.open_folder(tmp_path)
    yield made
    made.close()


def busy(kernel: Kernel, keeper: Keeper, tid: int) -> None:
    """Look until a thread that works all the time has a seat."""
    for _ in range(4):
        kernel.threads[tid].ticks += 10**9
        keeper.look(CPUS)


@pytest.fixture
def keeper(kernel: Kernel, opened: store.Store) -> Keeper:
    return Keeper(opened.masks, frozenset())


def test_all_but_pmd_threads_get_the_free_cpus_and_later_what_they_had(
    kernel: Kernel, keeper: Keeper
):
    keeper.committed(frozenset({4, 5}))
    keeper.look(CPUS)
    assert kernel.masks() == {"0-3,6-7", "3"}
    keeper.restore()
    assert kernel.masks() == {"0-3", "3"}
    assert kernel.threads[102].sets == []


def test_a_grant_clears_its_cpus_and_a_release_widens_at_the_next_look(
    kernel: Kernel, keeper: Keeper
):
    keeper.look(CPUS)
    keeper.committed(frozenset({6, 7}))
    assert kernel.masks() == {"0-5", "3"}
    keeper.committed(frozenset({7}))
    assert kernel.masks() == {"0-5", "3"}
    keeper.look(CPUS)
    assert kernel.masks() == {"0-6", "3"}


def test_a_look_that_was_asked_for_before_a_grant_does_not_undo_it(kernel: Kernel, keeper: Keeper):
    keeper.look(CPUS)
    keeper.committed(frozenset({6}))
    keeper.look(CPUS)
    assert kernel.masks() == {"0-5,7", "3"}


def test_threads_made_while_others_are_moved_are_moved_too(kernel: Kernel, keeper: Keeper):
    keeper.look(CPUS)
    numbers = iter(range(300, 303))

    def make(_tid: int) -> None:
        number = next(numbers, None)
        if number:
            kernel.threads[number] = FakeThread(SWITCHD, "handler9", ONLINE)

    kernel.on_move = make
    keeper.committed(frozenset({6}))
    assert kernel.masks() == {"0-5,7", "3"}
    assert len(kernel.threads) == 7


def test_a_thread_that_is_not_seen_yet_because_it_is_being_made_is_waited_for(
    kernel: Kernel, keeper: Keeper
):
    keeper.look(CPUS)
    kernel.cloned = [300, 301]
    keeper.committed(frozenset({6}))
    assert kernel.threads[300].mask == kernel.threads[301].mask == ONLINE - {6}


@pytest.mark.parametrize("slept", [[5, 5, 5, math.inf], [5, 5, 6]])
def test_a_busy_main_thread_is_waited_for_until_it_sleeps_or_has_slept(
    kernel: Kernel, keeper: Keeper, slept: list[float]
):
    keeper.look(CPUS)
    kernel.slept = list(slept)
    kernel.cloned = [300]
    keeper.committed(frozenset({6}))
    assert kernel.threads[300].mask == ONLINE - {6}


def test_all_main_threads_that_never_sleep_share_one_deadline(
    kernel: Kernel, keeper: Keeper, monkeypatch: pytest.MonkeyPatch
):
    """The clock of this test goes on by what is slept, and by nothing else."""
    clock = [0.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    monkeypatch.setattr("time.sleep", sleep)
    monkeypatch.setattr(threads, "sleeps", lambda _pid: 5.0)  # pyright: ignore
    for number in range(300, 320):
        kernel.threads[number] = FakeThread(Process(number, 1, "ovs-vswitchd"), "ovs-vswitchd")
    keeper.look(CPUS)
    keeper.committed(frozenset({6}))
    assert kernel.masks() == {"0-5,7", "3"}
    assert clock[0] < 0.025


def test_a_process_that_started_after_the_last_look_leaves_a_granted_cpu_too(
    kernel: Kernel, keeper: Keeper
):
    keeper.look(CPUS)
    kernel.late = [Process(300, 1, "ovs-vswitchd")]
    kernel.threads[300] = FakeThread(kernel.late[0], "ovs-vswitchd", ONLINE)
    keeper.committed(frozenset({2}))
    assert kernel.threads[300].mask == ONLINE - {2}


def test_a_process_that_cannot_be_read_keeps_no_other_from_being_moved(
    kernel: Kernel, keeper: Keeper
):
    keeper.look(CPUS)
    kernel.unreadable = {SWITCHD.pid}
    keeper.committed(frozenset({6}))
    assert kernel.threads[200].mask == ONLINE - {6}
    keeper.look(CPUS)
    assert keeper.problems.texts == ["cannot read /proc/100/task: Permission denied"]


def test_nobody_is_seated_where_a_pmd_thread_polls(kernel: Kernel, keeper: Keeper):
    kernel.threads[102].mask = frozenset({4})
    busy(kernel, keeper, 101)
    assert kernel.threads[101].mask == {5}


@pytest.mark.parametrize("door", ["grant", "look", "restore"])
def test_a_pmd_thread_that_gets_its_name_while_it_is_moved_keeps_its_pin(
    kernel: Kernel, keeper: Keeper, door: str
):
    keeper.look(CPUS)
    young = int(threads.now() * threads.TICKS_PER_SECOND)
    kernel.threads[300] = FakeThread(SWITCHD, "ovs-vswitchd", ONLINE, start=young)

    def name(tid: int) -> None:
        if tid == 300 and not kernel.threads[300].name.startswith("pmd"):
            kernel.threads[300].name = "pmd-c05/id:9"

    kernel.on_move = name
    if door == "look":
        kernel.threads[300].mask = frozenset({7})
        keeper.committed(frozenset({2}))
        kernel.threads[300].mask = ONLINE
        keeper.look(CPUS)
    elif door == "grant":
        keeper.committed(frozenset({2}))
    else:
        keeper.restore()
    assert kernel.threads[300].name == "pmd-c05/id:9"
    assert kernel.threads[300].mask == {5}


def test_a_thread_that_dies_in_the_middle_is_nobodys_problem(kernel: Kernel, keeper: Keeper):
    keeper.look(CPUS)

    def die(tid: int) -> None:
        if tid == 101:
            del kernel.threads[101]

    kernel.on_move = die
    keeper.committed(frozenset({6}))
    assert kernel.masks() == {"0-5,7", "3"}
    assert keeper.problems.texts == []


def look(keeper: Keeper, times: int = 1, cpus: Cpus = CPUS) -> None:
    for _ in range(times):
        keeper.look(cpus)


def test_a_cpuset_that_forbids_free_cpus_is_respected(kernel: Kernel, keeper: Keeper):
    kernel.threads[200].cpuset = kernel.threads[200].mask = frozenset({1})
    look(keeper, 3)
    assert keeper.left_alone == {DATABASE}
    assert kernel.threads[200].mask == {1}
    assert kernel.threads[101].mask == ONLINE
    assert keeper.problems.texts == []
    keeper.committed(frozenset({1}))
    look(keeper)
    assert kernel.threads[200].mask == {1}
    (problem,) = keeper.problems.texts
    assert "may run on owned CPUs 1" in problem
    keeper.restore()
    assert kernel.threads[200].mask == {1}


def test_its_owned_cpus_are_left_where_the_cpuset_allows_that(kernel: Kernel, keeper: Keeper):
    kernel.threads[200].cpuset = frozenset(range(7))
    look(keeper, 3)
    assert keeper.left_alone == {DATABASE}
    keeper.committed(frozenset({2}))
    assert kernel.threads[200].mask == {0, 1, 3}
    look(keeper)
    assert kernel.threads[200].mask == {0, 1, 3}
    keeper.committed(ORDINARY)
    assert kernel.threads[200].mask.isdisjoint(ORDINARY)
    look(keeper)
    assert keeper.problems.texts == []
    assert kernel.threads[200].mask.isdisjoint(ORDINARY)
    keeper.committed(frozenset())
    look(keeper)
    assert kernel.threads[200].mask == ORDINARY


def test_what_somebody_changes_in_a_process_that_is_left_alone_stays(
    kernel: Kernel, keeper: Keeper
):
    kernel.threads[200].cpuset = frozenset(range(7))
    look(keeper, 3)
    kernel.threads[200].mask = frozenset({5})
    look(keeper, 3)
    assert kernel.threads[200].mask == {5}


def test_a_cpuset_that_comes_later_strands_nobody(kernel: Kernel, keeper: Keeper):
    busy(kernel, keeper, 101)
    assert kernel.threads[101].mask == {4}
    for tid in (100, 101):
        kernel.threads[tid].cpuset = frozenset(range(5))
        kernel.threads[tid].mask &= kernel.threads[tid].cpuset
    look(keeper, 3)
    assert keeper.left_alone == {SWITCHD}
    assert kernel.threads[101].mask == kernel.threads[100].mask == ORDINARY
    keeper.committed(frozenset({0, 4}))
    assert kernel.threads[101].mask == {1, 2, 3}
    keeper.restore()
    assert kernel.threads[101].mask == kernel.threads[100].mask == ORDINARY


def test_nor_in_the_moment_before_it_is_noticed(kernel: Kernel, keeper: Keeper):
    busy(kernel, keeper, 101)
    kernel.threads[101].cpuset = frozenset(range(5))
    keeper.committed(frozenset({4}))
    assert kernel.threads[101].mask == ORDINARY


def test_a_mask_that_a_later_cpuset_forbids_becomes_all_that_it_allows(
    kernel: Kernel, keeper: Keeper
):
    look(keeper)
    kernel.threads[200].cpuset = kernel.threads[200].mask = frozenset({5})
    look(keeper, 3)
    assert keeper.left_alone == {DATABASE}
    kernel.threads[200].mask = kernel.threads[200].cpuset = frozenset(range(5, 7))
    keeper.committed(frozenset({5}))
    assert kernel.threads[200].mask == {6}
    keeper.restore()
    assert kernel.threads[200].mask <= {5, 6}
    assert not keeper.active


def test_a_cpu_that_is_just_going_offline_is_no_cpuset(kernel: Kernel, keeper: Keeper):
    look(keeper)
    kernel.active = ONLINE - {7}
    look(keeper, 5)
    assert keeper.left_alone == frozenset()
    kernel.active = ONLINE
    look(keeper)
    assert kernel.masks() == {"0-7", "3"}


def test_nor_one_that_is_just_coming_online(kernel: Kernel, keeper: Keeper):
    busy(kernel, keeper, 101)
    keeper.committed(frozenset({6}))
    for one in kernel.threads.values():
        one.cpuset = ONLINE - {7}
        one.mask &= one.cpuset
    look(keeper)
    assert keeper.left_alone == frozenset()
    assert kernel.masks() == {"0-5", "3", "4"}
    for one in kernel.threads.values():
        one.cpuset = ONLINE
    look(keeper)
    assert kernel.masks() == {"0-5,7", "3", "4"}


def test_owned_cpus_are_left_before_it_is_known_whether_it_is_a_cpuset(
    kernel: Kernel, keeper: Keeper
):
    look(keeper)
    keeper.committed(frozenset({2}))
    new = Process(300, 1, "ovs-vswitchd")
    for tid in (300, 301):
        kernel.threads[tid] = FakeThread(new, "ovs-vswitchd", frozenset(range(7)))
        kernel.threads[tid].cpuset = frozenset(range(7))
    look(keeper)
    assert keeper.left_alone == frozenset()
    assert kernel.threads[300].mask == kernel.threads[301].mask == frozenset(range(7)) - {2}


def test_a_cpuset_that_is_taken_away_is_noticed_in_the_end(
    kernel: Kernel, keeper: Keeper, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    kernel.threads[200].cpuset = frozenset({0, 1})
    look(keeper, 200)
    kernel.threads[200].cpuset = ONLINE
    look(keeper, 61)
    assert kernel.threads[200].mask == ONLINE
    assert keeper.left_alone == frozenset()
    assert len(caplog.records) == 2


def test_without_permission_it_is_said_once_and_nothing_else_happens(
    kernel: Kernel, keeper: Keeper, caplog: pytest.LogCaptureFixture
):
    for one in kernel.threads.values():
        one.refuses = errno.EPERM
    keeper.look(CPUS)
    keeper.look(CPUS)
    keeper.committed(frozenset({0}))
    (problem,) = keeper.problems.texts
    assert "snap connect epa-orchestrator:process-control" in problem
    assert [record.message for record in caplog.records] == [problem]


def test_a_thread_that_refuses_is_named_once_and_the_others_go_on(
    kernel: Kernel, keeper: Keeper, caplog: pytest.LogCaptureFixture
):
    kernel.threads[101].refuses = errno.EINVAL
    keeper.look(CPUS)
    keeper.look(CPUS)
    keeper.committed(frozenset({0}))
    assert kernel.threads[100].mask == kernel.threads[200].mask == ONLINE - {0}
    (problem,) = keeper.problems.texts
    assert "thread 101 (handler1) keeps its mask: Invalid argument" in problem
    assert len(caplog.records) == 1
    kernel.threads[101].refuses = 0
    keeper.look(CPUS)
    assert keeper.problems.texts == []


def test_what_is_wrong_is_shown_as_it_is_now(kernel: Kernel, keeper: Keeper):
    kernel.threads[200].cpuset = kernel.threads[200].mask = frozenset({1, 2})
    look(keeper, 3)
    keeper.committed(frozenset({1, 2}))
    look(keeper)
    assert "may run on owned CPUs 1-2" in keeper.problems.texts[0]
    keeper.committed(frozenset({2}))
    kernel.threads[200].cpuset = kernel.threads[200].mask = frozenset({2})
    look(keeper)
    (problem,) = keeper.problems.texts
    assert "may run on owned CPUs 2:" in problem


def test_a_process_that_ends_while_it_is_left_alone_is_no_problem(kernel: Kernel, keeper: Keeper):
    kernel.threads[200].cpuset = kernel.threads[200].mask = frozenset({1})
    look(keeper, 3)
    keeper.committed(frozenset({1}))
    kernel.unreadable = {DATABASE.pid}
    look(keeper)
    assert not [text for text in keeper.problems.texts if "owned" in text]


def test_without_a_list_of_online_cpus_that_is_what_it_says(kernel: Kernel, keeper: Keeper):
    look(keeper, 1, Cpus(frozenset(), frozenset(), frozenset()))
    (problem,) = keeper.problems.texts
    assert "not known" in problem


def test_when_every_cpu_is_owned_threads_stay_and_health_says_so(kernel: Kernel, keeper: Keeper):
    keeper.look(CPUS)
    keeper.committed(ONLINE)
    assert kernel.threads[100].mask == ONLINE
    (problem,) = keeper.problems.texts
    assert "every CPU is owned" in problem


def test_nothing_is_moved_while_it_cannot_be_kept_what_to_put_back(
    kernel: Kernel, keeper: Keeper, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: object) -> None:
        raise StoreFailed("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(mask_store.MaskStore, "keep", fail)
        keeper.look(CPUS)
        assert kernel.masks() == {"0-3", "3"}
        assert "disk full" in keeper.problems.texts[0]
    keeper.look(CPUS)
    assert kernel.masks() == {"0-7", "3"}
    assert keeper.problems.texts == []


def test_a_bug_while_moving_does_not_undo_a_grant(
    kernel: Kernel, keeper: Keeper, caplog: pytest.LogCaptureFixture
):
    keeper.look(CPUS)

    def fail(_tid: int) -> None:
        raise ZeroDivisionError

    kernel.on_move = fail
    keeper.committed(frozenset({6}))
    assert caplog.records[0].levelno == logging.ERROR
    assert "were not moved" in keeper.problems.texts[0]


def test_a_killed_daemon_knows_after_its_restart_what_to_put_back(
    kernel: Kernel, keeper: Keeper, opened: store.Store
):
    kernel.threads[101].mask = frozenset({2})
    keeper.look(CPUS)
    kernel.threads[103] = FakeThread(SWITCHD, "handler7", ONLINE)
    again = Keeper(opened.masks, frozenset())
    assert again.active
    again.look(CPUS)
    again.restore()
    assert kernel.threads[101].mask == {2}
    assert kernel.threads[100].mask == ORDINARY
    assert kernel.threads[103].mask == INIT
    assert not Keeper(opened.masks, frozenset()).active


def test_masks_that_cannot_be_put_back_are_tried_again(
    kernel: Kernel, keeper: Keeper, opened: store.Store
):
    kernel.threads[101].mask = frozenset({2})
    keeper.look(CPUS)
    for one in kernel.threads.values():
        one.refuses = errno.EPERM
    keeper.restore()
    assert keeper.active
    assert len(keeper.problems.texts) == 1
    for one in kernel.threads.values():
        one.refuses = 0
    again = Keeper(opened.masks, frozenset())
    for one in (keeper, again):
        one.restore()
        assert not one.active
        assert one.problems.texts == []
        assert kernel.threads[101].mask == {2}


def test_only_the_thread_that_refused_is_tried_again_and_forgotten_when_it_is_gone(
    kernel: Kernel, keeper: Keeper
):
    keeper.look(CPUS)
    kernel.threads[101].refuses = errno.EINVAL
    keeper.restore()
    assert keeper.active
    kernel.threads[100].mask = frozenset({6})
    keeper.committed(frozenset({6}))
    keeper.restore()
    assert kernel.threads[100].mask == {6}
    assert len(keeper.problems.texts) == 1
    del kernel.threads[101]
    keeper.restore()
    assert not keeper.active
    assert keeper.problems.texts == []


def test_a_thread_that_is_made_while_masks_are_put_back_gets_that_of_pid_1(
    kernel: Kernel, keeper: Keeper
):
    keeper.look(CPUS)
    kernel.cloned = [300]
    keeper.restore()
    assert kernel.threads[300].mask == INIT


def test_what_an_earlier_process_left_is_no_reason_to_stop(
    kernel: Kernel, keeper: Keeper, opened: store.Store, monkeypatch: pytest.MonkeyPatch
):
    keeper.look(CPUS)

    def fail() -> str:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "boot_id")

    with monkeypatch.context() as patch:
        patch.setattr(mask_store, "boot", fail)
        again = Keeper(opened.masks, frozenset())
        again.look(CPUS)
        again.committed(frozenset({6}))
        again.restore()
        assert kernel.masks() == {"0-7", "3"}
        (problem,) = again.problems.texts
        assert "cannot read the masks" in problem
    assert again.active
    again.restore()
    assert kernel.masks() == {"0-3", "3"}
    assert again.problems.texts == []


def test_a_cpu_that_is_offline_when_a_thread_is_found_is_not_lost_from_its_mask(
    kernel: Kernel, keeper: Keeper
):
    kernel.threads[101].mask = frozenset({2, 7})
    kernel.active = ONLINE - {7}
    keeper.look(CPUS)
    kernel.active = ONLINE
    keeper.restore()
    assert kernel.threads[101].mask == {2, 7}
