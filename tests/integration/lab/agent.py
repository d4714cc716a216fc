# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Runs in the guest: does what the host asks over a virtio-serial port, in lines of JSON.

It is one file of the standard library, and never needs installing: the initrd lays it into the
guest's /run. Each request has an id and gets one answer; requests run at the same time.
"""

import base64
import fcntl
import json
import os
import pty
import selectors
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path
from typing import Any

PORT = "lab.agent"
# A background process may keep a command's stdout open: give its own last words this long.
GRACE = 0.2
KILLED_FOR_TIME = -1000

Message = dict[str, Any]


class Port:
    """The line to the host, shared by all threads."""

    def __init__(self) -> None:
        self._fd = os.open(_device(), os.O_RDWR | os.O_CLOEXEC)
        self._lock = threading.Lock()
        self._rest = b""

    def send(self, message: Message) -> None:
        data = memoryview(json.dumps(message).encode() + b"\n")
        with self._lock:
            while data:
                data = data[os.write(self._fd, data) :]

    def receive(self) -> Message:
        while b"\n" not in self._rest:
            more = os.read(self._fd, 1 << 16)
            if not more:  # the host is not connected
                time.sleep(0.01)
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        return json.loads(line)


def _device() -> str:
    """The port's device file; there is no udev in the small guest to give it a name."""
    while True:
        for entry in Path("/sys/class/virtio-ports").glob("*/name"):
            if entry.read_text().strip() == PORT:
                return f"/dev/{entry.parent.name}"
        time.sleep(0.05)


class Command:
    """One process group and its three pipes (files would be closed for a confined snap)."""

    def __init__(self, argv: list[str], stdin: bytes, seconds: float) -> None:
        self._stdin = memoryview(stdin)
        self._deadline = time.monotonic() + seconds
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            cwd="/root" if os.path.isdir("/root") else "/",
        )
        self._pidfd = os.pidfd_open(self._process.pid)
        self._output: dict[int, bytearray] = {}
        self._selector = selectors.DefaultSelector()

    def run(self) -> Message:
        self._watch()
        code = self._collect()
        self._selector.close()
        os.close(self._pidfd)
        stdout, stderr = (
            base64.b64encode(self._output[_number(pipe)]).decode()
            for pipe in (self._process.stdout, self._process.stderr)
        )
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            _close(pipe)
        return {"returncode": code, "stdout": stdout, "stderr": stderr}

    def _watch(self) -> None:
        for pipe in (self._process.stdout, self._process.stderr):
            self._output[_number(pipe)] = bytearray()
            self._selector.register(_number(pipe), selectors.EVENT_READ)
        self._selector.register(self._pidfd, selectors.EVENT_READ)
        os.set_blocking(_number(self._process.stdin), False)
        self._selector.register(_number(self._process.stdin), selectors.EVENT_WRITE)

    def _collect(self) -> int:
        """Serve the pipes until the process has ended and says no more."""
        code: int | None = None
        while True:
            left = GRACE if code is not None else self._deadline - time.monotonic()
            events = self._selector.select(max(left, 0)) if left > 0 else []
            if not events:
                return self._kill() if code is None else code
            for key, _ in events:
                if key.fd == self._pidfd:
                    code = self._process.wait()
                    self._selector.unregister(self._pidfd)
                elif key.events & selectors.EVENT_WRITE:
                    self._feed()
                else:
                    self._drain(key.fd)
            if code is not None and not any(fd in self._output for fd in self._selector.get_map()):
                return code

    def _feed(self) -> None:
        pipe = _number(self._process.stdin)
        try:
            self._stdin = self._stdin[os.write(pipe, self._stdin) :]
        except BrokenPipeError:
            self._stdin = self._stdin[:0]
        if not self._stdin:
            self._selector.unregister(pipe)
            _close(self._process.stdin)

    def _drain(self, pipe: int) -> None:
        data = os.read(pipe, 1 << 16)
        self._output[pipe] += data
        if not data:
            self._selector.unregister(pipe)

    def _kill(self) -> int:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        return KILLED_FOR_TIME


def _number(pipe: Any) -> int:
    return pipe.fileno()


def _close(pipe: Any) -> None:
    if not pipe.closed:
        pipe.close()


class Terminals:
    """Interactive programs, each on a pty of its own."""

    def __init__(self, port: Port) -> None:
        self._port = port
        self._open: dict[int, int] = {}
        self._opened = threading.Condition()

    def run(self, request: Message) -> Message:
        """Answers when the program ends; its output goes out meanwhile, under the same id."""
        number = request["id"]
        pid, master = pty.fork()
        if pid == 0:
            os.chdir("/root")
            os.execvp(request["argv"][0], request["argv"])
        with self._opened:
            self._open[number] = master
            self._opened.notify_all()
        self.resize(number, request["rows"], request["columns"])
        while data := _read_terminal(master):
            self._port.send({"id": number, "output": base64.b64encode(data).decode()})
        del self._open[number]
        os.close(master)
        return {"returncode": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}

    def type(self, number: int, data: bytes) -> None:
        os.write(self._master(number), data)

    def resize(self, number: int, rows: int, columns: int) -> None:
        size = struct.pack("4H", rows, columns, 0, 0)
        fcntl.ioctl(self._master(number), termios.TIOCSWINSZ, size)

    def _master(self, number: int) -> int:
        # Each request has a thread: what is typed may be here before the program is.
        with self._opened:
            self._opened.wait_for(lambda: number in self._open, 5)
            return self._open[number]


def _read_terminal(master: int) -> bytes:
    try:
        return os.read(master, 1 << 16)
    except OSError:  # EIO: the last process has closed it
        return b""


class Agent:
    """Gives each request a thread, and each answer its request's id."""

    def __init__(self) -> None:
        self._port = Port()
        self._terminals = Terminals(self._port)

    def serve(self) -> None:
        while True:
            request = self._port.receive()
            threading.Thread(target=self._answer, args=(request,), daemon=True).start()

    def _answer(self, request: Message) -> None:
        try:
            answer = self._do(request)
        except Exception as error:  # the host must get an answer whatever happens
            answer = {"error": f"{type(error).__name__}: {error}"}
        self._port.send({"id": request["id"], **answer})

    def _do(self, request: Message) -> Message:
        match request["op"]:
            case "ping":
                return {}
            case "run":
                stdin = base64.b64decode(request["stdin"])
                return Command(request["argv"], stdin, request["seconds"]).run()
            case "write":
                return _write(request)
            case "read":
                return _read(request)
            case "clock":
                time.clock_settime(time.CLOCK_REALTIME, request["time"])
                return {}
            case "terminal":
                return self._terminals.run(request)
            case "type":
                self._terminals.type(request["to"], base64.b64decode(request["data"]))
                return {}
            case "resize":
                self._terminals.resize(request["to"], request["rows"], request["columns"])
                return {}
            case other:
                return {"error": f"no such operation: {other}"}


def _write(request: Message) -> Message:
    path = Path(request["path"])
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab" if request["append"] else "wb") as file:
        file.write(base64.b64decode(request["data"]))
    path.chmod(request["mode"])
    return {}


def _read(request: Message) -> Message:
    with open(request["path"], "rb") as file:
        # Not seek: the files of proc and sysfs are read from their beginning, in one go.
        if request["offset"]:
            file.seek(request["offset"])
        data = file.read(request["size"])
    return {"data": base64.b64encode(data).decode()}


if __name__ == "__main__":
    os.environ["TERM"] = os.environ.get("TERM", "xterm")
    Agent().serve()
    sys.exit(0)
