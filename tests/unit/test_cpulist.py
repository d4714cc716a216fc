# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epa_daemon import cpulist
from tests import host_trees

cpu_sets = st.frozensets(st.integers(0, cpulist.MAX_CPU_ID), max_size=200)


@given(cpu_sets)
def test_what_is_written_is_read_back(cpus: frozenset[int]):
    assert cpulist.parse(cpulist.format_ranges(cpus)) == cpus


@given(st.frozensets(st.integers(0, 300)))
def test_masks_are_read_as_the_kernel_writes_them(cpus: frozenset[int]):
    assert cpulist.parse_mask(host_trees.mask(cpus) + "\n") == cpus


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("\n", ""),
        ("0-3,8\n", "0-3,8"),
        (" 5 , 2 - 3 ,2", "2-3,5"),
        ("007", "7"),
        ("65535", "65535"),
    ],
)
def test_lists_that_are_fine(text: str, expected: str):
    assert cpulist.format_ranges(cpulist.parse(text)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,,2", "Invalid cpu-pool CPU list component: ''"),
        ("1,", "Invalid cpu-pool CPU list component: ''"),
        ("-1", "Invalid cpu-pool CPU list component: '-1'"),
        ("0-7:2/4", "Invalid cpu-pool CPU list component: '0-7:2/4'"),
        ("a", "Invalid cpu-pool CPU list component: 'a'"),
        ("1 2", "Invalid cpu-pool CPU list component: '1 2'"),
        ("٣", "Invalid cpu-pool CPU list component: '٣'"),
        ("7-2", "Invalid cpu-pool descending range: '7-2'"),
        ("65536", "cpu-pool CPU ID exceeds 65535: '65536'"),
        ("0-99999999999999999999", "cpu-pool CPU ID exceeds 65535: '0-99999999999999999999'"),
    ],
)
def test_lists_that_are_wrong_name_the_component(text: str, message: str):
    with pytest.raises(cpulist.CpuListError) as caught:
        cpulist.parse(text)
    assert str(caught.value) == message


@pytest.mark.parametrize("text", ["", "xyz", "1234567890", "ff,", ",ff"])
def test_masks_that_are_wrong_are_refused(text: str):
    with pytest.raises(cpulist.CpuListError):
        cpulist.parse_mask(text)
