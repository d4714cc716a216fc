# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import host_trees
from tests.functional.daemons import Daemon, copy_of


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A temporary folder whose sockets keep within the length of a Unix socket's path."""
    folder = Path(tempfile.mkdtemp(prefix="epa-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def make_daemon(short_folder: Path) -> Iterator[Callable[..., Daemon]]:
    """Makes daemons on host trees of their own, not started; ends them with the test."""
    made: list[Daemon] = []
    numbers = itertools.count()

    def make(tree: Path | host_trees.HostTree = host_trees.TWO_SOCKETS, **options: Any) -> Daemon:
        folder = short_folder / str(next(numbers))
        folder.mkdir()
        if isinstance(tree, host_trees.HostTree):
            root = tree.write(folder / "root")
        else:
            root = copy_of(tree, folder / "root")
        made.append(Daemon(folder, root, **options))
        return made[-1]

    yield make
    for daemon in made:
        daemon.kill()


@pytest.fixture
def daemon(make_daemon: Callable[..., Daemon]) -> Daemon:
    """A running daemon on the recorded host: CPUs 2-7 and 10-15 isolated, 0-1 and 8-9 general."""
    return make_daemon(cpu_pool="0-1,8-9").start()
