# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Moving threads on a kernel that does what a real one is hard to be made to do."""

import errno
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from epa_daemon import cpulist, mask_store, mover, store, threads
from epa_daemon.affinity import Cpus, Thread
from epa_daemon.errors import StoreFailed
from epa_daemon.keeper import Keeper
from epa_daemon.threads import Process

ONLINE = frozenset(range(8))
CPUS = Cpus(ONLINE, frozenset(range(4, 8)), frozenset())
SWITCHD = Process(100, 1, "ovs-vswitchd")
DATABASE = Process(200, 2, "ovsdb-server")
ORDINARY = frozenset(range(4))


@dataclass
class FakeThread:
    process: Process
    name: str
    mask: frozenset[int] = ORDINARY
    cpuset: frozenset[int] = ONLINE
    refuses: int = 0
    sets: list[frozenset[int]] = field(default_factory=list[frozenset[int]])


@dataclass
class Kernel:
    """Threads by number, and what happens when one is moved."""

    threads: dict[int, FakeThread] = field(default_factory=dict[int, FakeThread])
    on_move: Callable[[int], None] = lambda _tid: None
    cloned: list[int] = field(default_factory=list[int])

    def find(self, _unreadable: object) -> list[Process]:
        return list(dict.fromkeys(thread.process for thread in self.threads.values()))

    def tids(self, pid: int) -> list[int]:
        return [tid for tid, one in self.threads.items() if one.process.pid == pid]

    def thread(self, _pid: int, tid: int, _unreadable: object) -> Thread | None:
        one = self.threads.get(tid)
        return one and Thread(tid, 1, one.name, one.mask, 0, 0)

    def mask_of(self, tid: int) -> frozenset[int] | None:
        return self.threads[tid].mask if tid in self.threads else None

    def get_mask(self, tid: int) -> set[int]:
        if tid not in self.threads:
            raise ProcessLookupError(errno.ESRCH, "No such process")
        return set(self.threads[tid].mask)

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

    def may_be_cloning(self, pid: int) -> bool:
        """A thread that is being made has its mask already, and is seen only at the end."""
        if self.cloned and pid == SWITCHD.pid:
            self.threads[self.cloned.pop()] = FakeThread(SWITCHD, "handler9", ONLINE)
            return True
        return False

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
    monkeypatch.setattr("os.sched_setaffinity", made.set_mask)
    monkeypatch.setattr("os.sched_getaffinity", made.get_mask)
    for name in ("may_be_cloning", "tids", "thread", "mask_of", "set_mask"):
        monkeypatch.setattr(threads, name, getattr(made, name))
    monkeypatch.setattr(threads, "Finder", lambda: made)
    monkeypatch.setattr(mover, "_is_online", ONLINE.__contains__)
    return made


@pytest.fixture
def opened(tmp_path: Path):
    made = store.open_folder(tmp_path)
    yield made
    made.close()


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


def test_a_thread_that_dies_in_the_middle_is_nobodys_problem(kernel: Kernel, keeper: Keeper):
    keeper.look(CPUS)

    def die(tid: int) -> None:
        if tid == 101:
            del kernel.threads[101]

    kernel.on_move = die
    keeper.committed(frozenset({6}))
    assert kernel.masks() == {"0-5,7", "3"}
    assert keeper.problems.texts == []


def test_a_cpuset_that_forbids_free_cpus_is_respected(kernel: Kernel, keeper: Keeper):
    kernel.threads[200].cpuset = frozenset({0, 1})
    kernel.threads[200].mask = frozenset({1})
    keeper.look(CPUS)
    assert keeper.left_alone == {DATABASE}
    assert kernel.threads[200].mask == {1}
    assert kernel.threads[101].mask == ONLINE
    assert keeper.problems.texts == []
    keeper.committed(frozenset({1}))
    keeper.look(CPUS)
    assert kernel.threads[200].mask == {1}
    (problem,) = keeper.problems.texts
    assert "may run on owned CPUs 1" in problem
    keeper.restore()
    assert kernel.threads[200].mask == {1}


def test_so_is_one_that_an_operator_makes_later_without_any_free_cpu(
    kernel: Kernel, keeper: Keeper
):
    keeper.look(CPUS)
    kernel.threads[200].cpuset = kernel.threads[200].mask = frozenset({1})
    keeper.committed(frozenset({1}))
    keeper.look(CPUS)
    assert kernel.threads[200].mask == {1}
    assert keeper.left_alone == {DATABASE}


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
    kernel: Kernel, keeper: Keeper, opened: store.Store, monkeypatch: pytest.MonkeyPatch
):
    kernel.threads[101].mask = frozenset({2})
    keeper.look(CPUS)
    kernel.threads[103] = FakeThread(SWITCHD, "handler7", ONLINE)
    again = Keeper(opened.masks, frozenset())
    assert again.active
    again.look(CPUS)
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {0})  # pyright: ignore
    again.restore()
    assert kernel.threads[101].mask == {2}
    assert kernel.threads[100].mask == ORDINARY
    assert kernel.threads[103].mask == {0}
    assert not Keeper(opened.masks, frozenset()).active
