# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Framing, limits and timeouts, and that no client costs another anything."""

import contextlib
import json
import select
import socket
import subprocess
import sys
import time

from epa_daemon import opening
from epa_daemon.ledger import Ledger
from tests import host_trees
from tests.functional.daemons import Daemon, MakeDaemon, read_to_end

LIST = b'{"action":"list_allocations"}'


def in_pieces(daemon: Daemon, data: bytes) -> bytes:
    with daemon.connect() as connection:
        for byte in data:
            connection.sendall(bytes([byte]))
        return read_to_end(connection)


def test_one_byte_pieces(daemon: Daemon):
    assert in_pieces(daemon, b" \n" + LIST) == daemon.raw(LIST)
    text = b'{"action":"allocate_cores","service_name":"}\\"{\xc3\xbc","num_of_cores":1}'
    assert json.loads(in_pieces(daemon, text))["service_name"] == '}"{ü'


def test_64_kib_in_one_byte_pieces(daemon: Daemon):
    padding = b" " * (64 * 1024 - len(LIST))
    longest = LIST[:-1] + padding + b"}"
    assert len(longest) == 64 * 1024
    assert in_pieces(daemon, longest) == daemon.raw(LIST)


def test_longer_requests_get_an_error_and_the_end(daemon: Daemon):
    for length in (64 * 1024 + 1, 1024 * 1024):
        data = LIST[:-1] + b" " * (length - len(LIST)) + b"}"
        assert json.loads(daemon.raw(data))["code"] == "request-too-long"
    unfinished = b'{"a":"' + b"x" * 3_000_000
    assert json.loads(daemon.raw(unfinished))["code"] == "request-too-long"
    assert daemon.memory_kb() < 60_000


def test_a_half_closed_request_is_answered(daemon: Daemon):
    with daemon.connect() as connection:
        connection.sendall(LIST)
        connection.shutdown(socket.SHUT_WR)
        assert json.loads(read_to_end(connection))["total_allocations"] == 0


def test_an_end_inside_a_request_is_an_error_and_before_it_is_none(daemon: Daemon):
    for data, code in ((b'{"action"', "incomplete-request"), (b"", None), (b" \n ", None)):
        with daemon.connect() as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            reply = read_to_end(connection)
        assert (json.loads(reply)["code"] if reply else None) == code


def test_a_request_that_is_not_complete_in_10_s_is_ended_and_a_silent_client_is_not(
    daemon: Daemon,
):
    with daemon.connect(30) as slow, daemon.connect(30) as silent:
        slow.sendall(b'{"action":')
        started = time.monotonic()
        assert json.loads(read_to_end(slow))["code"] == "incomplete-request"
        assert 9 < time.monotonic() - started < 20
        silent.sendall(LIST)
        assert json.loads(read_to_end(silent))["total_allocations"] == 0


def test_a_second_object_does_nothing(daemon: Daemon):
    grant = b'{"action":"allocate_cores","service_name":"a","num_of_cores":1}'
    assert json.loads(daemon.raw(grant + grant))["code"] == "invalid-json"
    assert json.loads(daemon.raw(grant + b"\n"))["cores_allocated"] == 1


@contextlib.contextmanager
def many(daemon: Daemon, count: int):
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(daemon.connect()) for _ in range(count)]


def unread_listing(daemon: Daemon, connection: socket.socket) -> None:
    """Ask for more than the socket's buffers hold, and read none of it."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.setblocking(False)
    connection.sendall(b'{"action":"get_topology","keep_alive":true}')
    with contextlib.suppress(BlockingIOError):
        for _ in range(200):
            connection.send(b'{"action":"get_topology"}\n')


def test_silent_slow_and_vanishing_clients_cost_nobody_anything(daemon: Daemon):
    daemon.ask("allocate_cores", service_name="a", num_of_cores=4)
    before, descriptors, pid = daemon.listing(), daemon.descriptors(), daemon.pid
    with many(daemon, 200), many(daemon, 50) as slow:
        for connection in slow:
            unread_listing(daemon, connection)
        for number in range(1000):
            with daemon.connect() as connection:
                connection.sendall((LIST, LIST[:10], b"", b"{")[number % 4])
            if number % 100 == 0:
                assert daemon.listing() == before
        assert daemon.listing() == before
        assert daemon.ask("get_health")["healthy"] is True
    assert daemon.listing() == before
    deadline = time.monotonic() + 15
    while daemon.descriptors() > descriptors and time.monotonic() < deadline:
        time.sleep(0.1)
    assert daemon.descriptors() == descriptors
    assert daemon.pid == pid
    assert daemon.process is not None
    assert daemon.process.poll() is None
    assert daemon.memory_kb() < 100_000
    assert "ERROR" not in daemon.log.read_text()


KEEP = """
import socket, sys
kept = [socket.socket(socket.AF_UNIX) for _ in range(int(sys.argv[2]))]
for connection in kept:
    connection.connect(sys.argv[1])
