# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

import gc
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from epa_daemon import (
    event_log,
    history,
    mask_store,
    opening,
    schema,
    state_folder,
    store,
    write_log,
)
from epa_daemon.errors import CannotStart, StoreFailed, StoreRemoved
from epa_daemon.ledger import Ledger, Policy, Pool
from epa_daemon.peers import Peer
from tests.unit.scenes import holding, holding_all

STORES = Path(__file__).parents[1] / "stores"
FULL = holding_all(
    a=holding("2-3", explicit=True, node=0, policy=Policy.NON_PREEMPTIVE),
    b=holding("8", pool=Pool.GENERAL),
).with_pages((1, 2048), "a", 4)


def commit(opened: store.Store, before: Ledger, after: Ledger) -> None:
    opened.commit(
        before,
        after,
        history.events(history.Cause("test", "x", Peer(1, 2, 3), "nova"), before, after),
    )


def filled(folder: Path, content: Ledger = FULL) -> None:
    opened = opening.open_folder(folder)
    commit(opened, Ledger(), content)
    opened.close()


def reopened(folder: Path) -> Ledger:
    opened = opening.open_folder(folder)
    try:
        return opened.load()
    finally:
        opened.close()


def test_what_is_committed_is_loaded(tmp_path: Path):
    filled(tmp_path)
    assert reopened(tmp_path) == FULL


def test_differences_are_written_and_nothing_else_is_touched(tmp_path: Path):
    opened = opening.open_folder(tmp_path)
    commit(opened, Ledger(), FULL)
    after = FULL.with_holding("a", holding("3-4", policy=Policy.LEGACY)).with_holding("b", None)
    after = after.with_pages((1, 2048), "a", 0).with_pages((0, 1048576), "c", 1)
    commit(opened, FULL, after)
    opened.close()
    assert reopened(tmp_path) == after


def test_a_failing_commit_changes_nothing_and_the_next_one_works(tmp_path: Path):
    opened = opening.open_folder(tmp_path)
    commit(opened, Ledger(), FULL)
    bad = FULL.with_pages((0, 2048), "z", -5)
    with pytest.raises(StoreFailed):
        commit(opened, FULL, bad.with_holding("c", holding("9")))
    assert opened.load() == FULL
    commit(opened, FULL, FULL.with_holding("c", holding("9")))
    opened.close()
    assert reopened(tmp_path) == FULL.with_holding("c", holding("9"))


class Removing(list[history.Event]):
    """Events in whose writing the files of the store go."""

    def __init__(self, events: list[history.Event], remove: Callable[[], object]):
        super().__init__(events)
        self._remove = remove

    def __iter__(self):
        self._remove()
        return super().__iter__()


@pytest.mark.parametrize("way", ["removed", "renamed"])
def test_files_that_go_while_a_commit_is_written_leave_what_was_known_before(
    tmp_path: Path, way: str
):
    """And nothing is committed any more, even where they come back."""
    folder, aside = tmp_path / "state", tmp_path / "aside"
    opened = opening.open_folder(folder)
    opened.load()
    commit(opened, Ledger(), FULL)
    after = FULL.with_holding("c", holding("9"))
    events = history.events(history.Cause("test"), FULL, after)
    remove = {"removed": lambda: shutil.rmtree(folder), "renamed": lambda: folder.rename(aside)}
    with pytest.raises(StoreRemoved, match="was removed or replaced"):
        opened.commit(FULL, after, Removing(events, remove[way]))
    if way == "renamed":
        aside.rename(folder)
    with pytest.raises(StoreFailed, match="was removed or replaced"):
        commit(opened, FULL, after)
    assert "was removed or replaced" in opened.problems()[0]
    assert opened.committed == FULL
    opened.back_up(tmp_path / "backup")
    opened.close()
    copy = opening.open_file(tmp_path / "backup", tmp_path / "backup")
    assert copy.load() == FULL
    assert copy.problems() == []
    assert {event.service for event in copy.log.read(10, None, None, None)} == {"a", "b"}
    copy.close()


