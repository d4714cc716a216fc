# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epa_daemon import affinity, cpulist
from epa_daemon.affinity import BUSY_LOOKS, CALM_LOOKS, Cpus, Thread, Tracked

CPU_SETS = st.frozensets(st.integers(0, 11))
NAMES = st.sampled_from(["ovs-vswitchd", "handler1", "revalidator2", "pmd-c02/id:8", "urcu3"])
EVERYWHERE = frozenset(range(10))
# The project's founding case: CPUs 0-9, four kept for the system, a service owns 4 and 5.
FOUNDING = Cpus(EVERYWHERE, cpulist.parse("4-9"), cpulist.parse("4,5"))
# One look a second on a kernel that counts 100 ticks in it.
SECOND = 100

Known = dict[tuple[int, int], Tracked]
Looks = list[tuple[Cpus, list[Thread]]]


def thread(name: str, tid: int = 1, ticks: int = 0, cpu: int = 0) -> Thread:
    return Thread(tid, 0, name, EVERYWHERE, cpu, ticks)


def after(
    looks: int, share: float, threads: list[Thread], cpus: Cpus, before: Known | None = None
) -> Known:
    """What is known after so many looks at threads that use such a share of a CPU."""
    known = before or affinity.follow({}, threads, 0, cpus)
    for _ in range(looks):
        seen = [
            replace(known[t.key].thread, ticks=known[t.key].thread.ticks + int(share * SECOND))
            for t in threads
        ]
        known = affinity.follow(known, seen, SECOND, cpus)
    return known


def seats(known: Known) -> list[int | None]:
    return [known[key].seat for key in sorted(known)]


@pytest.mark.parametrize("name", ["ovs-vswitchd", "ovsdb-server"])
def test_with_four_kept_for_the_system_and_4_and_5_owned_both_daemons_get_0_3_and_6_9(name: str):
    mask = affinity.wanted(Tracked(thread(name)), FOUNDING)
    assert mask is not None
    assert cpulist.format_ranges(mask) == "0-3,6-9"


@st.composite
def histories(draw: st.DrawFn) -> Looks:
    """Looks in a row: the host changes, threads come, work and go."""
    names = draw(st.dictionaries(st.integers(1, 6), NAMES))
    ticks = dict.fromkeys(names, 0)
    looks: Looks = []
    for _ in range(draw(st.integers(1, 8))):
        cpus = Cpus(draw(CPU_SETS), draw(CPU_SETS), draw(CPU_SETS))
        alive = draw(st.sets(st.sampled_from(sorted(names)))) if names else set[int]()
        for tid in alive:
            ticks[tid] += draw(st.sampled_from([0, 50, SECOND]))
        looks.append(
            (cpus, [thread(names[t], t, ticks[t], draw(st.integers(0, 11))) for t in alive])
        )
    return looks


@given(histories())
def test_no_thread_is_ever_wanted_on_an_owned_or_offline_cpu(looks: Looks):
    known: Known = {}
    for cpus, threads in looks:
        known = affinity.follow(known, threads, SECOND, cpus)
        for tracked in known.values():
            mask = affinity.wanted(tracked, cpus)
            assert mask is None or (mask and mask <= cpus.online - cpus.owned)


@given(histories(), CPU_SETS)
def test_nor_after_a_grant_between_two_looks(looks: Looks, newly: frozenset[int]):
    known: Known = {}
    for cpus, threads in looks:
        known = affinity.follow(known, threads, SECOND, cpus)
        granted = replace(cpus, owned=cpus.owned | newly)
        known = affinity.seated(known, granted)
        for tracked in known.values():
            mask = affinity.wanted(tracked, granted)
            assert mask is None or mask.isdisjoint(granted.owned)


@given(histories())
def test_pmd_threads_are_wanted_nowhere_and_get_no_seat(looks: Looks):
    known: Known = {}
    for cpus, threads in looks:
        known = affinity.follow(known, threads, SECOND, cpus)
        for tracked in known.values():
            if tracked.thread.name.startswith("pmd"):
                assert affinity.wanted(tracked, cpus) is None
                assert tracked.seat is None


@given(histories())
def test_a_seat_is_an_idle_isolated_cpu_and_has_one_thread(
    looks: Looks,
):
    known: Known = {}
    for cpus, threads in looks:
        known = affinity.follow(known, threads, SECOND, cpus)
        taken = [t.seat for t in known.values() if t.seat is not None]
        assert len(taken) == len(set(taken))
        assert cpus.idle.issuperset(taken)


