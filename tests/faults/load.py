# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Clients that change things without end, and note what they asked and what they were told.

Standard library only: it also runs in a machine that has nothing else, as
`python -m tests.faults.load SOCKET CLIENTS SEED OUTPUT`.
"""

import itertools
import json
import random
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

Fields = dict[str, Any]
Note = Callable[[Fields], None]
"""Told of {"service", "request"} before a request is sent, and of {"service", "reply"} after."""

SERVICES_EACH = 3
_PATIENCE = 30.0


def exchange(path: Path, request: Fields) -> Fields:
    """One request on a connection of its own.

    Raises:
        OSError, ValueError: there was no whole reply.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_PATIENCE)
        connection.connect(str(path))
        connection.sendall(json.dumps(request).encode())
        received = b""
        while data := connection.recv(65536):
            received += data
    return json.loads(received)


def requests_of(service: str, chance: random.Random) -> Fields:
    """Something that no other service can undo: nobody is asked to give up anything."""
    pool = "general" if service.endswith("0") else "isolated"
    about: Fields = {"version": "1.0", "service_name": service}
    cpus = {**about, "pool": pool}
    match chance.randrange(8):
        case 0 | 1 | 2:
            count = chance.choice([1, 2, 3, 4, 5, 6])
            return {**cpus, "action": "allocate_cores", "num_of_cores": count}
        case 3:
            return {**cpus, "action": "allocate_cores", "num_of_cores": -1}
        case 4:
            percent = chance.randrange(-1, 9)
            return {**cpus, "action": "allocate_cores_percent", "percent": percent}
        case 5:
            return {
                **cpus,
                "action": "allocate_numa_cores",
                "numa_node": chance.randrange(2),
                "num_of_cores": chance.choice([-1, 1, 2, 3]),
                "preemption_policy": "non-preemptive",
            }
        case _:
            return {
                **about,
                "action": "allocate_hugepages",
                "hugepages_requested": chance.choice([-1, 1, 2, 3, 4, 5]),
                "node_id": chance.randrange(2),
                "size_kb": 2048,
            }


class Crowd:
    """Clients, each with services of its own, until the daemon has gone or they are stopped."""

    def __init__(self, path: Path, clients: int, seed: int, note: Note):
        self._path = path
        self._note = note
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._live, args=(number, seed), daemon=True)
            for number in range(clients)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self, stop: bool = False) -> None:
        """Wait until every client has given up; with `stop`, tell them to."""
        if stop:
            self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _live(self, number: int, seed: int) -> None:
        chance = random.Random(f"{seed} {number}")
        services = [f"c{number}-{i}" for i in range(SERVICES_EACH)]
        while not self._stopped.is_set():
            service = chance.choice(services)
            request = requests_of(service, chance)
            self._note({"service": service, "request": request})
            try:
                reply = exchange(self._path, request)
            except (OSError, ValueError):
                return
            self._note({"service": service, "reply": reply})


def main(path: str, clients: str, seed: str, output: str) -> None:
    """Write what is noted to a file or a port, one line each, at once."""
    numbers = itertools.count()
    writing = threading.Lock()
    with open(output, "wb", buffering=0) as out:

        def note(line: Fields) -> None:
            with writing:
                out.write(json.dumps({"number": next(numbers), **line}).encode() + b"\n")

        crowd = Crowd(Path(path), int(clients), int(seed), note)
        crowd.start()
        crowd.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
