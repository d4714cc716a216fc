# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

import itertools
import json
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from epa_daemon import protocol
from epa_daemon.errors import ErrorCode, Refusal
from epa_daemon.framing import Framer
from epa_daemon.protocol import AllocateCores


def request(**fields: Any) -> bytes:
    return json.dumps({"action": "allocate_cores", "service_name": "a", **fields}).encode()


def refusal_of(data: bytes) -> Refusal:
    with pytest.raises(Refusal) as caught:
        protocol.parse_request(data)
    return caught.value


@pytest.mark.parametrize(
    ("given_", "number"),
    [
        (3, 3),
        (3.0, 3),
        ("3", 3),
        (" 3 ", 3),
        ("+3", 3),
        ("007", 7),
        ("3.0", 3),
        ("-1", -1),
        ("-1.0", -1),
        (0, 0),
    ],
)
def test_numbers_in_every_form_that_clients_send(given_: object, number: int):
    parsed = protocol.parse_request(request(num_of_cores=given_))
    assert isinstance(parsed, AllocateCores)
    assert parsed.num_of_cores == number


NOT_NUMBERS = (
    *("true", "false", "null", "2.5", "[]", "{}", "-2"),
    *('"3.5"', '"1e1"', '"0x3"', '"1_0"', '""', '" "', '"٣"', '"3."', '"--3"', '"- 3"'),
)


@pytest.mark.parametrize(
    "given_", [json.loads(text) for text in NOT_NUMBERS] + ["9" * 50, "9" * 5000, 10**30, 1e300]
)
def test_what_is_no_number_is_named(given_: object):
    refusal = refusal_of(request(num_of_cores=given_))
    assert refusal.code == "invalid-request"
    assert "num_of_cores must be a whole number" in refusal.text
    assert len(refusal.text) < 400


def test_a_text_for_several_wrong_fields_names_them_all():
    refusal = refusal_of(b'{"action":"allocate_numa_cores","pool":null,"numa_node":-1}')
    assert refusal.text == (
        'Invalid request: pool must be "isolated" or "general" (got null); '
        "service_name must be a text of 1 to 128 printable characters (it is missing); "
        "numa_node must be a whole number of at least 0 (got -1); "
        "num_of_cores must be a whole number (it is missing)"
    )


@pytest.mark.parametrize("pool", [None, "", "Isolated", 1, True, [], {}, "isolated "])
def test_unknown_pools_are_errors_and_never_a_fallback(pool: object):
    for action in ("allocate_cores", "list_allocations"):
        refusal = refusal_of(request(action=action, pool=pool))
        assert 'pool must be "isolated" or "general"' in refusal.text


@pytest.mark.parametrize("policy", ["", "LEGACY", 1, False, ["legacy"]])
def test_unknown_policies_are_errors(policy: object):
    assert "preemption_policy must be" in refusal_of(request(preemption_policy=policy)).text


@pytest.mark.parametrize("version", [None, "", "1", 1.0, "2.0"])
def test_only_version_1_0(version: object):
    assert 'version must be "1.0"' in refusal_of(request(version=version)).text


@pytest.mark.parametrize("name", ["", "a\nb", "a\x00", "\x7f", "x" * 129, None, 5, "\u2028"])
def test_service_names_are_printable_and_bounded(name: object):
    assert "service_name must be a text of 1 to 128" in refusal_of(request(service_name=name)).text


@pytest.mark.parametrize("name", ["a", "ceph-osd.0", "ünïcode ✓", "x" * 128])
def test_service_names_that_are_fine(name: str):
    parsed = protocol.parse_request(request(service_name=name))
    assert isinstance(parsed, AllocateCores)
    assert parsed.service_name == name