def test_events_say_who_and_what_and_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(event_log, "KEPT_EVENTS", 10)
    monkeypatch.setattr(event_log, "_TRIM_EVERY", 1)
    opened = opening.open_folder(tmp_path)
    for _ in range(10):
        commit(opened, Ledger(), FULL)
        commit(opened, FULL, Ledger())
    opened.close()
    with sqlite3.connect(tmp_path / state_folder.DATABASE) as connection:
        rows = connection.execute(
            "SELECT action, service, subject, before, after, uid, pid, snap FROM events"
        ).fetchall()
    assert len(rows) == 10
    assert ("test", "a", "cpus isolated", "2-3 non-preemptive", "", 2, 1, "nova") in rows


def test_a_second_process_is_refused_with_the_holder_named(tmp_path: Path):
    code = (
        "import sys; from pathlib import Path; from epa_daemon import opening\n"
        "opened = opening.open_folder(Path(sys.argv[1])); print('open', flush=True)\n"
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(CannotStart, match=rf"another daemon \(pid {other.pid}\)"):
            opening.open_folder(tmp_path)
    assert reopened(tmp_path) == Ledger()


def damage_nothing(path: Path) -> None:
    path.write_bytes(b"")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def other_database(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE x (y)")


def garbage(path: Path) -> None:
    path.write_bytes(b"\x00\xff" * 5000)


def newer_schema(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")


def unknown_policy(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE services SET policy = 'friendly'")


def orphaned_claim(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM services WHERE name = 'a'")


def claimless_service(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM claims WHERE service = 'a'")


def seal_gone(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM seal")


def seal_renamed(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("ALTER TABLE seal RENAME COLUMN sum TO rum")


def another_id(path: Path) -> None:
    """Of which nothing was acknowledged."""
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE seal SET store = 'x' || substr(store, 2)")


def another_cpu(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE claims SET cpu = 9 WHERE cpu = 8")


@pytest.mark.parametrize(
    "damage",
    [
        seal_gone,
        seal_renamed,
        another_id,
        another_cpu,
        damage_nothing,
        truncate,
        other_database,
        garbage,
        newer_schema,
        unknown_policy,
        orphaned_claim,
        claimless_service,
    ],
)
def test_a_store_that_is_not_sound_is_refused_and_left_alone(
    tmp_path: Path, damage: Callable[[Path], None]
):
    filled(tmp_path)
    path = tmp_path / state_folder.DATABASE
    damage(path)
    before = path.read_bytes()
    with pytest.raises(CannotStart):
        reopened(tmp_path)
    assert path.read_bytes() == before


def test_a_log_without_its_store_is_refused(tmp_path: Path):
    opened = opening.open_folder(tmp_path)
    commit(opened, Ledger(), FULL)
    (tmp_path / state_folder.DATABASE).unlink()
    opened.close()
    (tmp_path / f"{state_folder.DATABASE}-wal").touch()
    with pytest.raises(CannotStart, match="is missing although its log"):
        opening.open_folder(tmp_path)


def test_a_copy_is_looked_at_without_touching(tmp_path: Path):
    state, scratch = tmp_path / "state", tmp_path / "scratch"
    scratch.mkdir()
    filled(state)
    before = (state / state_folder.DATABASE).read_bytes()
    copy = opening.open_copy(state, scratch)
    assert copy is not None
    assert copy.load() == FULL
    copy.close()
    assert (state / state_folder.DATABASE).read_bytes() == before
    assert opening.open_copy(tmp_path / "nothing", scratch) is None


def test_a_store_of_the_first_version_keeps_everything_and_gets_what_is_new(tmp_path: Path):
    shutil.copy(STORES / "version-1.db", tmp_path / state_folder.DATABASE)
    opened = opening.open_folder(tmp_path)
    loaded = opened.load()
    assert {name: held.ranges for name, held in loaded.holdings.items()} == {
        "ceph-osd.0": "10-11",
        "helper": "0",
        "nova": "2-4",
    }
    assert loaded.pages_of((0, 2048), "nova") == 2
    assert opened.masks.load() is None
    opened.masks.keep({(7, (8, 9)): frozenset({0, 1})})
    opened.close()
    opened = opening.open_folder(tmp_path)
    assert opened.masks.load() == {(8, 9): {0, 1}}
    assert opened.load() == loaded
    opened.close()


def test_a_migration_that_fails_leaves_the_store_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copy(STORES / "version-1.db", tmp_path / state_folder.DATABASE)
    steps = (*schema.STEPS[:1], "CREATE TABLE found_masks (x); CREATE TABLE events (y);")
    monkeypatch.setattr(schema, "STEPS", steps)
    with pytest.raises(CannotStart, match="already exists"):
        opening.open_folder(tmp_path)
    gc.collect()
    with sqlite3.connect(tmp_path / state_folder.DATABASE) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
        tables = connection.execute("SELECT name FROM sqlite_master").fetchall()
    assert ("found_masks",) not in tables


def test_masks_of_another_boot_are_not_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    opened = opening.open_folder(tmp_path)
    opened.masks.keep({(7, (8, 9)): frozenset({0, 1})})
    monkeypatch.setattr(mask_store, "boot", lambda: "another")
    assert opened.masks.load() is None
    opened.close()


def test_masks_that_are_forgotten_are_not_put_back(tmp_path: Path):
    opened = opening.open_folder(tmp_path)
    opened.masks.keep({})
    assert opened.masks.load() == {}
    opened.masks.forget()
    assert opened.masks.load() is None
    opened.close()


def test_a_store_of_the_second_version_keeps_everything_and_its_claims_are_of_no_snap(
    tmp_path: Path,
):
    shutil.copy(STORES / "version-2.db", tmp_path / state_folder.DATABASE)
    opened = opening.open_folder(tmp_path)
    loaded = opened.load()
    assert {name: (held.ranges, held.policy) for name, held in loaded.holdings.items()} == {
        "ceph-osd.0": ("10-11", Policy.NON_PREEMPTIVE),
        "helper": ("0", Policy.LEGACY),
        "nova": ("2-4", Policy.LEGACY),
        "ovs-dpdk-datapath": ("5", Policy.LEGACY),
    }
    assert loaded.pages_of((0, 2048), "nova") == 2
    assert loaded.made_by == {}
    with sqlite3.connect(STORES / "version-2.db") as connection:
        kept = connection.execute("SELECT count(*) FROM events").fetchone()[0]
        connection.execute("SELECT at FROM events")
    assert kept == 6
    commit(opened, loaded, loaded.with_holding("x", holding("6")).with_maker("x", "snap"))
    opened.close()
    opened = opening.open_folder(tmp_path)
    assert opened.load().made_by == {"x": "snap"}
    assert opened.problems() == []
    opened.close()


def test_makers_are_written_and_forgotten_with_the_claims(tmp_path: Path):
    made = FULL.with_maker("a", "nova").with_maker("b", "ceph")
    filled(tmp_path, made)
    assert reopened(tmp_path) == made
    opened = opening.open_folder(tmp_path)
    after = made.with_holding("b", None).without_idle_makers().with_maker("a", "")
    commit(opened, made, after)
    opened.close()
    assert reopened(tmp_path) == after
    assert after.made_by == {}


def test_a_maker_of_nothing_is_no_sound_ledger(tmp_path: Path):
    filled(tmp_path, FULL.with_maker("nobody", "nova"))
    with pytest.raises(CannotStart, match="snap nova made claims of service nobody"):
        reopened(tmp_path)


def test_problems_tells_of_a_store_that_says_something_else_than_the_ledger(tmp_path: Path):
    opened = opening.open_folder(tmp_path)
    commit(opened, Ledger(), FULL)
    assert opened.problems() == []
    connection = opened._connection  # pyright: ignore[reportPrivateUsage]
    connection.execute("DELETE FROM claims WHERE service = 'b'")
    (problem,) = opened.problems()
    assert "does not say what the daemon goes by" in problem
    opened.close()


@pytest.mark.parametrize(
    ("code", "may"),
    [
        (sqlite3.SQLITE_IOERR_FSYNC, True),
        (sqlite3.SQLITE_NOMEM, True),
        (sqlite3.SQLITE_CORRUPT, True),
        (None, True),
        (sqlite3.SQLITE_FULL, False),
        (sqlite3.SQLITE_IOERR_WRITE, False),
        (sqlite3.SQLITE_READONLY, False),
        (sqlite3.SQLITE_CONSTRAINT_UNIQUE, False),
    ],
)
def test_what_a_failed_commit_may_have_left_in_the_log(code: int | None, may: bool):
    failure = sqlite3.OperationalError()
    if code is not None:
        failure.sqlite_errorcode = code
    assert write_log.may_hold(failure) == may


def test_running_out_of_memory_may_have_left_a_commit():
    assert write_log.may_hold(MemoryError())
    assert not write_log.may_hold(ValueError())


def test_a_store_that_is_missing_although_something_was_acknowledged_is_not_made_anew(
    tmp_path: Path,
):
    filled(tmp_path)
    (tmp_path / state_folder.DATABASE).unlink()
    (tmp_path / "scratch").mkdir()
    for _ in range(2):
        with pytest.raises(CannotStart, match=r"missing although .* move the whole state folder"):
            opening.open_folder(tmp_path)
        with pytest.raises(CannotStart, match=r"missing although .* move the whole state folder"):
            opening.open_copy(tmp_path, tmp_path / "scratch")
    assert not (tmp_path / state_folder.DATABASE).exists()


@pytest.mark.parametrize("version", ["version-1.db", "version-2.db"])
def test_what_was_acknowledged_of_another_store_is_no_evidence(tmp_path: Path, version: str):
    """An older daemon has restored a store of its own, and knows no such file."""
    filled(tmp_path)
    shutil.copy(STORES / version, tmp_path / state_folder.DATABASE)
    assert "nova" in reopened(tmp_path).holdings
    commit_one(tmp_path)
    assert "y" in reopened(tmp_path).holdings


def commit_one(folder: Path) -> None:
    opened = opening.open_folder(folder)
    loaded = opened.load()
    commit(opened, loaded, loaded.with_holding("y", holding("7")))
    opened.close()


def test_an_older_copy_of_the_same_store_is_evidence(tmp_path: Path):
    filled(tmp_path)
    older = (tmp_path / state_folder.DATABASE).read_bytes()
    commit_one(tmp_path)
    (tmp_path / state_folder.DATABASE).write_bytes(older)
    with pytest.raises(CannotStart, match="older than what was acknowledged"):
        opening.open_folder(tmp_path)


def test_what_was_acknowledged_and_cannot_be_read_says_what_to_do(tmp_path: Path):
    filled(tmp_path)
    (tmp_path / "acknowledged").write_text("nonsense")
    with pytest.raises(CannotStart, match=r"cannot be read: .*; restore a backup .* remove it"):
        opening.open_folder(tmp_path)


def test_a_copy_beside_a_daemon_that_starts_and_commits_is_not_called_older(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    state, scratch = tmp_path / "state", tmp_path / "scratch"
    scratch.mkdir()
    filled(state)
    copied = state_folder.copy

    def meanwhile(folder: Path, scratch: Path) -> Path | None:
        copy = copied(folder, scratch)
        commit_one(state)
        return copy

    monkeypatch.setattr(state_folder, "copy", meanwhile)
    copy = opening.open_copy(state, scratch)
    assert copy is not None
    assert copy.load() == FULL
    copy.close()
