# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

import asyncio
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from epa_daemon import switch
from epa_daemon.switch import Switch

Act = Callable[[Path], None]


def make_folder(path: Path) -> None:
    path.parent.mkdir(parents=True)


def fill(path: Path) -> None:
    path.write_text("on")


def empty(path: Path) -> None:
    path.write_text("")


def replace(path: Path) -> None:
    path.with_name("new").write_text("1")
    path.with_name("new").replace(path)


def delete(path: Path) -> None:
    path.unlink()


def delete_folder(path: Path) -> None:
    for name in path.parent.iterdir():
        name.unlink()
    path.parent.rmdir()


def move_folder_away(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))


def move_folder_back(path: Path) -> None:
    path.parent.with_name("elsewhere").rename(path.parent)


# What happens to the file, and whether it is on afterwards.
STORY: list[tuple[Act, bool]] = [
    (make_folder, False),
    (fill, True),
    (empty, False),
    (fill, True),
    (delete, False),
    (fill, True),
    (replace, True),
    (empty, False),
    (replace, True),
    (delete_folder, False),
    (make_folder, False),
    (replace, True),
    (move_folder_away, False),
    (move_folder_back, True),
]


async def follows(path: Path, story: list[tuple[Act, bool]], seconds: float) -> str:
    followed = Switch(path, lambda: None)
    followed.start()
    try:
        for number, (act, expected) in enumerate(story):
            act(path)
            await asyncio.sleep(0.02)
            for _ in range(int(seconds * 100)):
                if followed.on == expected:
                    break
                await asyncio.sleep(0.01)
            assert followed.on == expected, (number, act.__name__)
        return followed.followed
    finally:
        followed.stop()


def test_every_change_is_noticed_at_once(tmp_path: Path):
    assert asyncio.run(follows(tmp_path / "etc/openvswitch/switch", STORY, 2)) == "inotify"


def test_without_inotify_it_is_polled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def denied() -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(switch, "Inotify", denied)
    monkeypatch.setattr(switch, "_POLL_SECONDS", 0.02)
    monkeypatch.setattr(switch, "_SLOW_POLL_SECONDS", 0.04)
    assert asyncio.run(follows(tmp_path / "etc/openvswitch/switch", STORY, 2)) == "poll"


def test_writing_to_a_file_that_is_on_does_not_switch_off_in_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # However slow this machine is: it is written again before that is over.
    monkeypatch.setattr(switch, "_DOUBT_SECONDS", 60)
    path = tmp_path / "switch"
    told: list[bool] = []

    async def write_again() -> None:
        followed = Switch(path, lambda: told.append(followed.on))
        followed.start()
        for _ in range(3):
            empty(path)
            await asyncio.sleep(0.1)
            fill(path)
            await asyncio.sleep(0.1)
        followed.stop()

    fill(path)
    asyncio.run(write_again())
    assert told == [True]


@pytest.mark.parametrize(
    ("number", "name", "advised"),
    [(errno.EACCES, "epa", True), (errno.EACCES, None, False), (errno.EIO, "epa", False)],
)
def test_a_plug_is_advised_only_in_a_snap_that_is_denied(
    monkeypatch: pytest.MonkeyPatch, number: int, name: str | None, advised: bool
):
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.delenv("SNAP_NAME", raising=False)
    if name:
        monkeypatch.setenv("SNAP_NAME", name)
    monkeypatch.setattr(os, "open", fail)
    on, problem = switch.read(Path("/switch"))
    assert not on
    assert problem
    assert ("snap connect" in problem) is advised


def make_a_folder(path: Path) -> None:
    path.mkdir()


def make_a_link(path: Path) -> None:
    path.with_name("target").write_text("on")
    path.symlink_to("target")


def make_a_pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("make", "said"),
    [(make_a_folder, "not a regular file"), (make_a_link, "a link"), (make_a_pipe, "not a reg")],
)
def test_what_is_no_file_is_off_and_said(tmp_path: Path, make: Act, said: str):
    path = tmp_path / "switch"
    make(path)
    on, problem = switch.read(path)
    assert not on
    assert problem
    assert said in problem


def test_a_missing_file_or_folder_is_simply_off(tmp_path: Path):
    assert switch.read(tmp_path / "switch") == (False, None)
    assert switch.read(tmp_path / "folder/switch") == (False, None)
    (tmp_path / "file").touch()
    assert switch.read(tmp_path / "file/switch") == (False, None)