def test_where_every_cpu_is_owned_threads_stay_as_they_are():
    cpus = replace(FOUNDING, owned=EVERYWHERE)
    assert affinity.wanted(Tracked(thread("handler1")), cpus) is None


def test_a_thread_that_was_busy_once_keeps_the_wide_mask():
    busy = after(BUSY_LOOKS - 1, 1.0, [thread("handler1")], FOUNDING)
    assert seats(busy) == [None]


def test_busy_handlers_and_revalidators_get_an_idle_isolated_cpu_each():
    threads = [thread("handler1", 1), thread("revalidator2", 2), thread("urcu3", 3)]
    known = after(BUSY_LOOKS, 1.0, threads, FOUNDING)
    assert seats(known) == [6, 7, None]
    assert affinity.wanted(known[1, 0], FOUNDING) == {6}


def test_when_the_seats_are_gone_the_others_share_the_wide_mask():
    threads = [thread(f"handler{n}", n) for n in range(6)]
    assert seats(after(BUSY_LOOKS, 1.0, threads, FOUNDING)) == [6, 7, 8, 9, None, None]


def test_a_core_that_somebody_owns_half_of_comes_last_and_each_seat_has_a_core_first():
    cores = tuple(frozenset({n, n + 1}) for n in range(0, 10, 2))
    cpus = replace(FOUNDING, owned=frozenset({4}), cores=cores)
    threads = [thread(f"handler{n}", n) for n in range(5)]
    assert seats(after(BUSY_LOOKS, 1.0, threads, cpus)) == [6, 8, 7, 9, 5]


def test_a_seat_is_kept_through_a_short_calm_and_given_up_after_a_long_one():
    known = after(BUSY_LOOKS, 1.0, [thread("handler1")], FOUNDING)
    known = after(CALM_LOOKS - 1, 0.0, [thread("handler1")], FOUNDING, known)
    assert seats(known) == [6]
    assert seats(after(1, 0.0, [thread("handler1")], FOUNDING, known)) == [None]


def test_a_half_busy_thread_neither_wins_nor_loses_a_seat():
    quiet = after(20, 0.4, [thread("handler1")], FOUNDING)
    assert seats(quiet) == [None]
    seated = after(BUSY_LOOKS, 1.0, [thread("handler1")], FOUNDING)
    assert seats(after(20, 0.4, [thread("handler1")], FOUNDING, seated)) == [6]


def test_a_thread_whose_seat_is_granted_gets_another_one_at_once():
    known = after(BUSY_LOOKS, 1.0, [thread("handler1")], FOUNDING)
    granted = replace(FOUNDING, owned=cpulist.parse("4-7"))
    assert seats(affinity.seated(known, granted)) == [8]


def test_or_the_wide_mask_where_none_is_left():
    known = after(BUSY_LOOKS, 1.0, [thread("handler1")], FOUNDING)
    granted = replace(FOUNDING, owned=cpulist.parse("4-9"))
    after_it = affinity.seated(known, granted)
    assert affinity.wanted(after_it[1, 0], granted) == {0, 1, 2, 3}


def test_seats_do_not_change_when_other_cpus_are_granted_or_released():
    known = after(BUSY_LOOKS, 1.0, [thread("handler1"), thread("handler2", 2)], FOUNDING)
    for owned in ("4,5,9", "4", "", "8-9"):
        known = affinity.seated(known, replace(FOUNDING, owned=cpulist.parse(owned)))
        assert seats(known) == [6, 7]


def test_a_new_thread_with_an_old_number_starts_from_nothing():
    known = after(BUSY_LOOKS, 1.0, [thread("handler1")], FOUNDING)
    reborn = replace(thread("handler1"), start=7)
    assert seats(affinity.follow(known, [reborn], SECOND, FOUNDING)) == [None]


def test_only_a_thread_that_works_on_an_isolated_cpu_without_a_seat_is_a_stray():
    before = affinity.follow({}, [thread("urcu1")], 0, FOUNDING)
    for ticks, cpu, stray in ((1, 7, True), (0, 7, False), (1, 2, False)):
        seen = Tracked(thread("urcu1", ticks=ticks, cpu=cpu))
        assert affinity.strays(before, seen, FOUNDING) is stray
    assert not affinity.strays(before, Tracked(thread("urcu1", ticks=1, cpu=7), seat=7), FOUNDING)
