# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Chores keep no change waiting for more than one of them, and are not done for nobody."""

import asyncio
import socket
import threading

from epa_daemon.chore_queue import ChoreQueue
from epa_daemon.committer import Committer
from epa_daemon.peers import Peer
from epa_daemon.replies import Reply

ROOT = Peer(1, 0, 0)


class Desk:
    """Chores, the first of which waits until it may go on, and commits beside them."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.may_go_on = threading.Event()
        self.committer = Committer()
        self.queue = ChoreQueue(self.committer)
        self.replies: list[Reply | None] = []

    def ask(self, name: str, peer: Peer = ROOT, urgent: bool = False) -> None:
        def answer() -> Reply:
            self.may_go_on.wait(20)
            self.done.append(name)
            return Reply()

        self.queue.submit(answer, peer, self.replies.append, urgent)

    def read(self, peer: Peer = ROOT) -> None:
        self.ask("page", peer)

    def commit(self) -> None:
        self.committer.submit(lambda: self.done.append("commit"), lambda _: None)

    async def until(self, count: int) -> list[str]:
        async with asyncio.timeout(20):
            while len(self.done) < count or self.queue.running:
                await asyncio.sleep(0.001)
        return self.done


def test_a_commit_waits_for_one_chore_at_most():
    async def play() -> list[str]:
        desk = Desk()
        for _ in range(5):
            desk.read()
        desk.commit()
        desk.may_go_on.set()
        return await desk.until(6)

    assert asyncio.run(play()) == ["page", "commit", *["page"] * 4]


def test_an_administrators_chore_comes_before_pages_of_history():
    async def play() -> list[str]:
        desk = Desk()
        for _ in range(3):
            desk.read()
        desk.ask("backup", urgent=True)
        desk.may_go_on.set()
        return await desk.until(4)

    assert asyncio.run(play()) == ["page", "backup", "page", "page"]


def test_nothing_is_done_for_clients_that_have_gone_and_they_keep_no_place():
    async def play() -> tuple[int, list[str], int]:
        desk = Desk()
        desk.read()
        for _ in range(200):
            ours, theirs = socket.socketpair()
            theirs.close()
            desk.read(Peer(1, 5, 5, ours))
        dismissed = desk.replies.count(None)
        ours, half = socket.socketpair()
        half.shutdown(socket.SHUT_WR)
        desk.read(Peer(1, 5, 5, ours))
        desk.may_go_on.set()
        await desk.until(2)
        await asyncio.sleep(0.2)
        return dismissed, desk.done, desk.replies.count(None)

    dismissed, done, replies = asyncio.run(play())
    assert dismissed > 100
    assert (done, replies) == (["page"] * 2, 200)


def test_whoever_closes_the_store_can_see_that_it_is_in_use():
    async def play() -> tuple[bool, bool]:
        desk = Desk()
        desk.read()
        in_use = desk.queue.running
        desk.may_go_on.set()
        await desk.until(1)
        return in_use, desk.queue.running

    assert asyncio.run(play()) == (True, False)