print("kept", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def processes(daemon: Daemon, count: int, each: int):
    """Processes that keep so many connections each, and say nothing."""
    command = [sys.executable, "-c", KEEP, str(daemon.socket_path), str(each)]
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            process = stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            )
            assert process.stdout
            process.stdout.readline()
        yield


def test_more_than_512_clients_get_the_places_of_those_that_make_no_use_of_theirs(
    daemon: Daemon,
):
    with many(daemon, 100) as first, processes(daemon, 4, 110), many(daemon, 20) as waiting:
        for connection in waiting:
            connection.sendall(LIST)
        for connection in waiting:
            assert json.loads(read_to_end(connection))["total_allocations"] == 0
        first[-1].sendall(LIST)
        assert json.loads(read_to_end(first[-1]))["total_allocations"] == 0
        lost = [c for c in first if c in select.select(first[:-1], [], [], 0)[0]]
        assert lost == first[: len(lost)], "those that were silent for longest"
        assert 28 <= len(lost) <= 48


def test_a_process_keeps_128_places_and_takes_them_from_nobody_but_itself(daemon: Daemon):
    with many(daemon, 20) as others, processes(daemon, 1, 1000):
        assert daemon.listing()["total_allocations"] == 0
        assert daemon.descriptors() < 200
        for connection in others:
            connection.sendall(LIST)
            assert json.loads(read_to_end(connection))["total_allocations"] == 0


def test_a_process_that_takes_more_places_than_it_has_is_served_when_it_rests(daemon: Daemon):
    with many(daemon, 128 + 128 + 300) as own:
        deadline = time.monotonic() + 20
        while len(select.select(own, [], [], 0)[0]) < 428 and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(0.3)  # The rest.
        kept = set(own) - set(select.select(own, [], [], 0)[0])
        assert len(kept) == 128
        assert daemon.listing()["total_allocations"] == 0
        with daemon.connect() as later:
            time.sleep(0.1)
            later.sendall(LIST)
            assert json.loads(read_to_end(later))["total_allocations"] == 0


def test_large_replies_that_nobody_reads_stay_within_bounds(make_daemon: MakeDaemon):
    daemon = make_daemon()
    ledger = Ledger()
    for number in range(4000):
        ledger = ledger.with_pages((0, 2048), f"{number:04}" + "\N{GRINNING FACE}" * 120, 1)
    opened = opening.open_folder(daemon.state)
    opened.commit(Ledger(), ledger, [])
    opened.close()
    daemon.start()
    with many(daemon, 100) as greedy:
        for connection in greedy:
            connection.sendall(b'{"action":"get_memory_info"}')
        reply = daemon.listing()
        assert reply["total_allocations"] == 0
        assert daemon.memory_kb() < 150_000
    assert daemon.log.read_text().count("dropping replies") == 1


def test_running_out_of_descriptors_is_survived(make_daemon: MakeDaemon):
    daemon = make_daemon()
    wrapped = daemon.command()

    def limited(*more: str) -> list[str]:
        return ["sh", "-c", 'ulimit -n 40; exec "$@"', "sh", *wrapped, *more]

    daemon.command = limited
    daemon.start()
    with many(daemon, 100):
        time.sleep(0.5)
        log = daemon.log.read_text()
        assert "cannot accept a connection" in log
        assert log.count("cannot accept") < 5
    assert daemon.listing()["total_allocations"] == 0


def test_concurrent_changes_never_grant_a_cpu_twice(make_daemon: MakeDaemon):
    tree = host_trees.regular(nodes=2, cores=32, threads=2, isolated="1-127")
    daemon = make_daemon(tree).start()
    connections: list[socket.socket] = []
    for number in range(120):
        connection = daemon.connect()
        request = {"action": "allocate_cores", "service_name": f"s{number}", "num_of_cores": 1}
        connection.sendall(json.dumps(request).encode())
        connections.append(connection)
    replies = [json.loads(read_to_end(connection)) for connection in connections]
    granted = [reply["allocated_cores"] for reply in replies]
    assert len(set(granted)) == 120
    assert daemon.owners() == {r["service_name"]: r["allocated_cores"] for r in replies}
