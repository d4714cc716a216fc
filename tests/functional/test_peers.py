# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Root and the daemon's own user may change things, others only read."""

import json
import os
import stat
import subprocess
import sys
from typing import Any

import pytest

from tests import host_trees
from tests.functional.daemons import Daemon, MakeDaemon, Reply
from tests.functional.snap_groups import ask_from

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become other users")

ASK = """
import json, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
connection.sendall(sys.argv[2].encode())
sys.stdout.write(connection.makefile().read())
"""


def ask_as(uid: int, daemon: Daemon, **request: Any) -> Reply:
    done = subprocess.run(
        ["/usr/bin/env", "python3", "-c", ASK, str(daemon.socket_path), json.dumps(request)],
        user=uid,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin"},
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_socket_is_for_owner_and_group_only(daemon: Daemon):
    mode = daemon.socket_path.stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o660
    assert [path.name for path in daemon.data.iterdir()] == ["epa.sock"]
    assert stat.S_IMODE(daemon.state.stat().st_mode) == 0o700


@needs_root
def test_others_may_read_where_the_mode_lets_them_in_but_not_change(daemon: Daemon):
    daemon.ask("allocate_cores", service_name="a", num_of_cores=2)
    daemon.socket_path.chmod(0o666)
    for action in ("list_allocations", "get_memory_info", "get_topology", "get_health"):
        assert "error" not in ask_as(NOBODY, daemon, action=action)
    for request in (
        {"action": "allocate_cores", "num_of_cores": -1},
        {"action": "allocate_cores", "num_of_cores": 3},
        {"action": "allocate_cores_percent", "percent": 1},
        {"action": "allocate_numa_cores", "numa_node": 0, "num_of_cores": 1},
        {"action": "allocate_hugepages", "hugepages_requested": -1, "node_id": 0, "size_kb": 4},
    ):
        reply = ask_as(NOBODY, daemon, service_name="a", **request)
        assert (list(reply), reply["code"]) == (["version", "error", "code"], "not-permitted")
        assert "uid 65534 may only read" in reply["error"]
    assert daemon.owners() == {"a": "2-3"}


@needs_root
def test_a_reader_may_read_the_history_and_ask_for_nothing_of_an_administrators(daemon: Daemon):
    daemon.arguments = ("--access-uids", str(NOBODY))
    daemon.restart()
    daemon.socket_path.chmod(0o666)
    assert ask_as(NOBODY - 1, daemon, action="get_history")["events"] == []
    for action in ("reload", "backup", "verify"):
        for uid in (NOBODY, NOBODY - 1):
            reply = ask_as(uid, daemon, action=action)
            assert reply["code"] == "not-permitted"
            assert f"uid {uid} may not ask for {action}" in reply["error"]


@needs_root
def test_users_and_members_of_groups_on_the_list_may_change_things(make_daemon: MakeDaemon):
    daemon = make_daemon(arguments=("--access-uids", "1000, 1001", "--access-gids", "2000"))
    daemon.start()
    daemon.socket_path.chmod(0o666)
    grant = {"action": "allocate_cores", "service_name": "a", "num_of_cores": 1}
    assert ask_as(1001, daemon, **grant)["cores_allocated"] == 1
    assert ask_as(1002, daemon, **grant)["code"] == "not-permitted"
    assert ask_from("", daemon, grant, uid=1002, groups="3000,2000")["cores_allocated"] == 1
    assert ask_from("", daemon, grant, uid=1002, groups="3000")["code"] == "not-permitted"
    assert ask_from("", daemon, grant, uid=2000)["cores_allocated"] == 1


@needs_root
def test_the_list_is_taken_while_the_daemon_runs(make_daemon: MakeDaemon):
    daemon = make_daemon(cpu_pool=None)
    file = daemon.folder / "options.json"
    daemon.arguments = ("--options-file", str(file))
    daemon.start()
    daemon.socket_path.chmod(0o666)
    grant = {"action": "allocate_cores", "service_name": "a", "num_of_cores": 1}
    assert ask_as(NOBODY, daemon, **grant)["code"] == "not-permitted"
    rules = {"cpu_pool": None, "small_system_percent": 80}
    rules |= {"large_system_threshold": 100, "large_system_reserved": 16}
    offered = file.with_name("options.json.new")
    offered.write_text(json.dumps(rules | {"access_uids": [NOBODY]}))
    assert daemon.ask("reload")["options"]["access_uids"] == [NOBODY]
    assert ask_as(NOBODY, daemon, **grant)["cores_allocated"] == 1
    offered.write_text(json.dumps(rules))
    daemon.ask("reload")
    assert ask_as(NOBODY, daemon, **grant)["code"] == "not-permitted"


# Imports first and becomes the user then, so that it also works with a Python that the user could
# not read (one below /root, say).
AS_USER = """
import os, sys
from epa_daemon import cli, daemon
os.setgroups([]); os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))
sys.exit(cli.main(sys.argv[2:]))
"""


def as_user(uid: int, *arguments: str) -> list[str]:
    return [sys.executable, "-c", AS_USER, str(uid), *arguments]


@needs_root
def test_a_daemon_of_an_ordinary_user_serves_that_user_and_root(
    make_daemon: MakeDaemon,
):
    daemon = make_daemon(host_trees.TWO_SOCKETS)
    os.chown(daemon.folder, NOBODY, -1)
    arguments = daemon.command()[3:]
    daemon.command = lambda *_: as_user(NOBODY, *arguments)
    daemon.start()
    assert daemon.socket_path.stat().st_uid == NOBODY
    reply = ask_as(NOBODY, daemon, action="allocate_cores", service_name="a", num_of_cores=1)
    assert reply["cores_allocated"] == 1
    assert daemon.ask("allocate_cores", service_name="b", num_of_cores=1)["cores_allocated"] == 1
    daemon.socket_path.chmod(0o666)
    reply = ask_as(NOBODY - 1, daemon, action="allocate_cores", service_name="a", num_of_cores=-1)
    assert reply["code"] == "not-permitted"


@needs_root
def test_without_permission_the_command_says_so(daemon: Daemon):
    done = subprocess.run(
        as_user(NOBODY, "list", "--socket", str(daemon.socket_path)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 77
    assert "no permission to connect" in done.stderr
    assert "sudo" in done.stderr
