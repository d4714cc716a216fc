# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""A process that looks like one of Open vSwitch's: `python stand_in.py NAME THREAD...`.

It names itself and its threads as the kernel shows them, prints `ready`, and then obeys lines on
its standard input: `new THREAD` makes a thread, `busy` and `calm` tell the first thread what to
do; `churn` makes the main thread busy for good, with making threads that end soon. It ends with
its input.
"""

import os
import sys
import threading
import time

_busy = threading.Event()
_never = threading.Event()


def _rename(name: str) -> None:
    with open(f"/proc/self/task/{threading.get_native_id()}/comm", "w") as comm:
        comm.write(name)


def _live(name: str, started: threading.Barrier, first: bool) -> None:
    _rename(name)
    if name.startswith("pmd"):
        # Open vSwitch pins them to a CPU of their own.
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    started.wait()
    while first:
        _busy.wait()
        while _busy.is_set():
            pass
    _never.wait()


def _start(name: str, first: bool) -> None:
    started = threading.Barrier(2)
    threading.Thread(target=_live, args=(name, started, first), daemon=True).start()
    started.wait()


def _end_with_input() -> None:
    sys.stdin.read()
    os._exit(0)


def _churn() -> None:
    """A main thread that works most of the time, and is often in the middle of clone(2)."""
    while True:
        threading.Thread(target=time.sleep, args=(0.1,), daemon=True).start()
        until = time.monotonic() + 0.002
        while time.monotonic() < until:
            pass


def main(name: str, *names: str) -> None:
    for number, thread in enumerate(names):
        _start(thread, number == 0)
    _rename(name)
    print("ready", flush=True)
    for line in sys.stdin:
        verb, _, rest = line.strip().partition(" ")
        match verb:
            case "new":
                _start(rest, first=False)
            case "churn":
                print("done", flush=True)
                threading.Thread(target=_end_with_input, daemon=True).start()
                _churn()
            case "busy":
                _busy.set()
            case _:
                _busy.clear()
        print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
