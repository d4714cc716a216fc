# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

import pytest

from epa_daemon import cpulist, options, pools, settings
from epa_daemon.errors import CannotStart
from epa_daemon.ledger import Ledger, Pool
from epa_daemon.pools import PoolError
from tests.unit.scenes import holding, holding_all

PRESENT = cpulist.parse("0-7,12-15")
ISOLATED = cpulist.parse("2-3")
CLAIMED = holding_all(g=holding("5", pool=Pool.GENERAL))


@pytest.mark.parametrize("value", [None, "isolated", " isolated "])
def test_values_that_mean_no_general_pool(value: object):
    assert pools.beside(pools.configured(value), ISOLATED) is None
    pools.validate(value, PRESENT, ISOLATED, Ledger())


@pytest.mark.parametrize(("value", "cpus"), [("4-7", "4-7"), (5, "5"), (" 6 , 4 - 5 ", "4-6")])
def test_values_that_are_accepted(value: object, cpus: str):
    pools.validate(value, PRESENT, ISOLATED, Ledger())
    found = pools.beside(pools.configured(value), ISOLATED)
    assert found is not None
    assert (found.cpus, found.error) == (cpulist.parse(cpus), None)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("4,,5", "Invalid cpu-pool CPU list component: ''"),
        ("0-6:2", "Invalid cpu-pool CPU list component: '0-6:2'"),
        ("-4", "Invalid cpu-pool CPU list component: '-4'"),
        ("7-4", "Invalid cpu-pool descending range: '7-4'"),
        ("70000", "cpu-pool CPU ID exceeds 65535: '70000'"),
        ("4-16", "cpu-pool range is outside present CPU topology: '4-16'"),
        ("4, 6-12", "cpu-pool includes CPUs not present: '6-12'"),
        ("99", "cpu-pool includes CPUs not present: '99'"),
        ("1-4", "General cpu-pool overlaps isolated CPUs: 2-3"),
        (True, "cpu-pool must be 'isolated' or a CPU list"),
        (["4"], "cpu-pool must be 'isolated' or a CPU list"),
        (2.5, "cpu-pool must be 'isolated' or a CPU list"),
        (
            "6-7",
            "cpu-pool excludes allocated CPUs: 5; "
            "release or migrate these allocations before changing the pool",
        ),
        (None, "CPU pool general is not configured"),
        ("", "Invalid cpu-pool CPU list component: ''"),
        ("  ", "Invalid cpu-pool CPU list component: ''"),
    ],
)
def test_values_that_are_refused_say_why(value: object, text: str):
    with pytest.raises(PoolError) as caught:
        pools.validate(value, PRESENT, ISOLATED, CLAIMED)
    assert str(caught.value) == text


@pytest.mark.parametrize("value", ["x", "1-4", True])
def test_an_unusable_value_leaves_a_pool_without_cpus(value: object):
    found = pools.beside(pools.configured(value), ISOLATED)
    assert found is not None
    assert found.cpus == frozenset()
    assert found.error


@pytest.mark.parametrize("value", ["0", "101", "-1", "8.5", "", "eighty", "٣", "9" * 30])
def test_policy_numbers_out_of_range_name_the_option(value: str):
    with pytest.raises(CannotStart) as caught:
        options.policy_number("policy.small-system-percent", value)
    assert str(caught.value) == (
        f"Invalid policy.small-system-percent: '{value}' is not a whole number from 1 to 100"
    )


def test_default_folders_follow_the_snap_then_xdg():
    snap = {"SNAP_DATA": "/var/snap/e/1", "SNAP_COMMON": "/var/snap/e/common"}
    assert str(settings.default_data(snap)) == "/var/snap/e/1/data"
    assert str(settings.default_state(snap)) == "/var/snap/e/common/state"
    del snap["SNAP_COMMON"]
    assert str(settings.default_state(snap)) == "/var/snap/e/1/state"
    xdg = {"XDG_RUNTIME_DIR": "/run/user/7", "XDG_STATE_HOME": "/home/u/.s"}
    assert str(settings.default_data(xdg)) == "/run/user/7/epa-orchestrator"
    assert str(settings.default_state(xdg)) == "/home/u/.s/epa-orchestrator"
