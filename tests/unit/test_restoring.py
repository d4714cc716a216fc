# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""A restore that dies at any step, and what counts as a contradiction."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from epa_daemon import history, opening, restoring, state_folder, store
from epa_daemon.errors import CannotStart, NotDone
from epa_daemon.history import Cause
from epa_daemon.ledger import Ledger, Policy, Pool
from tests.unit.scenes import holding, holding_all

OLD = holding_all(a=holding("2-3"), b=holding("8", pool=Pool.GENERAL)).with_maker("a", "nova")
NEW = holding_all(a=holding("2-3"), c=holding("4-5")).with_pages((0, 2048), "a", 4)
DURABLE = ("replace", "rename", "unlink", "link", "fsync")


def commit(opened: store.Store, before: Ledger, after: Ledger) -> None:
    opened.commit(before, after, history.events(Cause("test"), before, after))


def reopened(folder: Path) -> Ledger:
    opened = opening.open_folder(folder)
    try:
        return opened.load()
    finally:
        opened.close()


@pytest.fixture
def backup(tmp_path: Path) -> str:
    """Holds OLD."""
    opened = opening.open_folder(tmp_path / "first")
    commit(opened, Ledger(), OLD)
    opened.back_up(tmp_path / "backup")
    opened.close()
    return str(tmp_path / "backup")


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """The folder of a daemon that was killed while it held NEW: most of it is in the log."""
    opened = opening.open_folder(tmp_path / "live")
    commit(opened, Ledger(), NEW)
    shutil.copytree(tmp_path / "live", tmp_path / "killed")
    opened.close()
    assert (tmp_path / "killed/ledger.db-wal").stat().st_size
    return tmp_path / "killed"


def dying_at(step: int, work: Callable[[], object]) -> bool:
    """Do something in another process that is killed at a step; whether it got that far."""
    child = os.fork()
    if child == 0:
        left = [step]

        def deadly(call: Callable[..., Any]) -> Callable[..., Any]:
            def dying(*arguments: Any, **named: Any) -> Any:
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*arguments, **named)

            return dying

        for name in DURABLE:
            setattr(os, name, deadly(getattr(os, name)))
        work()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGKILL)
    return os.WIFSIGNALED(status)


def test_a_restore_that_dies_anywhere_leaves_the_old_store_or_none_that_opens(
    killed: Path, backup: str, tmp_path: Path
):
    """And run again, which needs the operator's word again, all of the backup."""
    outcomes: list[str] = []
    for step in range(1, 100):
        state = Path(shutil.copytree(killed, tmp_path / f"state{step}"))
        if not dying_at(step, lambda state=state: restoring.restore(state, backup, True)):
            break
        try:
            found = reopened(state)
        except CannotStart as error:
            outcomes.append("none")
            assert "a restore into" in str(error)
            with pytest.raises(NotDone, match="'c' holds CPUs 4-5 now; 'a' has 4 hugepages"):
                restoring.restore(state, backup, discard_claims=False)
            done = restoring.restore(state, backup, discard_claims=True)
            assert done.kept
            os.replace(done.kept, state / state_folder.DATABASE)
            log = done.kept.with_name(f"{done.kept.name}-wal")
            os.replace(log, state / f"{state_folder.DATABASE}-wal")
            assert reopened(state) == NEW, "what was kept is all there"
        else:
            outcomes.append("new" if found == NEW else "old")
            assert found in (NEW, OLD)
            kept = list(state.glob(f"{state_folder.DATABASE}.replaced-*"))
            assert found == OLD or kept == [], "a second name of the live store"
    else:
        pytest.fail("the restore never came to its end")
    assert reopened(state) == OLD
    first = outcomes.index("none")
    assert set(outcomes[:first]) == {"new"}
    assert "new" not in outcomes[first:]


def test_a_restore_into_nothing_that_died_is_run_again_without_ado(backup: str, tmp_path: Path):
    for step in range(1, 100):
        state = tmp_path / f"state{step}"
        if not dying_at(step, lambda state=state: restoring.restore(state, backup, False)):
            break
        restoring.restore(state, backup, discard_claims=False)
        assert reopened(state) == OLD
    else:
        pytest.fail("the restore never came to its end")


def test_a_log_that_an_earlier_attempt_left_is_not_taken_for_this_ones(killed: Path, backup: str):
    shutil.copy(killed / "ledger.db-wal", killed / "ledger.db.restored-wal")
    restoring.restore(killed, backup, discard_claims=True)
    assert reopened(killed) == OLD


@pytest.mark.parametrize(
    ("present", "said"),
    [
        (OLD, []),
        (OLD.with_maker("a", "x"), ["the claims of 'a' are those of snap x now"]),
        (OLD.with_maker("a", ""), []),
        (Ledger(), []),
        (holding_all(a=holding("2")), []),
        (holding_all(a=holding("2-4")), ["'a' holds CPUs 4 now"]),
        (holding_all(x=holding("3")), ["'x' holds CPUs 3 now"]),
        (holding_all(b=holding("8")), ["'b' holds its CPUs in pool isolated now"]),
        (
            holding_all(a=holding("2-3", policy=Policy.NON_PREEMPTIVE)),
            ["the claims of 'a' are protected now"],
        ),
        (holding_all(b=holding("8", pool=Pool.GENERAL)), []),
        (Ledger().with_pages((1, 4), "a", 2), ["'a' has 2 hugepages of 4 kB on node 1 now"]),
    ],
)
def test_what_is_claimed_now_and_not_in_the_backup_contradicts_it(
    present: Ledger, said: list[str]
):
    assert restoring.contradictions(present, OLD) == said


def test_a_cpu_that_the_backup_gives_to_somebody_else_too_contradicts_it():
    contested = holding_all(a=holding("2-3"), b=holding("3-4"))
    released = contested.with_holding("b", None)
    said = ["'a' holds CPUs 3 now, which the backup gives to another too"]
    assert restoring.contradictions(released, contested) == said
    assert restoring.contradictions(contested, contested) == []


def test_a_backup_older_than_what_was_acknowledged_of_a_missing_store_needs_the_word(
    backup: str, tmp_path: Path
):
    state = tmp_path / "first"
    opened = opening.open_folder(state)
    commit(opened, OLD, OLD.with_holding("z", holding("6")))
    opened.back_up(tmp_path / "newest")
    opened.close()
    (state / state_folder.DATABASE).unlink()
    with pytest.raises(NotDone, match="is missing although"):
        restoring.restore(state, backup, discard_claims=False)
    assert (state / "acknowledged").exists()
    newest = Path(shutil.copytree(state, tmp_path / "other"))
    restoring.restore(newest, str(tmp_path / "newest"), discard_claims=False)
    assert "z" in reopened(newest).holdings
    assert restoring.restore(state, backup, discard_claims=True).unknown
    assert reopened(state) == OLD


def test_what_open_vswitchs_threads_had_in_this_boot_outlives_a_restore(
    backup: str, tmp_path: Path
):
    state = tmp_path / "first"
    opened = opening.open_folder(state)
    opened.masks.keep({(7, (8, 9)): frozenset({0, 1})})
    opened.close()
    restoring.restore(state, backup, discard_claims=False)
    opened = opening.open_folder(state)
    assert opened.masks.load() == {(8, 9): {0, 1}}
    opened.close()