@pytest.mark.parametrize(
    ("action", "shown"),
    [("destroy", "destroy"), (None, "None"), (5, "5"), ([], "[]"), ("", "")],
)
def test_unknown_actions_are_shown(action: object, shown: str):
    refusal = refusal_of(json.dumps({"action": action}).encode())
    assert refusal.text == f"Unknown action: {shown}"
    assert refusal_of(b"{}").text == "Unknown action: None"


def test_what_is_shown_of_bad_values_is_bounded_and_printable():
    refusal = refusal_of(request(action="\x1b[2J\n" + "y" * 60_000))
    assert refusal.text.isprintable()
    assert len(refusal.text) < 150
    assert len(refusal_of(request(pool="z" * 60_000)).text) < 300


@pytest.mark.parametrize(
    "data",
    [
        b'{"action":NaN}',
        b'{"action":"allocate_cores","num_of_cores":Infinity}',
        b"{" * 500 + b"}" * 500,
        b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"action":"\xff"}',
        b'{"action":"\\ud800"}',
        b'{"action":"a\x00b"}',
        b"{'action':'x'}",
        b'{"action":"x",}',
        b"[]",
        b"5",
        b'"{}"',
    ],
)
def test_what_is_no_json_object_is_refused(data: bytes):
    assert refusal_of(data).code == "invalid-json"


json_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=200),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.fixed_dictionaries(
        {"action": st.sampled_from([*protocol.ACTIONS, "other"])},
        optional={
            name: json_values | st.integers(-5, 5) | st.sampled_from(["isolated", "general", "x"])
            for name in (
                "version",
                "pool",
                "preemption_policy",
                "service_name",
                "num_of_cores",
                "percent",
                "numa_node",
                "node_id",
                "size_kb",
                "hugepages_requested",
                "keep_alive",
                "something_else",
            )
        },
    )
)
def test_any_object_is_parsed_or_refused_with_one_sentence(content: dict[str, object]):
    try:
        protocol.parse_request(json.dumps(content).encode())
    except Refusal as refusal:
        assert refusal.code in get_args(ErrorCode)
        assert refusal.text.isprintable()
        assert len(refusal.text) < 1500


objects = st.dictionaries(st.text(max_size=8), st.text(max_size=20) | st.integers(), max_size=4)


def in_pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges) if a < b]


@given(objects, st.lists(st.integers(0, 500), max_size=8), st.sampled_from([b"", b" \n", b"\t"]))
@example({"a": '}"{\\'}, [7, 8, 9, 10], b"")
def test_an_object_is_complete_exactly_at_its_last_brace(
    content: dict[str, object], cuts: list[int], blanks: bytes
):
    data = blanks + json.dumps(content, ensure_ascii=False).encode()
    framer = Framer()
    pieces = in_pieces(data, cuts)
    for piece in pieces:
        assert framer.next_request() is None
        framer.feed(piece)
    assert framer.next_request() == data.strip()
    assert not framer.pending


def test_lines_after_switching():
    framer = Framer()
    framer.feed(b'{"a":1}\n[2]\r\n\n{"b"')
    assert framer.next_request() == b'{"a":1}'
    framer.switch_to_lines()
    assert framer.next_request() == b"[2]\r\n"
    assert framer.next_request() is None
    framer.feed(b":3}\n")
    assert framer.next_request() == b'{"b":3}\n'
    assert not framer.pending


@pytest.mark.parametrize("start", [b"[", b'"', b"x", b"\x00", b"}"])
def test_what_does_not_start_with_a_brace_is_refused_at_once(start: bytes):
    framer = Framer()
    framer.feed(b"  " + start)
    with pytest.raises(Refusal):
        framer.next_request()


def test_64_kib_are_served_and_one_byte_more_is_not():
    longest = b'{"a":"' + b"x" * (64 * 1024 - 8) + b'"}'
    framer = Framer()
    framer.feed(longest)
    assert framer.next_request() == longest
    framer.feed(longest[:-2] + b'x"}')
    with pytest.raises(Refusal) as caught:
        framer.next_request()
    assert caught.value.code == "request-too-long"
