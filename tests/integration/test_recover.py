# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""docs/how-to/recover.md, followed step by step with the packed snap, confined, as an operator."""

import json

import pytest

from tests.integration.lab.machine import Result
from tests.integration.orchestrator import SOCKET, Orchestrator
from tests.integration.test_takeover import DATA

SERVICE = "snap.epa-orchestrator.daemon"
STATE = "/var/snap/epa-orchestrator/common/state"
BACKUP = "epa-orchestrator backup - > /root/epa-backup.db"
RESTORE = "epa-orchestrator restore {word} - < /root/epa-backup.db"
PYTHON = "/usr/local/python3.12/bin/python3.12"


class Operator:
    """Somebody with a root shell on the machine."""

    def __init__(self, epa: Orchestrator):
        self.epa = epa
        self.machine = epa.machine

    def types(self, command: str) -> str:
        """A command that has to succeed; what it printed."""
        return self.machine.run(command, timeout=120).stdout

    def tries(self, command: str) -> Result:
        return self.machine.run(command, check=False, timeout=120)

    def stops(self) -> None:
        self.types("snap stop epa-orchestrator.daemon")

    def starts(self) -> None:
        self.types("snap start epa-orchestrator.daemon")
        self.epa.wait()

    def starts_in_vain(self) -> str:
        """The line with which the daemon refuses, exit 78."""
        self.tries("snap start epa-orchestrator.daemon")
        self.types(f"while systemctl is-active -q {SERVICE}; do sleep 0.2; done")
        code = self.types(f"systemctl show -P ExecMainStatus {SERVICE}")
        assert code.strip() == "78", self.epa.log()
        lines = self.types("snap logs epa-orchestrator.daemon").splitlines()
        return [line for line in lines if " epa-orchestrator.daemon[" in line][-1]

    def verifies(self) -> list[str]:
        """The codes of what is wrong."""
        done = self.tries("epa-orchestrator verify --format json")
        codes = [problem["code"] for problem in json.loads(done.stdout)["problems"]]
        assert done.returncode == (1 if codes else 0), done
        return codes


@pytest.fixture
def operator(epa: Orchestrator) -> Operator:
    return Operator(epa)


@pytest.mark.long
def test_a_backup_is_restored_unless_it_contradicts_live_claims(operator: Operator):
    assert operator.verifies() == []
    operator.epa.allocate("nova", 2)
    operator.types(BACKUP)
    operator.epa.allocate("dpdk", 2)
    operator.stops()
    refused = operator.tries(RESTORE.format(word=""))
    assert refused.returncode == 1
    assert "dpdk" in refused.stderr
    operator.types(RESTORE.format(word="--discard-claims"))
    operator.starts()
    assert operator.verifies() == []
    assert operator.epa.owners() == {"nova": "2-3"}
    assert "ledger.db.replaced-" in operator.types(f"ls {STATE}")


def test_a_damaged_store_is_refused_and_its_backup_brings_it_back(operator: Operator):
    operator.epa.allocate("nova", 2)
    operator.types(BACKUP)
    operator.stops()
    operator.types(f"dd if=/dev/urandom of={STATE}/ledger.db bs=1k seek=1 count=24 conv=notrunc")
    damaged = operator.types(f"sha256sum {STATE}/ledger.db")
    assert "the store" in operator.starts_in_vain()
    assert operator.verifies() == ["store-unusable"]
    assert operator.types(f"sha256sum {STATE}/ledger.db") == damaged
    operator.types(RESTORE.format(word="--discard-claims"))
    operator.starts()
    assert operator.verifies() == []
    assert operator.epa.owners() == {"nova": "2-3"}


@pytest.mark.long
def test_a_store_that_is_gone_is_saved_from_the_running_daemon(operator: Operator):
    operator.epa.allocate("nova", 2)
    operator.types(f"rm {STATE}/ledger.db*")
    assert operator.verifies() == ["store-damaged"]
    operator.types(BACKUP)
    operator.stops()
    operator.types(RESTORE.format(word=""))
    operator.starts()
    assert operator.verifies() == []
    assert operator.epa.owners() == {"nova": "2-3"}


