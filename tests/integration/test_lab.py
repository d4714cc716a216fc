# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The machine lab does what the other machine tests take for granted."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.lab.channel import AgentError
from tests.integration.lab.errors import (
    BootFailed,
    CommandFailed,
    CommandTimedOut,
    MachineLost,
)
from tests.integration.lab.lab import Lab
from tests.integration.lab.machine import Machine
from tests.integration.lab.shape import Node, Shape
from tests.integration.lab.template import Template

CPU = "/sys/devices/system/cpu"
PROFILES = "/sys/kernel/security/apparmor/profiles"
NODE = "/sys/devices/system/node"


@pytest.fixture(scope="module")
def small(lab: Lab) -> Iterator[Machine]:
    """A kernel-only machine whose nodes are interleaved, with one that has no CPUs."""
    nodes = (Node("0-1,4-5", 1024), Node("2-3,6-7", 1024), Node("", 512))
    with lab.kernel_machine(Shape(nodes=nodes, isolated="2-7", pages_2m=(8, 4, 2))) as machine:
        yield machine


@pytest.fixture(scope="module")
def clone(bare: Template) -> Iterator[Machine]:
    with bare.clone() as machine:
        yield machine


class TestKernelOnly:
    def test_it_has_the_topology_asked_for(self, small: Machine):
        assert small.read(f"{CPU}/isolated") == b"2-7\n"
        siblings = small.run(f"cat {CPU}/cpu5/topology/thread_siblings_list").stdout
        package = small.run(f"cat {CPU}/cpu5/topology/physical_package_id").stdout
        nodes = small.run(f"cat {NODE}/node*/cpulist").stdout
        assert (siblings, package, nodes) == ("4-5\n", "1\n", "0-1,4-5\n2-3,6-7\n\n")

    def test_it_has_the_hugepages_asked_for(self, small: Machine):
        counts = small.run(f"cat {NODE}/node*/hugepages/hugepages-2048kB/nr_hugepages").stdout
        assert counts.split() == ["8", "4", "2"]

    def test_its_python_is_a_whole_one(self, small: Machine):
        code = "import asyncio, ctypes, json, sqlite3, ssl, sys; print(*sys.version_info[:2])"
        assert small.run(["python3.12", "-c", code]).stdout == "3 12\n"

    def test_a_folder_of_the_host_can_be_laid_into_it(self, lab: Lab, tmp_path: Path):
        (tmp_path / "inner").mkdir()
        (tmp_path / "inner/say").write_text("#!/bin/sh\necho here\n")
        (tmp_path / "inner/say").chmod(0o755)
        (tmp_path / "link").symlink_to("inner/say")
        with lab.kernel_machine(trees={"/srv/added": tmp_path}) as machine:
            assert machine.run("/srv/added/link").stdout == "here\n"

    def test_a_failing_command_shows_both_its_outputs(self, small: Machine):
        with pytest.raises(CommandFailed, match=r"(?s)returned 3.*stdout:\nout.*stderr:\nerr"):
            small.run("echo out; echo err >&2; exit 3")
        assert small.run("exit 3", check=False).returncode == 3

    def test_no_such_program_or_file_is_said(self, small: Machine):
        with pytest.raises(AgentError, match="nothing-of-the-kind"):
            small.run(["nothing-of-the-kind"])
        with pytest.raises(AgentError, match="/no/such/file"):
            small.read("/no/such/file")

    def test_a_command_that_takes_too_long_is_killed_with_its_children(self, small: Machine):
        began = time.monotonic()
        with pytest.raises(CommandTimedOut, match=r"(?s)after 1 s.*begun"):
            small.run("echo begun; sleep 987 & sleep 987", timeout=1)
        assert time.monotonic() - began < 10
        assert "sleep 987" not in small.run("ps").stdout.replace("sh -c", "")

    def test_a_background_process_does_not_keep_its_command(self, small: Machine):
        began = time.monotonic()
        assert small.run("sleep 30 & echo started").stdout == "started\n"
        assert time.monotonic() - began < 10

    def test_commands_run_at_the_same_time(self, small: Machine):
        small.run("mkfifo /tmp/fifo")
        said: list[str] = []
        reader = threading.Thread(target=lambda: said.append(small.run("cat /tmp/fifo").stdout))
        reader.start()
        small.run("cat > /tmp/fifo", stdin="through the pipe")
        reader.join(20)
        assert said == ["through the pipe"]

    @pytest.mark.parametrize("size", [0, 1, 192 * 1024, 1_000_003])
    def test_files_arrive_whole(self, small: Machine, size: int):
        content = os.urandom(size)
        small.write("/tmp/new/file", content, 0o640)
        assert small.read("/tmp/new/file") == content
        assert small.run("stat -c %a /tmp/new/file").stdout == "640\n"

    def test_much_output_and_input_arrive_whole(self, small: Machine):
        text = "0123456789abcde\n" * 100_000
        assert small.run("cat; cat >&2 /dev/null", stdin=text).stdout == text

    def test_a_power_cut_ends_it(self, lab: Lab):
        with lab.kernel_machine() as machine:
            waiting = threading.Timer(1, machine.kill)
            waiting.start()
            with pytest.raises(MachineLost):
                machine.run("sleep 60")

    def test_a_killed_test_run_leaves_no_machine(self, lab: Lab):
        code = (
            "import os, signal; from tests.integration.lab.lab import Lab\n"
            "machine = Lab().kernel_machine(); print(machine.pid, flush=True)\n"
            "os.kill(os.getpid(), signal.SIGKILL)"
        )
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120)
        qemu = Path("/proc", said.stdout.decode().strip())
        deadline = time.monotonic() + 10
        while qemu.exists():
            assert time.monotonic() < deadline, said
            time.sleep(0.1)

    def test_a_boot_that_fails_shows_the_end_of_the_console(self, lab: Lab):
        with pytest.raises(BootFailed, match=r"(?s)console.log:.*Kernel panic"):
            lab.kernel_machine(Shape(kernel=("rdinit=/nothing", "root=/dev/none")))
        with pytest.raises(BootFailed, match=r"(?s)qemu.log:.*no-such-device"):
            lab.kernel_machine(qemu_arguments=["-device", "no-such-device"])

    def test_many_cpus(self, lab: Lab):
        shape = Shape(cpus=128, isolated="8-127", nodes=(Node("0-63", 1024), Node("64-127", 1024)))
        with lab.kernel_machine(shape) as machine:
            assert machine.read(f"{CPU}/online") == b"0-127\n"
            assert machine.read(f"{CPU}/isolated") == b"8-127\n"


