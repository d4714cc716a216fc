# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""What the daemon promises, and which test tries to break it: the table of `make trust`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Promise:
    """One line of the table.

    Attributes:
        test: file and name, from the project's folder; with parameters where they matter.
        but: where it does not hold, "" for nowhere.
    """

    name: str
    text: str
    test: str
    but: str = ""


_FAULTS = "tests/faults"
_FUNCTIONAL = "tests/functional"

PROMISES = (
    Promise(
        "Exclusive",
        "a CPU has one owner, whoever asks at once",
        f"{_FAULTS}/test_exclusive.py"
        "::test_no_cpu_has_two_owners_whatever_many_clients_do_at_once",
        "what was imported from the older daemon with two owners is shown so, and reported, until "
        "one of them releases",
    ),
    Promise(
        "Durable once acknowledged",
        "kill -9 at any moment loses no change that was answered",
        f"{_FAULTS}/test_crash.py::test_kill_9_loses_nothing_that_was_acknowledged",
    ),
    Promise(
        "Durable once acknowledged",
        "a power cut that loses the disk's caches loses no change that was answered",
        f"{_FAULTS}/test_power_cut.py::test_a_power_cut_loses_nothing_that_was_acknowledged",
        "a disk that says that it has flushed and has not",
    ),
    Promise(
        "Proven",
        "the same power cuts find out a daemon that does not sync",
        f"{_FAULTS}/test_power_cut.py::test_a_daemon_that_does_not_sync_is_found_out",
    ),
    Promise(
        "All or nothing",
        "a request without an answer was done wholly or not at all",
        f"{_FAULTS}/test_crash.py::test_kill_9_loses_nothing_that_was_acknowledged",
    ),
    Promise(
        "An error changes nothing",
        "writes, syncs and cuts of the store that fail, at any place, make no reply a lie: now, "
        "or after the next start",
        f"{_FAULTS}/test_storage.py::test_a_disk_that_fails_anywhere_makes_no_reply_a_lie",
    ),
    Promise(
        "An error changes nothing",
        "a commit of which only the sync failed does not come back",
        f"{_FAULTS}/test_storage.py::test_what_was_answered_with_an_error_does_not_come_back",
    ),
    Promise(
        "No guess",
        "a daemon that cannot know whether a change is durable gives no answer, and ends",
        f"{_FAULTS}/test_storage.py::test_a_daemon_that_cannot_know_does_not_answer_and_ends",
    ),
    Promise(
        "A full disk grants nothing",
        "and the daemon goes on when there is room again",
        f"{_FUNCTIONAL}/test_durability.py::test_a_full_disk_grants_nothing_and_heals",
    ),
    Promise(
        "Damage is never served",
        "a flipped bit in the database, its log or `acknowledged` is refused, or changes nothing",
        f"{_FAULTS}/test_damage.py::test_a_flipped_bit_is_refused_or_harmless",
        "the history of changes is not sealed; and after a power cut the file `acknowledged` may "
        "be older, so that damage to the last commits of the log looks as if they never were",
    ),
    Promise(
        "Never empty over unreadable state",
        "a store of a newer daemon keeps the daemon down, and is left as it is",
        f"{_FAULTS}/test_damage.py::test_a_newer_schema_is_refused_and_left_alone",
        "a state folder that is removed whole, while the daemon does not run, is a new one",
    ),
    Promise(
        "Never into the void",
        "a state folder that is removed or replaced under the daemon grants nothing",
        f"{_FAULTS}/test_damage.py"
        "::test_a_state_folder_that_is_removed_under_the_daemon_grants_nothing",
    ),
    Promise(
        "Same answer after restart",
        "what a start finds is durable before it is shown",
        f"{_FAULTS}/test_storage.py::test_what_a_start_finds_is_durable_before_it_is_shown",
    ),
    Promise(
        "The host may change",
        "CPUs, isolcpus, nodes and hugepages go and come back: claims stay visible, totals never "
        "go below zero, releases work, growth is refused with the reason",
        f"{_FAULTS}/test_host.py"
        "::test_a_host_that_changes_hides_no_claim_and_holds_back_no_release",
        "a whole release: that of one NUMA node needs the node",
    ),
    Promise(
        "Never blocked by another client, bounded memory",
        "10,000 early closes",
        f"{_FAULTS}/test_hostile.py::test_a_good_client_is_served_beside_hostile_ones[early-closes]",
        "a connect() that does not wait may find the kernel's queue full (EAGAIN)",
    ),
    Promise(
        "Never blocked by another client, bounded memory",
        "500 slow writers",
        f"{_FAULTS}/test_hostile.py::test_a_good_client_is_served_beside_hostile_ones[slow-writers]",
    ),
    Promise(
        "Never blocked by another client, bounded memory",
        "100 slow readers",
        f"{_FAULTS}/test_hostile.py::test_a_good_client_is_served_beside_hostile_ones[slow-readers]",
        "**while many clients keep the daemon busy with requests that it may not refuse, it has "
        "one CPU for all, and each gets its turn**",
    ),
    Promise(
        "Never blocked by another client, bounded memory",
        "a request of 1 GiB",
        f"{_FAULTS}/test_hostile.py"
        "::test_a_good_client_is_served_beside_hostile_ones[endless-request]",
    ),
    Promise(
        "Never blocked by another client, bounded memory",
        "4,300 service names",
        f"{_FAULTS}/test_hostile.py::test_a_good_client_is_served_beside_hostile_ones[many-names]",
    ),
    Promise(
        "Never blocked by another client, bounded memory",
        "2,000 connections that a process wants to keep",
        f"{_FAULTS}/test_hostile.py::test_a_good_client_is_served_beside_hostile_ones[descriptors]",
        "whoever may connect from many processes, and keeps taking all 512 places, makes others "
        "wait 0.2 s for each round of them",
    ),
    Promise(
        "Never blocked by another client, bounded memory",
        "300 readers of the history",
        f"{_FAULTS}/test_hostile.py"
        "::test_a_good_client_is_served_beside_hostile_ones[history-readers]",
        "readers wait for one another, each for a page of every other one",
    ),
    Promise(
        "Never blocked by another client, bounded memory",
        "20,000 that ask for the history and go",
        f"{_FAULTS}/test_hostile.py"
        "::test_a_good_client_is_served_beside_hostile_ones[history-closes]",
    ),
    Promise(
        "Bounded logs",
        "what changes nothing writes no log",
        f"{_FAULTS}/test_hostile.py::test_the_log_stays_bounded_under_hostile_clients",
        "whoever may change things writes a line for each change",
    ),
    Promise(
        "No privilege by socket access",
        "others than root and the daemon's user may only read",
        f"{_FUNCTIONAL}/test_peers.py"
        "::test_others_may_read_where_the_mode_lets_them_in_but_not_change",
    ),
    Promise(
        "No input breaks it",
        "streams of bytes, guided by the code that they reach",
        f"{_FAULTS}/test_fuzz.py::test_no_bytes_break_what_reads_them[stream]",
    ),
    Promise(
        "No input breaks it",
        "requests, guided in the same way",
        f"{_FAULTS}/test_fuzz.py::test_no_bytes_break_what_reads_them[request]",
    ),
    Promise(
        "No input breaks it",
        "lists of CPUs, guided in the same way",
        f"{_FAULTS}/test_fuzz.py::test_no_bytes_break_what_reads_them[list]",
    ),
    Promise(
        "No input breaks it",
        "requests made from the protocol's models, through the socket",
        f"{_FAULTS}/test_fuzz.py"
        "::test_requests_like_the_protocols_own_are_answered_and_break_nothing",
    ),
)
