# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Where the snap comes from, and that nothing is done twice."""

import datetime

import ops
import pytest
from charmlibs import snap as snaplib

from tests.unit.charm import unit as units
from tests.unit.charm.fake_daemon import Held
from tests.unit.charm.machine import (
    FOREVER,
    NAME,
    OLD_PLUGS,
    SNAP_FILE,
    Machine,
    Snap,
    api_error,
)
from tests.unit.charm.unit import Unit

FRESH = [
    "install --dangerous epa-orchestrator.snap",
    "hold epa-orchestrator",
    "connect epa-orchestrator:hardware-observe",
    "connect epa-orchestrator:process-control",
    "connect epa-orchestrator:etc-openvswitch",
    "restart epa-orchestrator.daemon",
]
IDLE = ops.ActiveStatus("0/12 CPUs held, 1G pages 0/16")


@pytest.mark.parametrize("hook", units.HOOKS)
def test_every_hook_brings_a_bare_machine_to_active(hook: str, machine: Machine, unit: Unit):
    assert unit.hook(hook) == IDLE
    assert machine.done() == FRESH
    assert machine.snap.hold == FOREVER
    assert machine.references == ["LCK..epa-orchestrator--revx1__epa-orchestrator_0"]
    assert unit.version == "1.0"


@pytest.mark.parametrize("hook", units.HOOKS)
def test_every_hook_leaves_a_finished_machine_alone(hook: str, machine: Machine, unit: Unit):
    unit.hook("install")
    machine.done()
    assert unit.hook(hook) == IDLE
    assert machine.done() == []
    assert all(status.name != "maintenance" for status in unit.history)


def test_maintenance_is_shown_while_there_is_work(machine: Machine, unit: Unit):
    unit.hook("install")
    assert ops.MaintenanceStatus("installing the snap (bundled snap)") in unit.history


def test_a_newer_bundle_comes_with_a_newer_charm(machine: Machine, unit: Unit):
    unit.hook("install")
    machine.daemon.held["nova"] = Held(frozenset({2, 3}))
    machine.done()
    machine.bundle.write_bytes(SNAP_FILE + b"bundle 2")
    assert unit.hook("upgrade_charm") == ops.ActiveStatus(
        "2/12 CPUs held by 1 service, 1G pages 0/16"
    )
    assert machine.done() == ["install --dangerous epa-orchestrator.snap"]
    assert machine.references == ["LCK..epa-orchestrator--revx2__epa-orchestrator_0"]
    assert "all 1 claims kept" in unit.logs


def test_claims_that_another_revision_does_not_know_are_named_in_the_log(
    machine: Machine, unit: Unit
):
    unit.hook("install")
    machine.daemon.held["nova"] = Held(frozenset({2, 3}))
    machine.store["2024.1/stable"] = Snap("9", plugs=dict(OLD_PLUGS), old=True)
    forgetful = machine._from_store  # pyright: ignore[reportPrivateUsage]

    def forget(channel: str) -> None:
        forgetful(channel)
        machine.daemon.held.clear()

    machine._from_store = forget  # pyright: ignore[reportPrivateUsage]
    unit.config["snap-channel"] = "2024.1/stable"
    unit.hook("config_changed")
    assert "the new revision does not know: nova holds isolated CPUs 2-3" in unit.logs


def test_a_resource_goes_before_a_channel_and_the_bundle(machine: Machine, unit: Unit):
    machine.resource.write_bytes(SNAP_FILE + b"special")
    unit.config["snap-channel"] = "2024.1/stable"
    assert unit.hook("install") == IDLE
    assert machine.done()[0] == "install --dangerous resource.snap"
    assert unit.hook() == IDLE
    assert machine.done() == []


def test_a_channel_goes_before_the_bundle(machine: Machine, unit: Unit):
    machine.store["2024.1/stable"] = Snap("9", plugs=dict(OLD_PLUGS))
    unit.config["snap-channel"] = "2024.1/stable"
    assert unit.hook("install") == IDLE
    assert machine.done() == [
        "install epa-orchestrator 2024.1/stable",
        "hold epa-orchestrator",
        "connect epa-orchestrator:hardware-observe",
    ]


