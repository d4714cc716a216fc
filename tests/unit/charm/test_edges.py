# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The edges: what snapd says on its socket, what its command prints, and the tracing."""

import http.server
import json
import pathlib
import socketserver
import subprocess
import threading
import urllib.error
from collections.abc import Iterator
from typing import Any

import ops
import pytest
from charmlibs import snap as snaplib
from ops import testing

import changes
import charm
import errors
import snapd
from tests.unit.charm.machine import Machine

ANSWERS: dict[str, Any] = {
    "/v2/apps?names=x": {"type": "sync", "result": [1]},
    "/v2/apps?names=y": {"type": "error", "result": {"message": "no y", "kind": "snap-not-found"}},
    "/v2/snaps/busy": {
        "type": "error",
        "result": {"message": 'snap "busy" has changes', "kind": "snap-change-conflict"},
    },
    "/v2/snaps/done": {"type": "async", "change": "1"},
    "/v2/changes/1": {"type": "sync", "result": {"status": "Done", "summary": "Refresh"}},
    "/v2/snaps/undone": {"type": "async", "change": "2"},
    "/v2/changes/2": {"type": "sync", "result": {"status": "Error", "err": "cannot: boom"}},
    "/v2/snaps/endless": {"type": "async", "change": "3"},
    "/v2/changes/3": {"type": "sync", "result": {"status": "Doing", "summary": "Refresh"}},
}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps(ANSWERS[self.path]).encode() if self.path in ANSWERS else b"nonsense"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert content == {"action": "refresh"}
        assert self.headers["Content-Type"] == "application/json"
        self.do_GET()

    def address_string(self) -> str:
        return "local"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - so named there
        pass


@pytest.fixture
def socket_path(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    path = str(tmp_path / "s")
    monkeypatch.setattr(snapd, "SOCKET", path)
    with socketserver.UnixStreamServer(path, Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield path
        server.shutdown()


def test_a_read_gives_the_result(socket_path: str):
    assert snapd.get("/v2/apps", names="x") == [1]


def test_a_refusal_of_snapd_is_an_error_with_its_sentence(socket_path: str):
    with pytest.raises(snaplib.APIError, match="no y"):
        snapd.get("/v2/apps", names="y")


def test_nonsense_from_snapd_is_a_connection_that_fails(socket_path: str):
    with pytest.raises(snaplib.ConnectionError):
        snapd.get("/v2/apps", names="z")


def test_a_change_is_waited_for(socket_path: str):
    snapd.change("POST", "/v2/snaps/done", {"action": "refresh"}, 5)


def test_a_change_that_snapd_undoes_is_an_error_with_its_sentence(socket_path: str):
    with pytest.raises(snaplib.ChangeError, match="cannot: boom"):
        snapd.change("POST", "/v2/snaps/undone", {"action": "refresh"}, 5)


def test_a_change_that_does_not_end_is_not_waited_for_for_ever(socket_path: str):
    with pytest.raises(snapd.TooSlow, match="Refresh takes more than 0 s"):
        snapd.change("POST", "/v2/snaps/endless", {"action": "refresh"}, 0)


def test_a_change_that_is_not_begun_has_snapds_word_for_it(socket_path: str):
    with pytest.raises(snaplib.APIError) as caught:
        snapd.change("POST", "/v2/snaps/busy", {"action": "refresh"}, 5)
    assert changes.kind_of(caught.value) == "snap-change-conflict"


def test_a_missing_socket_is_told_apart(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(snapd, "SOCKET", str(tmp_path / "none"))
    with pytest.raises(snaplib.SocketNotFoundError):
        snapd.get("/v2/apps")


def completed(code: int, out: str = "", err: str = "") -> Any:
    def run(*_: Any, **__: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], code, out, err)

    return run


def test_a_command_gives_what_it_printed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(subprocess, "run", completed(0, "text"))
    assert snapd.run("info", "x", seconds=1) == "text"


def test_a_command_that_fails_gives_its_sentence(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(subprocess, "run", completed(1, "out", "error: no such thing\n"))
    with pytest.raises(snapd.CommandFailed, match=r"^no such thing$") as caught:
        snapd.run("info", "x", seconds=1)
    assert caught.value.stdout == "out"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (subprocess.TimeoutExpired("snap", 1), "snap info takes more than 1 s"),
        (FileNotFoundError(2, "none"), "cannot run /usr/bin/snap"),
    ],
)
def test_a_command_that_hangs_or_is_missing_is_a_failure(
    error: Exception, text: str, monkeypatch: pytest.MonkeyPatch
):
    def run(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(snapd.CommandFailed, match=text):
        snapd.run("info", "x", seconds=1)


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        ("simple", "simple"),
        ("", "no reason given"),
        ("cannot perform the following tasks:\n- Fetch (boom)", "Fetch (boom)"),
        (
            'cannot perform the following tasks:\n- Run configure hook of "x" snap '
            '(run hook "configure": Invalid cpu-pool configuration: no (such) CPU)',
            "Invalid cpu-pool configuration: no (such) CPU",
        ),
        ("cannot perform the following tasks:\n- Run hook (run:\n-----\na\nlast\n-----)", "last"),
    ],
)
def test_the_sentence_that_matters_is_found(message: str, sentence: str):
    assert changes.reason(message) == sentence


def test_the_charm_traces_when_it_is_asked_to(machine: Machine):
    context = testing.Context(charm.EpaOrchestratorCharm)
    with context(context.on.stop(), testing.State()) as manager:
        assert isinstance(manager.charm.tracing, ops.tracing.Tracing)


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_socket_on_which_nobody_listens_needs_somebody_to_start_snapd(wrapped: bool):
    refused = ConnectionRefusedError(111, "Connection refused")
    error = snaplib.ConnectionError("refused")
    # As charmlibs-snap has it from urllib, and as our own reads have it.
    error.__cause__ = urllib.error.URLError(refused) if wrapped else refused
    with pytest.raises(errors.NeedsOperator, match="start it: systemctl start"):
        _told(error)


def _told(error: Exception) -> None:
    with changes.told("cannot ask snapd"):
        raise error
