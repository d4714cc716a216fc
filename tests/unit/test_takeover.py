# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Taking over the old state file (contract, state-json)."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from epa_daemon import opening, takeover
from epa_daemon.errors import CannotStart
from epa_daemon.ledger import Ledger, Policy, Pool
from tests.unit.scenes import held, holding, holding_all

EXAMPLE: dict[str, Any] = {
    "allocations_db": {
        "allocation_pools": {"ceph-osd.0": "general"},
        "allocations": {"ceph-osd.0": "2-3", "openstack-hypervisor": "4-6", "empty": ""},
        "explicit_allocations": {"ceph-osd.0": "2-3"},
        "preemption_policies": {"ceph-osd.0": "non-preemptive"},
    },
    "hugepages_db": {"allocations": {"svc": [{"count": 3, "node_id": 0, "size_kb": 2048}]}},
    "updated_at": "2026-01-01T00:00:00.000000+00:00",
    "version": 1,
}


class Deployment:
    """A data and a state folder."""

    def __init__(self, folder: Path):
        self.data, self.state = folder / "data", folder / "state"
        self.data.mkdir()
        self.file = self.data / "state.json"

    def start(self, prefer: takeover.Prefer | None = None) -> Ledger:
        opened = opening.open_folder(self.state)
        try:
            return takeover.run(self.data, self.state, opened, opened.load(), prefer)
        finally:
            opened.close()

    def holds(self, ledger: Ledger) -> None:
        opened = opening.open_folder(self.state)
        opened.commit(opened.load(), ledger, [])
        opened.close()


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    return Deployment(tmp_path)


def old(**allocations: str) -> str:
    return json.dumps({"allocations_db": {"allocations": allocations}})


def test_everything_is_taken_over_once(deployment: Deployment):
    deployment.file.write_text(json.dumps(EXAMPLE))
    (deployment.data / "state.json.lock").touch()
    (deployment.data / "state.json.1").write_text("{}")
    ledger = deployment.start()
    osd = ledger.holdings["ceph-osd.0"]
    assert (osd.pool, osd.policy, osd.explicit_cpus) == (
        Pool.GENERAL,
        Policy.NON_PREEMPTIVE,
        {2, 3},
    )
    hypervisor = ledger.holdings["openstack-hypervisor"]
    assert (hypervisor.pool, hypervisor.policy, hypervisor.ranges) == (
        Pool.ISOLATED,
        Policy.LEGACY,
        "4-6",
    )
    assert "empty" not in ledger.holdings
    assert ledger.pages_of((0, 2048), "svc") == 3
    assert list(deployment.data.iterdir()) == []
    assert sorted(path.name for path in (deployment.state / "imported").iterdir()) == [
        "state.json",
        "state.json.1",
        "state.json.lock",
    ]
    assert deployment.start() == ledger


def test_the_same_file_again_is_only_moved_away(deployment: Deployment):
    deployment.file.write_text(json.dumps(EXAMPLE))
    ledger = deployment.start().with_holding("openstack-hypervisor", None)
    deployment.holds(ledger)
    deployment.file.write_text(json.dumps(EXAMPLE))
    assert deployment.start() == ledger
    assert not deployment.file.exists()
    assert len(list((deployment.state / "imported").iterdir())) == 2


CORRUPT = {
    "empty file": "",
    "not json": "{",
    "a list": "[]",
    "section": '{"allocations_db": []}',
    "hugepages section": '{"hugepages_db": 5}',
    "cores not a text": '{"allocations_db": {"allocations": {"a": 5}}}',
    "bad range": '{"allocations_db": {"allocations": {"a": "3-"}}}',
    "explicit": '{"allocations_db": {"explicit_allocations": []}}',
    "explicit range": '{"allocations_db": {"explicit_allocations": {"a": "x"}}}',
    "policy null": old(a="1")[:-2] + ', "preemption_policies": {"a": null}}}',
    "policies null": old(a="1")[:-2] + ', "preemption_policies": null}}',
    "policies list": old(a="1")[:-2] + ', "preemption_policies": []}}',
    "policy unknown": old(a="1")[:-2] + ', "preemption_policies": {"a": "kind"}}}',
    "policy without claim": old(a="1")[:-2] + ', "preemption_policies": {"b": "legacy"}}}',
    "pools null": old(a="1")[:-2] + ', "allocation_pools": null}}',
    "pool list": old(a="1")[:-2] + ', "allocation_pools": {"a": ["isolated"]}}}',
    "pool unknown": old(a="1")[:-2] + ', "allocation_pools": {"a": "swimming"}}}',
    "pool without claim": old(a="1")[:-2] + ', "allocation_pools": {"b": "general"}}}',
}