def test_no_resource_ever_attached_is_none(
    machine: Machine, unit: Unit, monkeypatch: pytest.MonkeyPatch
):
    def fetch(self: object, name: str) -> None:
        raise ops.ModelError(f'resource "{name}" not found')

    monkeypatch.setattr(ops.Resources, "fetch", fetch)
    assert unit.hook("install") == IDLE
    assert machine.done() == FRESH


def test_from_the_bundle_to_the_store_and_back(machine: Machine, unit: Unit):
    unit.hook("install")
    machine.store["latest/edge"] = Snap("9", plugs=machine.snap.plugs)
    machine.done()
    unit.config["snap-channel"] = "latest/edge"
    assert unit.hook("config_changed") == IDLE
    assert machine.done() == ["refresh epa-orchestrator latest/edge --amend"]
    unit.config["snap-channel"] = ""
    assert unit.hook("config_changed") == IDLE
    assert machine.done() == ["install --dangerous epa-orchestrator.snap"]
    assert unit.hook() == IDLE
    assert machine.done() == []


def test_another_channel_is_a_refresh(machine: Machine, unit: Unit):
    machine.add_installed(revision="8", channel="2024.1/stable")
    machine.store["2024.1/edge"] = Snap("9", plugs=machine.snap.plugs)
    unit.config["snap-channel"] = "2024.1/edge"
    assert unit.hook("config_changed") == IDLE
    assert machine.done() == ["refresh epa-orchestrator 2024.1/edge"]


@pytest.mark.parametrize(
    ("option", "tracked"),
    [
        ("2024.1", "2024.1/stable"),
        ("edge", "2024.1/edge"),
        ("2024.1/edge/fix-1", "2024.1/edge/fix-1"),
    ],
)
def test_another_spelling_of_the_channel_changes_nothing(
    option: str, tracked: str, machine: Machine, unit: Unit
):
    machine.add_installed(revision="8", channel=tracked)
    unit.config["snap-channel"] = option
    assert unit.hook() == IDLE
    assert machine.done() == []


def test_the_unit_of_todays_charm_is_taken_over_without_a_needless_change(
    machine: Machine, unit: Unit
):
    machine.add_installed(revision="8", channel="2024.1/stable", plugs=dict(OLD_PLUGS), old=True)
    machine.daemon.old = True
    machine.daemon.held["nova"] = Held(frozenset({2, 3}))
    machine.connections.clear()
    machine.connections.add((NAME, "network-bind", "snapd", "network-bind"))
    unit.config["snap-channel"] = "2024.1/stable"
    active = ops.ActiveStatus("2/12 CPUs held by 1 service, 1G pages 0/16")
    assert unit.hook("upgrade_charm") == active
    assert machine.done() == ["connect epa-orchestrator:hardware-observe"]
    assert unit.hook("config_changed") == active
    assert machine.done() == []


@pytest.mark.parametrize("hook", units.HOOKS)
@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"a text", "resource epa-orchestrator-snap is not a snap"),
        (
            b"hsqs broken",
            'resource epa-orchestrator-snap is not a snap: no snap found for "{path}"',
        ),
        (
            b"hsqs name=lxd ",
            "resource epa-orchestrator-snap is the snap lxd, not epa-orchestrator",
        ),
    ],
)
def test_a_resource_that_is_not_this_snap_is_refused(
    content: bytes, text: str, hook: str, machine: Machine, unit: Unit
):
    machine.resource.write_bytes(content)
    assert unit.hook(hook) == ops.BlockedStatus(text.format(path=machine.resource))
    assert machine.done() == []


def test_a_charm_without_a_bundle_says_what_to_do(machine: Machine, unit: Unit):
    machine.bundle.unlink()
    assert unit.hook("install") == ops.BlockedStatus(
        "this charm carries no snap: set snap-channel or attach epa-orchestrator-snap"
    )


@pytest.mark.parametrize("installed", ["nothing", "store", "local"])
def test_a_channel_that_is_not_there_blocks_and_keeps_what_is(
    installed: str, machine: Machine, unit: Unit
):
    if installed == "store":
        machine.add_installed(revision="8", channel="2024.1/stable")
    elif installed == "local":
        machine.add_installed()
    unit.config["snap-channel"] = "2030.1/stable"
    status = unit.hook("config_changed")
    assert status == ops.BlockedStatus("snap-channel '2030.1/stable' is not in the store")
    assert len(machine.done()) == 1
    assert (NAME in machine.snaps) == (installed != "nothing")


