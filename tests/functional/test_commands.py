# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""People's commands against a running daemon."""

import json
import os
import subprocess
import sys

import pytest

from tests import host_trees
from tests.functional.daemons import Daemon, MakeDaemon


def run(daemon: Daemon, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "epa_daemon", *arguments, "--socket", str(daemon.socket_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def prints(daemon: Daemon, *arguments: str) -> str:
    done = run(daemon, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_day_at_the_command_line(daemon: Daemon):
    assert prints(daemon, "allocate", "nova", "--cores", "4") == (
        "nova: holds CPUs 2-5; 8 CPUs free\n"
    )
    protect = ("--numa-node", "1", "--preemption-policy", "non-preemptive")
    prints(daemon, "allocate", "ceph-osd.0", "--cores", "2", *protect)
    prints(daemon, "allocate", "web", "--percent", "50", "--pool", "general")
    pages = ("--numa-node", "1", "--size-kb", "1048576")
    prints(daemon, "allocate", "dpdk", "--hugepages", "2", *pages)
    assert prints(daemon, "list") == (
        "SERVICE     POOL      CPUS   COUNT  POLICY          CLAIM\n"
        "ceph-osd.0  isolated  10-11  2      non-preemptive  NUMA\n"
        "nova        isolated  2-5    4      legacy          count\n"
        "web         general   0-1    2      legacy          count\n"
        "\n"
        "isolated: 12 CPUs (2-7,10-15), 6 free\n"
        "general: 4 CPUs (0-1,8-9), 2 free\n"
    )
    assert prints(daemon, "hugepages") == (
        "NODE  SIZE  TOTAL  FREE  HELD BY\n"
        "0     2M    32     32    -\n"
        "0     1G    1      1     -\n"
        "1     2M    32     32    -\n"
        "1     1G    2      0     dpdk 2\n"
    )
    assert prints(daemon, "topology") == (
        "online 0-15; isolated 2-7,10-15; general 0-1,8-9\n"
        "NODE  SOCKET  CORE  THREADS\n"
        "0     0       0     0 web          1 web\n"
        "0     0       2     2 nova         3 nova\n"
        "0     0       4     4 nova         5 nova\n"
        "0     0       6     6 free         7 free\n"
        "1     1       8     8 free         9 free\n"
        "1     1       10    10 ceph-osd.0  11 ceph-osd.0\n"
        "1     1       12    12 free        13 free\n"
        "1     1       14    14 free        15 free\n"
    )
    assert prints(daemon, "health").startswith("healthy: epa-orchestrator ")
    assert prints(daemon, "release", "nova") == "nova: holds no CPUs now; 10 CPUs free\n"
    prints(daemon, "release", "ceph-osd.0", "--numa-node", "1")
    assert prints(daemon, "release", "dpdk", "--hugepages", *pages) == (
        "dpdk: Removed recorded hugepage allocation\n"
    )


def test_everything_as_json(daemon: Daemon):
    assert json.loads(prints(daemon, "allocate", "a", "--auto", "--format", "json"))[
        "cores_allocated"
    ]
    pools = [listing["pool"] for listing in json.loads(prints(daemon, "list", "--format", "json"))]
    assert pools == ["isolated", "general"]
    for command in ("hugepages", "topology", "health"):
        assert json.loads(prints(daemon, command, "--format", "json"))["version"] == "1.0"


def test_a_host_with_nothing_to_hand_out(make_daemon: MakeDaemon):
    daemon = make_daemon(host_trees.HOSTS / "plain-1cpu").start()
    assert prints(daemon, "list") == "isolated: no CPUs\n"
    assert "healthy" in prints(daemon, "health")
    assert "0 ." in prints(daemon, "topology")


def test_memory_only_nodes_and_offline_cpus_are_on_the_map(make_daemon: MakeDaemon):
    tree = host_trees.HOSTS / "offline-and-memory-only-node-8cpu"
    daemon = make_daemon(tree).start()
    shown = prints(daemon, "topology")
    assert "(memory only)" in shown
    assert "5 free (offline)" in shown


def test_a_refusal_exits_1_with_the_reason_and_its_code(daemon: Daemon):
    done = run(daemon, "allocate", "a", "--cores", "99")
    assert done.returncode == 1
    assert done.stderr == (
        "epa-orchestrator: refused: Insufficient CPUs available. Requested: 99, Available: 12 "
        "[insufficient-cpus]\n"
    )


def test_an_unhealthy_daemon_exits_1(daemon: Daemon):
    daemon.ask("allocate_cores", service_name="a", num_of_cores=1)
    host_trees.write(daemon.root / "sys/devices/system/cpu/online", "0-1")
    done = run(daemon, "health")
    assert done.returncode == 1
    assert "a holds 2, which are offline" in done.stdout


def test_a_daemon_that_does_not_run_exits_69_and_says_what_to_do(daemon: Daemon):
    daemon.kill()
    for _ in range(2):
        done = run(daemon, "list")
        assert done.returncode == 69
        assert "no daemon listens on" in done.stderr
        assert "snap start epa-orchestrator.daemon" in done.stderr
        daemon.socket_path.unlink(missing_ok=True)


@pytest.mark.parametrize(
    "arguments",
    [
        ("allocate", "a"),
        ("allocate", "a", "--cores", "0"),
        ("allocate", "a", "--cores", "x"),
        ("allocate", "a", "--cores", "1", "--auto"),
        ("allocate", "a", "--auto", "--numa-node", "0"),
        ("allocate", "a", "--percent", "5", "--numa-node", "0"),
        ("allocate", "a", "--hugepages", "1"),
        ("allocate", "a", "--cores", "1", "--size-kb", "4"),
        (
            "allocate",
            "a",
            "--hugepages",
            "1",
            "--numa-node",
            "0",
            "--size-kb",
            "4",
            "--pool",
            "general",
        ),
        ("release", "a", "--hugepages"),
        ("release", "a", "--size-kb", "2048"),
        ("list", "--timeout", "-1"),
        ("list", "--timeout", "x"),
        ("list", "--format", "xml"),
        ("frobnicate",),
        (),
    ],
)
def test_wrong_usage_exits_2_and_changes_nothing(daemon: Daemon, arguments: tuple[str, ...]):
    assert run(daemon, *arguments).returncode == 2
    assert daemon.owners() == {}


def test_a_user_without_a_home_and_a_reader_that_has_seen_enough(daemon: Daemon):
    command = [sys.executable, "-m", "epa_daemon", "topology"]
    command += ["--socket", str(daemon.socket_path)]
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "HOME": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")
