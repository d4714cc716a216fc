# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The order of looks and of putting back, with a keeper that takes its time."""

import asyncio
import time
from pathlib import Path
from typing import cast

import pytest

from epa_daemon import ovs
from epa_daemon.committer import Committer
from epa_daemon.host import HostReader
from epa_daemon.keeper import Keeper
from epa_daemon.observer import Observer
from epa_daemon.ovs import Ovs
from epa_daemon.pools import Rules


class SlowKeeper:
    def __init__(self, refusals: int = 0):
        self.done: list[str] = []
        self.active = True
        self._refusals = refusals

    def committed(self, owned: frozenset[int]) -> None: ...

    def look(self, _cpus: object) -> None:
        time.sleep(0.1)
        self.done.append("look")

    def restore(self) -> None:
        time.sleep(0.2)
        self.done.append("restore")
        self.active = self._refusals > 0
        self._refusals -= 1


def made(keeper: SlowKeeper, folder: Path, content: str) -> Ovs:
    (folder / "switch").write_text(content)
    observer = Observer(HostReader(folder), Rules())
    return Ovs(cast("Keeper", keeper), Committer(), observer, folder / "switch")


def test_a_look_that_is_under_way_at_the_end_is_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ovs, "_PACE_SECONDS", 0.01)
    keeper = SlowKeeper()

    async def stop_in_a_look() -> None:
        kept = made(keeper, tmp_path, "1")
        kept.start()
        await asyncio.sleep(0.02)
        await kept.stop(5)
        await asyncio.sleep(0.3)

    asyncio.run(stop_in_a_look())
    assert keeper.done == ["look", "restore"]


def test_what_could_not_be_put_back_is_tried_until_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ovs, "_RESTORE_SECONDS", 0.01)
    keeper = SlowKeeper(refusals=2)

    async def wait() -> None:
        kept = made(keeper, tmp_path, "")
        kept.start()
        for _ in range(100):
            if not keeper.active:
                break
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.3)
        assert keeper.done == ["restore"] * 3
        await kept.stop(5)

    asyncio.run(wait())