CANNOT = 'Post "https://api.snapcraft.io/v2/snaps/refresh": connect: network is unreachable'


@pytest.mark.parametrize(
    "error",
    [
        api_error(f'cannot refresh "epa-orchestrator": {CANNOT}'),
        api_error("unable to contact snap store"),
        api_error("lookup failed", "dns-failure"),
        api_error("took too long", "network-timeout"),
        api_error(f'cannot install "epa-orchestrator": {CANNOT}', ""),
        api_error("persistent network error: " + CANNOT, ""),
        api_error('got unexpected HTTP status code 503 via POST to "https://a"', ""),
    ],
)
@pytest.mark.parametrize("local", [False, True])
def test_a_store_that_cannot_be_reached_is_waited_for(
    local: bool, error: Exception, machine: Machine, unit: Unit
):
    if local:
        machine.add_installed()
    machine.failures["refresh" if local else "install"] = error
    unit.config["snap-channel"] = "latest/edge"
    text = "the snap store cannot be reached (snap-channel 'latest/edge')"
    assert unit.hook("config_changed") == ops.WaitingStatus(text)
    machine.failures.clear()
    machine.store["latest/edge"] = Snap("9", plugs=dict(OLD_PLUGS))
    assert unit.hook("update_status") == IDLE


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (
            api_error("snap not found", "snap-not-found"),
            ops.BlockedStatus("the store has no snap epa-orchestrator"),
        ),
        (
            snaplib.ChangeError(
                "cannot perform the following tasks:\n- Run (boom)", kind="", value=""
            ),
            ops.BlockedStatus("snap-channel 'edge': Run (boom)"),
        ),
        (
            api_error("other change in progress", "snap-change-conflict"),
            ops.WaitingStatus("snapd is busy: other change in progress"),
        ),
        (snaplib.TimeoutError("120 s"), ops.WaitingStatus("waiting for snapd to answer")),
    ],
)
def test_an_install_that_fails_says_why(
    error: Exception, status: ops.StatusBase, machine: Machine, unit: Unit
):
    machine.failures["install"] = error
    unit.config["snap-channel"] = "edge"
    assert unit.hook("install") == status
    machine.failures.clear()
    machine.store["latest/edge"] = Snap("9", plugs=dict(OLD_PLUGS))
    assert unit.hook() == IDLE


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (snaplib.ConnectionError("refused"), ops.WaitingStatus("waiting for snapd to answer")),
        (snaplib.TimeoutError("slow"), ops.WaitingStatus("waiting for snapd to answer")),
        (
            snaplib.SocketNotFoundError("no socket"),
            ops.BlockedStatus("snapd is not running; start it: systemctl start snapd.socket"),
        ),
        (snaplib.BadResponseError("odd"), ops.BlockedStatus("cannot ask snapd: odd")),
    ],
)
@pytest.mark.parametrize("hook", units.HOOKS)
def test_without_snapd_nothing_is_active(
    hook: str, error: snaplib.Error, status: ops.StatusBase, machine: Machine, unit: Unit
):
    machine.add_installed()
    machine.snapd_error = error
    assert unit.hook(hook) == status
    machine.snapd_error = None
    assert unit.hook() == IDLE


def test_an_old_snapd_that_cannot_hold_is_no_obstacle(machine: Machine, unit: Unit):
    machine.failures["hold"] = api_error('unknown action "hold"')
    assert unit.hook("install") == IDLE
    assert any("cannot hold a snap" in log for log in unit.logs)


def test_a_hold_for_a_day_is_made_one_for_good(machine: Machine, unit: Unit):
    machine.add_installed(hold=datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1))
    unit.hook()
    assert machine.done() == ["hold epa-orchestrator"]


def test_a_reference_file_that_was_deleted_comes_back(machine: Machine, unit: Unit):
    unit.hook("install")
    (machine.tenants / machine.references[0]).unlink()
    unit.hook()
    assert machine.references == ["LCK..epa-orchestrator--revx1__epa-orchestrator_0"]


def test_a_folder_for_references_that_cannot_be_made_blocks(machine: Machine, unit: Unit):
    machine.tenants.write_text("a file")
    status = unit.hook("install")
    assert status.name == "blocked"
    assert status.message.startswith("cannot keep the snap's reference file: ")
