# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Start a daemon, print what it shows, and end it: `python look.py SOCKET COMMAND...`.

Standard library only, for a machine that has nothing else. Prints one JSON object: `replies`
(both pools and the hugepages), or `code` and `log` of a daemon that did not start.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.faults import load

ASKED: tuple[dict[str, Any], ...] = (
    {"action": "list_allocations"},
    {"action": "list_allocations", "pool": "general"},
    {"action": "get_memory_info"},
)


def main(path: Path, command: list[str]) -> dict[str, Any]:
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL) as daemon:
        while daemon.poll() is None:
            try:
                replies = [load.exchange(path, request) for request in ASKED]
            except (OSError, ValueError):
                time.sleep(0.1)
                continue
            daemon.kill()
            return {"replies": replies}
        assert daemon.stderr is not None
        log = daemon.stderr.read().decode(errors="replace")
        return {"code": daemon.returncode, "log": log}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2:])))
