# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""What `make trust` says of promises whose test did not run."""

import pytest

from tests.faults import __main__ as trust
from tests.faults.promises import PROMISES

PASSED = {promise.test: "passed" for promise in PROMISES}
ONE = PROMISES[0].test


@pytest.mark.parametrize(
    ("outcome", "full", "quick", "shown"),
    [
        ("passed", True, True, "passed"),
        ("skipped", False, True, "not run"),
        ("failed", False, False, "**FAILED**"),
    ],
)
def test_a_promise_is_kept_only_if_its_test_ran(outcome: str, full: bool, quick: bool, shown: str):
    outcomes = {**PASSED, ONE: outcome}
    assert trust.kept(outcomes, quick=False) == full
    assert trust.kept(outcomes, quick=True) == quick
    assert f"| {shown} |" in trust.row(PROMISES[0], {}, outcomes)


def test_a_test_that_is_in_no_report_did_not_run():
    outcomes = {test: outcome for test, outcome in PASSED.items() if test != ONE}
    assert not trust.kept(outcomes, quick=False)
