# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Events read as what somebody got, lost and released, and times as people write them."""

import datetime

import pytest

from epa_daemon import history
from epa_daemon.history import Cause, Difference
from epa_daemon.ledger import Ledger, Policy
from tests.unit.scenes import holding, holding_all

NOW = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("before", "after", "action", "requested_for", "found"),
    [
        ("", "2-3", "allocate_cores", "a", ("2-3", "", "")),
        ("2-3", "3-4", "allocate_cores", "a", ("4", "", "2")),
        ("2-5", "2", "allocate_cores", "a", ("", "", "3-5")),
        ("2-5", "4-5", "allocate_numa_cores", "b", ("", "2-3", "")),
        ("2-5", "2-5 non-preemptive", "allocate_cores", "a", ("", "", "")),
        ("2-5 non-preemptive", "", "allocate_cores", "a", ("", "", "2-5")),
        ("2-5", "", "import", "", ("", "2-5", "")),
        ("2-5", "4-5", "restore", "", ("", "2-3", "")),
        ("2-5", "", "repair", "", ("", "", "2-5")),
        ("2-5", "4-5", "allocate_numa_cores", "", ("", "", "2-3")),
    ],
)
def test_what_became_of_cpus(
    before: str, after: str, action: str, requested_for: str, found: tuple[str, str, str]
):
    told = history.difference("cpus isolated", before, after, action, "a", requested_for)
    assert told == Difference(*found)


def test_what_became_of_pages():
    subject = "hugepages node0 2048 kB"
    assert history.difference(subject, "", "3", "x", "a", "a") == Difference("3", "", "")
    assert history.difference(subject, "3", "", "x", "a", "a") == Difference("", "", "3")
    assert history.difference(subject, "3", "1", "restore", "a", "") == Difference("", "2", "")


def test_a_change_of_protection_is_an_event_and_no_change_is_none():
    plain = holding_all(a=holding("2"), b=holding("3"))
    strict = plain.with_holding("a", holding("2", policy=Policy.NON_PREEMPTIVE))
    strict = strict.with_holding("b", holding("3"))
    (event,) = history.events(Cause("x"), plain, strict)
    assert (event.service, event.before, event.after) == ("a", "2", "2 non-preemptive")
    assert history.events(Cause("x"), Ledger(), Ledger()) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("2h", "2026-03-01T10:00:00.000+00:00"),
        (" 3 d ", "2026-02-26T12:00:00.000+00:00"),
        ("90s", "2026-03-01T11:58:30.000+00:00"),
        ("5m", "2026-03-01T11:55:00.000+00:00"),
        ("1w", "2026-02-22T12:00:00.000+00:00"),
        ("2026-01-31", "2026-01-31T00:00:00.000+00:00"),
        ("2026-01-31T12:00", "2026-01-31T12:00:00.000+00:00"),
        ("2026-01-31T12:00:00+02:00", "2026-01-31T10:00:00.000+00:00"),
        ("2026-01-31T12:00:00.5Z", "2026-01-31T12:00:00.500+00:00"),
    ],
)
def test_times_and_ages(text: str, found: str):
    assert history.since(text, NOW) == found


@pytest.mark.parametrize("text", ["", "h", "2y", "-2h", "now", "2026-13-01", "999999w", "٣h"])
def test_what_is_neither(text: str):
    with pytest.raises(ValueError, match=r"is not a time|too long ago"):
        history.since(text, NOW)
