# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""How often a process may replace its places."""

from typing import cast

from epa_daemon.connection import Connection
from epa_daemon.server import MAX_OF_A_PROCESS, Process


def test_a_process_may_replace_all_of_its_places_and_then_has_to_rest():
    process = Process()
    # As many connections as there are places; only their number counts.
    process.connections = cast("set[Connection]", set(range(MAX_OF_A_PROCESS)))
    for _ in range(MAX_OF_A_PROCESS):
        assert not process.crowded(10.0)
        process.replaced += 1
    assert process.crowded(10.1)
    assert not process.crowded(10.3)


def test_a_process_with_a_place_left_may_take_it():
    process = Process(replaced=MAX_OF_A_PROCESS, until=20.0)
    assert not process.crowded(10.0)