class TestWholeMachine:
    def test_it_has_the_topology_and_hugepages_asked_for(self, clone: Machine):
        assert clone.read(f"{CPU}/isolated") == b"2-7\n"
        for size, count in (("2048", "32"), ("1048576", "1")):
            path = f"{NODE}/node*/hugepages/hugepages-{size}kB/free_hugepages"
            assert clone.run(f"cat {path}").stdout.split() == [count, count]

    def test_its_clock_is_right(self, clone: Machine):
        assert abs(float(clone.run("date +%s").stdout) - time.time()) < 5

    def test_everything_has_started(self, clone: Machine):
        assert clone.run("systemctl is-system-running").stdout == "running\n"
        clone.run("systemctl is-active snapd.service ovs-vswitchd.service dbus.service")

    def test_a_strict_snap_is_confined(self, clone: Machine):
        assert clone.read("/sys/module/apparmor/parameters/enabled") == b"Y\n"
        assert b"snap.epa-consumer.sh (enforce)" in clone.read(PROFILES)
        outside = clone.run(["epa-consumer.sh", "-c", "cat /etc/shadow"], check=False)
        assert "/etc/shadow: Permission denied" in outside.stderr

    def test_the_consumer_says_why_it_cannot_connect(self, clone: Machine):
        done = clone.run(["epa-consumer.ask", "{}"], check=False)
        assert done.returncode == 3
        assert "No such file or directory" in done.stderr

    def test_both_pythons_work(self, clone: Machine):
        code = "import ssl, sqlite3, sys; print(*sys.version_info[:2])"
        ours = clone.run(["/usr/local/python3.12/bin/python3", "-c", code]).stdout
        theirs = clone.run(["/usr/bin/python3", "-c", code]).stdout
        assert (ours, theirs) == ("3 12\n", "3 13\n")

    def test_clones_do_not_see_each_others_writes(self, bare: Template, clone: Machine):
        clone.write("/root/mine", "1")
        clone.write("/dev/shm/mine", "1")
        with bare.clone() as other:
            assert other.run("ls /root/mine /dev/shm/mine", check=False).returncode != 0

    def test_a_clone_is_there_in_seconds(self, bare: Template):
        began = time.monotonic()
        with bare.clone() as machine:
            machine.run("true")
            assert time.monotonic() - began < 10

    def test_the_prepared_disk_boots_in_another_shape(self, bare: Template):
        shape = Shape(cpus=4, sockets=1, threads=1, isolated="")
        with bare.boot(shape) as machine:
            assert machine.read(f"{CPU}/online") == b"0-3\n"
            assert machine.read(f"{CPU}/isolated") == b"\n"
            assert "epa-consumer" in machine.run("snap list").stdout
            machine.write("/root/kept", "1")
            machine.restart(shape=Shape(cpus=2, sockets=1, isolated="1"))
            assert machine.read(f"{CPU}/isolated") == b"1\n"
            assert machine.read("/root/kept") == b"1"

    def test_a_terminal_is_one(self, clone: Machine):
        shown: list[bytes] = []
        terminal = clone.terminal(["bash", "--norc"], (30, 99), shown.append)
        terminal.type(b"tty; stty size; exit 7\n")
        assert terminal.wait() == 7
        text = b"".join(shown).decode()
        assert "/dev/pts/" in text
        assert "30 99" in text


class TestTemplates:
    def test_one_is_made_once_and_again_when_an_input_changes(
        self, lab: Lab, bare: Template, tmp_path: Path
    ):
        source = tmp_path / "input"

        def prepare(machine: Machine) -> None:
            machine.put(source, "/root/input")

        source.write_text("first")
        first = lab.derive("test-input", bare, prepare, [source])
        made = first.folder.stat().st_mtime_ns
        again = Lab().derive("test-input", bare, prepare, [source])
        assert (again.folder, again.folder.stat().st_mtime_ns) == (first.folder, made)
        source.write_text("second")
        second = lab.derive("test-input", bare, prepare, [source])
        assert second.folder != first.folder
        with first.clone() as old, second.clone() as new:
            assert (old.read("/root/input"), new.read("/root/input")) == (b"first", b"second")

    def test_a_failing_preparation_leaves_nothing(self, lab: Lab, bare: Template):
        def prepare(machine: Machine) -> None:
            machine.run("echo on purpose >&2; false")

        with pytest.raises(CommandFailed, match="on purpose"):
            lab.derive("test-failing", bare, prepare)
        assert list(lab.cache.root.glob("test-failing@*")) == []
