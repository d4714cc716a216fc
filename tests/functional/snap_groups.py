# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Processes in the control groups that snapd gives to the services of snaps; needs root."""

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from tests.functional.daemons import Daemon, Reply

ASK = """
import json, os, socket, sys
with open(sys.argv[1], "w") as procs:
    procs.write(str(os.getpid()))
os.setgroups([int(group) for group in sys.argv[5].split(",") if group])
os.setgid(int(sys.argv[4]))
os.setuid(int(sys.argv[4]))
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[2])
if sys.argv[6] == "child" and os.fork():
    os._exit(0)  # The child speaks on the connection that its late parent made.
if sys.argv[6] == "child":
    import time
    time.sleep(0.3)
connection.sendall(sys.argv[3].encode())
print(connection.makefile().read(), flush=True)
"""


def hierarchy() -> Path:
    """A mounted tree of control groups in which processes of root can be put anywhere."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == "cgroup2" or (kind == "cgroup" and "name=" in options):
            return Path(where)
    pytest.skip("no control groups are mounted")


@contextlib.contextmanager
def group(name: str) -> Generator[Path]:
    """A control group with the name of a service, for the length of the context."""
    folder = hierarchy() / name
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"control groups cannot be made here: {error}")
    try:
        yield folder
    finally:
        deadline = time.monotonic() + 5
        while (folder / "cgroup.procs").read_text() and time.monotonic() < deadline:
            time.sleep(0.01)
        folder.rmdir()


def ask_from(
    snap: str,
    daemon: Daemon,
    request: dict[str, Any],
    uid: int = 0,
    groups: str = "",
    speaker: str = "itself",
) -> Reply:
    """Ask as a process of a snap's service; "" for one of no snap."""
    if os.geteuid() != 0:
        pytest.skip("only root can put processes into control groups")
    name = f"snap.{snap}.app.service" if snap else "epa-test.service"
    with group(name) as folder:
        arguments = [str(daemon.socket_path), json.dumps(request), str(uid), groups, speaker]
        done = subprocess.run(
            ["/usr/bin/env", "python3", "-c", ASK, str(folder / "cgroup.procs"), *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": "/usr/bin:/bin"},
            cwd="/",
            timeout=30,
        )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
