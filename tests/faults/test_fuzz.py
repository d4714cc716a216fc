# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Random inputs, guided by what they reach or by what the protocol's models say."""

import enum
import importlib.util
import itertools
import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, get_args

import hypothesis
import pytest
from annotated_types import Ge, Gt, Le
from hypothesis import HealthCheck
from hypothesis import strategies as st

from epa_daemon import protocol
from epa_daemon.errors import ErrorCode
from epa_daemon.protocol import Request
from tests.faults import stories, tally, witness
from tests.faults.budget import CHOSEN
from tests.functional.daemons import Daemon, MakeDaemon, read_to_end

PROJECT = Path(__file__).parents[2]
SEEDS = (
    b'{"action":"list_allocations","pool":"general"}',
    b'{"version":"1.0","action":"allocate_cores","service_name":"a\\"}{","num_of_cores":" +3.0"}',
    b'{"action":"allocate_numa_cores","service_name":"a","numa_node":0,"num_of_cores":-1,'
    b'"preemption_policy":"non-preemptive"}\n{"action":"get_health","keep_alive":true}\n',
    b'{"action":"allocate_hugepages","service_name":"\xc3\xbc","hugepages_requested":1,'
    b'"node_id":0,"size_kb":2048}',
    b"0-3,8, 10 - 12",
)


@pytest.mark.parametrize("target", ["stream", "request", "list"])
def test_no_bytes_break_what_reads_them(tmp_path: Path, target: str):
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not installed (make trust installs the dependency group fuzz)")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(SEEDS):
        (corpus / str(number)).write_bytes(seed)
    seconds = CHOSEN.fuzz_seconds
    options = [
        f"-max_total_time={seconds}",
        f"-seed={CHOSEN.seed}",
        "-max_len=2000",
        "-timeout=10",
    ]
    command = [sys.executable, "-m", "tests.faults.fuzz", target, *options]
    done = subprocess.run(
        [*command, f"-artifact_prefix={tmp_path}/", str(corpus)],
        capture_output=True,
        text=True,
        errors="replace",
        cwd=PROJECT,
        timeout=seconds + 120,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    runs = re.search(r"Done (\d+) runs", done.stderr)
    assert runs, done.stderr[-2000:]
    assert int(runs[1]) > 1000
    tally.add(
        f"test_no_bytes_break_what_reads_them[{target}]",
        inputs=int(runs[1]),
        seconds=seconds,
        broken=0,
    )


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=200),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from(["a", "b", "c", "nova", "ü", "x" * 128]) | st.text(max_size=140)


def _numbers(metadata: list[Any]) -> st.SearchStrategy[Any]:
    """Small numbers, those around the limits that the model has, and the ways to write them."""
    limits = [m.ge for m in metadata if isinstance(m, Ge)]
    limits += [m.gt for m in metadata if isinstance(m, Gt)]
    limits += [m.le for m in metadata if isinstance(m, Le)]
    edges = [int(str(limit)) + step for limit in limits for step in (-1, 0, 1)]
    whole = st.integers(-1, 8) | st.sampled_from([*edges, 0, 2048, 2**63])
    return whole | whole.map(float) | whole.map(str) | whole.map(lambda n: f" +{n}.0 ")


def _values(model: type[Request], name: str) -> st.SearchStrategy[Any]:
    field = model.model_fields[name]
    kinds = get_args(field.annotation) or (field.annotation,)
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            return st.sampled_from([*kind]) | st.none() | JUNK
        if kind is bool:
            return st.just(False)
        if kind is int:
            return _numbers(field.metadata)
        if kind is str:
            return NAMES
    return st.just(field.default) | JUNK


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    action = draw(st.sampled_from([*protocol.ACTIONS]))
    model = protocol.ACTIONS[action]
    made: dict[str, Any] = {"action": action}
    for name, field in model.model_fields.items():
        if field.is_required() or draw(st.booleans()):
            made[name] = draw(_values(model, name))
    if not draw(st.integers(0, 9)):
        made[draw(st.sampled_from([*made]) | st.text(max_size=9))] = draw(JUNK)
    return made


def check(daemon: Daemon, request: dict[str, Any]) -> bool:
    """Whether a request succeeded; it is answered in either case, as the protocol says."""
    with daemon.connect() as connection:
        connection.sendall(json.dumps(request).encode())
        if request.get("keep_alive") is True:
            connection.shutdown(socket.SHUT_WR)
        reply = json.loads(read_to_end(connection))
    assert reply["version"] == "1.0"
    if "error" in reply:
        assert reply["code"] in get_args(ErrorCode)
        assert reply["code"] != "internal-error"
        assert reply["error"]
        return False
    return True


def test_requests_like_the_protocols_own_are_answered_and_break_nothing(make_daemon: MakeDaemon):
    daemon = make_daemon(stories.HOST, cpu_pool=stories.GENERAL).start()
    counts = {True: 0, False: 0}
    end = time.monotonic() + CHOSEN.fuzz_seconds

    def answered(request: dict[str, Any]) -> None:
        if time.monotonic() < end:
            counts[check(daemon, request)] += 1

    for number in itertools.takewhile(lambda _: time.monotonic() < end, itertools.count()):
        chosen = hypothesis.settings(
            max_examples=300,
            deadline=None,
            database=None,
            phases=[hypothesis.Phase.generate],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        )
        tried = chosen(hypothesis.given(requests())(answered))
        hypothesis.seed(CHOSEN.seed * 10_000 + number)(tried)()
        assert not_twice(daemon)
    before = witness.look(daemon)
    assert "Traceback" not in daemon.log.read_text()
    daemon.kill()
    daemon.start()
    assert witness.look(daemon) == before
    assert counts[True] > 100
    assert counts[False] > 100
    tally.add(
        "test_requests_like_the_protocols_own_are_answered_and_break_nothing",
        inputs=sum(counts.values()),
        granted_or_listed=counts[True],
        refused=counts[False],
        broken=0,
    )


def not_twice(daemon: Daemon) -> bool:
    """Whether no CPU has two owners."""
    held = [cpu for its in witness.look(daemon).values() for cpu in its.cpus]
    return len(held) == len(set(held))