@pytest.mark.parametrize("content", CORRUPT.values(), ids=CORRUPT.keys())
def test_a_corrupt_file_is_refused_and_nothing_is_touched(deployment: Deployment, content: str):
    deployment.file.write_text(content)
    before = deployment.file.stat().st_mtime_ns
    with pytest.raises(CannotStart, match=str(deployment.file)) as caught:
        deployment.start()
    assert "\n" not in str(caught.value)
    assert deployment.file.stat().st_mtime_ns == before
    assert deployment.file.read_text() == content
    opened = opening.open_folder(deployment.state)
    assert opened.load() == Ledger()
    opened.close()


@pytest.mark.parametrize("content", ['{"x": 1}', '{"allocations_db": {"allocations": 5}}', "{}"])
def test_missing_sections_and_odd_allocations_are_empty(deployment: Deployment, content: str):
    deployment.file.write_text(content)
    assert deployment.start() == Ledger()


def test_invalid_hugepage_entries_are_skipped_with_a_warning(
    deployment: Deployment, caplog: pytest.LogCaptureFixture
):
    entries = [
        {"node_id": 0, "size_kb": 2048, "count": 1},
        {"node_id": 0, "size_kb": 2048},
        {"node_id": -1, "size_kb": 2048, "count": 1},
        {"node_id": 0, "size_kb": 4, "count": True},
        "?",
    ]
    content = {"hugepages_db": {"allocations": {"a": entries, "b": 5}}}
    deployment.file.write_text(json.dumps(content))
    assert deployment.start().hugepages == {(0, 2048): {"a": 1}}
    assert sum(r.levelno == logging.WARNING for r in caplog.records) == 5


def test_a_cpu_claimed_twice_is_imported_and_reported(
    deployment: Deployment, caplog: pytest.LogCaptureFixture
):
    deployment.file.write_text(old(a="2-3", b="3-4"))
    ledger = deployment.start()
    assert ledger.contested == {3}
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert "CPU 3 is held by a and b at once" in record.getMessage()
    assert deployment.start().contested == {3}


def test_a_later_file_that_agrees_on_a_contested_cpu_is_no_contradiction(deployment: Deployment):
    deployment.file.write_text(old(a="2-3", b="3-4"))
    ledger = deployment.start()
    deployment.file.write_text(old(a="2-3", b="3-4").replace("{", '{"updated_at": "later", ', 1))
    assert deployment.start() == ledger


def test_a_marked_lock_is_reported(deployment: Deployment, caplog: pytest.LogCaptureFixture):
    deployment.file.write_text(old(a="2"))
    (deployment.data / "state.json.lock").write_text("x")
    deployment.start()
    assert "unsure" in caplog.text


def test_a_later_file_is_merged_where_nothing_contradicts(deployment: Deployment):
    deployment.holds(holding_all(a=holding("2-3"), b=holding("8")))
    deployment.file.write_text(old(a="2-4", c="9"))
    ledger = deployment.start()
    assert (held(ledger, "a"), held(ledger, "b"), held(ledger, "c")) == ("2-4", "8", "9")


@pytest.mark.parametrize(("prefer", "a", "b"), [("old", "2-3", ""), ("new", "2", "3")])
def test_a_contradiction_stops_the_daemon_until_someone_decides(
    deployment: Deployment, prefer: takeover.Prefer, a: str, b: str
):
    deployment.holds(holding_all(b=holding("3")))
    deployment.file.write_text(old(a="2-3"))
    with pytest.raises(CannotStart, match="CPU 3 is held by a there and by b here"):
        deployment.start()
    assert deployment.file.exists()
    ledger = deployment.start(prefer)
    assert (held(ledger, "a"), held(ledger, "b")) == (a, b)
    assert deployment.start() == ledger


@pytest.mark.parametrize(("prefer", "pool"), [("old", "isolated"), ("new", "general")])
def test_another_pool_is_a_contradiction(
    deployment: Deployment, prefer: takeover.Prefer, pool: str
):
    deployment.holds(holding_all(a=holding("8", pool=Pool.GENERAL)))
    deployment.file.write_text(old(a="2"))
    with pytest.raises(CannotStart, match="a is in pool isolated there and in pool general here"):
        deployment.start()
    assert deployment.start(prefer).holdings["a"].pool == pool


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_what_is_no_regular_file_is_refused(deployment: Deployment, kind: str):
    if kind == "folder":
        deployment.file.mkdir()
    else:
        target = deployment.data / "elsewhere"
        target.write_text("{}")
        deployment.file.symlink_to(target)
    with pytest.raises(CannotStart):
        deployment.start()


def test_a_state_file_without_end_is_not_read_whole(tmp_path: Path):
    path = tmp_path / "state.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(CannotStart, match="longer than 16 MiB"):
        takeover.read(path)