@pytest.mark.long
def test_a_store_of_a_newer_daemon_is_left_alone(operator: Operator):
    operator.epa.allocate("nova", 2)
    operator.types(BACKUP)
    operator.stops()
    newer = f"import sqlite3; sqlite3.connect('{STATE}/ledger.db').execute('{{}}')"
    operator.types(f'{PYTHON} -c "{newer.format("PRAGMA user_version = 999")}"')
    assert "newer" in operator.starts_in_vain()
    operator.types(RESTORE.format(word="--discard-claims"))
    operator.starts()
    assert operator.epa.owners() == {"nova": "2-3"}


@pytest.mark.long
def test_a_full_disk_grants_nothing_and_heals_by_itself(operator: Operator):
    operator.epa.allocate("nova", 2)
    pid = operator.epa.pid()
    operator.types(f"prlimit --pid {pid} --fsize=1:unlimited")
    assert operator.epa.ask("allocate_cores", service_name="a", num_of_cores=1)["code"] == (
        "store-failed"
    )
    assert operator.epa.owners() == {"nova": "2-3"}
    operator.types(f"prlimit --pid {pid} --fsize=unlimited:unlimited")
    assert operator.epa.allocate("a", 1) == "4"
    assert operator.types("epa-orchestrator health")
    assert operator.epa.pid() == pid


@pytest.mark.long
def test_offline_cpus_keep_their_owner_and_come_back(operator: Operator):
    operator.epa.allocate("nova", 2)
    operator.types("echo 0 > /sys/devices/system/cpu/cpu3/online")
    assert operator.verifies() == ["claims-offline"]
    operator.types("echo 1 > /sys/devices/system/cpu/cpu3/online")
    assert operator.verifies() == []
    assert operator.epa.owners() == {"nova": "2-3"}


@pytest.mark.long
def test_options_that_cannot_be_read_are_written_anew_by_snap_set(operator: Operator):
    operator.epa.allocate("nova", 2)
    operator.types("echo '{' > /var/snap/epa-orchestrator/current/options.json")
    operator.stops()
    assert "options.json" in operator.starts_in_vain()
    operator.types("snap set epa-orchestrator policy.small-system-percent=80")
    operator.starts()
    assert operator.verifies() == []
    assert operator.epa.owners() == {"nova": "2-3"}


@pytest.mark.long
def test_what_stands_in_the_sockets_place_is_named(operator: Operator):
    operator.epa.allocate("nova", 2)
    operator.stops()
    operator.types(f"rm -f {SOCKET}; touch {SOCKET}")
    assert "is not a socket" in operator.starts_in_vain()
    operator.types(f"rm {SOCKET}")
    operator.starts()
    assert operator.epa.owners() == {"nova": "2-3"}


@pytest.mark.long
def test_contested_cpus_and_unusable_names_of_the_older_daemon_are_released(
    deployed: Orchestrator,
):
    operator = Operator(deployed)
    owners = {"nova": "2-3", "dpdk": "3-4", "a\0b": "5"}
    old = {"allocations_db": {"allocations": owners}, "version": 1}
    deployed.machine.write(f"{DATA}/state.json", json.dumps(old))
    deployed.refresh()
    deployed.wait()
    operator.types("snap connect epa-orchestrator:hardware-observe")
    assert set(operator.verifies()) == {"contested", "unusable-name"}
    operator.types("epa-orchestrator release dpdk")
    assert operator.verifies() == ["unusable-name"]
    operator.stops()
    operator.types("""epa-orchestrator repair --release '"a\\u0000b"'""")
    operator.starts()
    assert operator.verifies() == []
    assert deployed.owners() == {"nova": "2-3"}
