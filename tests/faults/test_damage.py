# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Files of the store that are not what the daemon wrote: noticed, and never served as truth."""

import contextlib
import os
import random
import shutil
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from epa_daemon import acknowledged, opening, schema, state_folder
from epa_daemon.errors import CannotStart
from epa_daemon.ledger import Ledger
from tests.faults import stories, tally, witness
from tests.faults.budget import CHOSEN
from tests.faults.load import Crowd
from tests.faults.stories import Held
from tests.faults.witness import Witness
from tests.functional.daemons import Daemon, MakeDaemon

PAGES = {"service_name": "z", "node_id": 0, "size_kb": 2048, "hugepages_requested": 1}
LOG = f"{state_folder.DATABASE}-wal"


def flip(path: Path, chance: random.Random) -> int:
    data = bytearray(path.read_bytes())
    at = chance.randrange(len(data))
    data[at] ^= 1 << chance.randrange(8)
    path.write_bytes(data)
    return at


@dataclass(frozen=True)
class Kept:
    """A daemon's state folder as it was, to be damaged again and again."""

    daemon: Daemon
    sound: Path
    name: str
    truth: dict[str, Held]

    def restore(self) -> Path:
        shutil.rmtree(self.daemon.state)
        shutil.copytree(self.sound, self.daemon.state)
        return self.daemon.state


def fill(daemon: Daemon) -> dict[str, Held]:
    told = Witness()
    for number in range(40):
        told.ask(daemon, "allocate_cores", service_name=f"s{number % 9}", num_of_cores=number % 5)
        about = {"service_name": f"s{number % 7}", "node_id": number % 2, "size_kb": 2048}
        told.ask(daemon, "allocate_hugepages", hugepages_requested=1 + number % 5, **about)
    seen = witness.look(daemon)
    assert stories.lies(told.stories, seen) == []
    return seen


@pytest.fixture(params=[state_folder.DATABASE, LOG])
def kept(request: pytest.FixtureRequest, make_daemon: MakeDaemon) -> Kept:
    """What a daemon left that was killed, with all it wrote in the database, or in the log."""
    name: str = request.param
    daemon = make_daemon(stories.HOST, cpu_pool=stories.GENERAL).start()
    truth = fill(daemon)
    if name == state_folder.DATABASE:
        daemon.restart()
    daemon.kill()
    sound = daemon.folder / "sound"
    shutil.copytree(daemon.state, sound)
    return Kept(daemon, sound, name, truth)


def test_a_flipped_bit_is_refused_or_harmless(kept: Kept):
    """An opened store is refused, or holds exactly what it should."""
    truth, chance, refused = opened(kept.restore()), random.Random(CHOSEN.seed), 0
    assert truth is not None
    for _ in range(CHOSEN.flips):
        folder = kept.restore()
        at = flip(folder / kept.name, chance)
        found = opened(folder)
        assert found in (None, truth), f"bit of byte {at}"
        refused += found is None
    assert refused > 0
    tally.add(
        "test_a_flipped_bit_is_refused_or_harmless",
        flips=CHOSEN.flips,
        refused=refused,
        served_wrongly=0,
    )


def test_a_flipped_bit_in_what_was_acknowledged_hides_no_loss(make_daemon: MakeDaemon):
    """Beside a store that has lost its last changes, it is the only one that knows."""
    daemon = make_daemon(stories.HOST, cpu_pool=stories.GENERAL).start()
    truth = fill(daemon)
    daemon.kill()
    sound = daemon.folder / "sound"
    shutil.copytree(daemon.state, sound)
    (sound / LOG).unlink()
    kept = Kept(daemon, sound, acknowledged.NAME, truth)
    flips = 8 * (sound / acknowledged.NAME).stat().st_size
    for bit in range(flips):
        path = kept.restore() / acknowledged.NAME
        data = bytearray(path.read_bytes())
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        assert opened(daemon.state) is None, f"bit {bit}: {bytes(data)}"
    tally.add(
        "test_a_flipped_bit_is_refused_or_harmless", flips=flips, refused=flips, served_wrongly=0
    )


def opened(folder: Path) -> Ledger | None:
    try:
        found = opening.open_folder(folder)
    except CannotStart:
        return None
    try:
        return found.load()
    except CannotStart:
        return None
    finally:
        found.close()


def test_a_daemon_on_a_damaged_store_stays_down_or_tells_the_truth(kept: Kept):
    chance = random.Random(CHOSEN.seed)
    for _ in range(5):
        flip(kept.restore() / kept.name, chance)
        assert look_if_it_starts(kept.daemon) in (None, kept.truth)


def look_if_it_starts(daemon: Daemon) -> dict[str, Held] | None:
    process = daemon.launch()
    while process.poll() is None and not daemon.answers():
        time.sleep(0.02)
    if process.poll() is not None:
        assert process.returncode == 78, daemon.log.read_text()
        return None
    seen = witness.look(daemon)
    daemon.kill()
    return seen


def test_a_log_that_is_missing_is_noticed(make_daemon: MakeDaemon):
    daemon = make_daemon(stories.HOST, cpu_pool=stories.GENERAL).start()
    fill(daemon)
    daemon.kill()
    (daemon.state / LOG).unlink()
    assert daemon.run().returncode == 78
    assert "older than what was acknowledged" in daemon.run().stderr


def test_an_older_copy_is_taken_only_by_an_operators_word(make_daemon: MakeDaemon):
    daemon = make_daemon(stories.HOST, cpu_pool=stories.GENERAL).start()
    daemon.ask("allocate_cores", service_name="a", num_of_cores=2)
    daemon.stop()
    backup = daemon.folder / "backup"
    shutil.copy(daemon.state / state_folder.DATABASE, backup)
    daemon.start()
    daemon.ask("allocate_cores", service_name="a", num_of_cores=4)
    daemon.stop()
    (daemon.state / state_folder.DATABASE).unlink()
    shutil.copy(backup, daemon.state / state_folder.DATABASE)
    refused = daemon.run()
    assert refused.returncode == 78
    hint = f"remove {daemon.state / 'acknowledged'}"
    assert hint in refused.stderr
    (daemon.state / "acknowledged").unlink()
    daemon.start()
    assert daemon.listing()["total_allocated_cpus"] == 2


def test_a_newer_schema_is_refused_and_left_alone(make_daemon: MakeDaemon):
    daemon = make_daemon(stories.HOST).start()
    daemon.stop()
    path = daemon.state / state_folder.DATABASE
    with contextlib.closing(sqlite3.connect(path)) as newer:
        newer.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    before = path.read_bytes()
    done = daemon.run()
    assert done.returncode == 78
    assert "newer daemon" in done.stderr
    assert path.read_bytes() == before


def test_a_state_folder_that_is_removed_under_the_daemon_grants_nothing(make_daemon: MakeDaemon):
    daemon = make_daemon(stories.HOST, cpu_pool=stories.GENERAL).start()
    told = Witness()
    told.ask(daemon, "allocate_cores", service_name="a", num_of_cores=2)
    daemon.state.rename(daemon.folder / "aside")
    refused = told.ask(daemon, "allocate_cores", service_name="b", num_of_cores=2)
    assert refused["code"] == "store-failed"
    assert "removed or replaced" in refused["error"]
    assert stories.lies(told.stories, witness.look(daemon)) == []
    assert daemon.ask("get_health")["healthy"] is False
    (daemon.folder / "aside").rename(daemon.state)
    told.ask(daemon, "allocate_cores", service_name="c", num_of_cores=3)
    shutil.rmtree(daemon.state)
    crowd = Crowd(daemon.socket_path, 2, CHOSEN.seed, told.note)
    crowd.start()
    crowd.join(stop=True)
    assert stories.lies(told.stories, witness.look(daemon)) == []
    assert witness.look(daemon).keys() == {"a", "c"}


@pytest.mark.parametrize("way", ["removed", "renamed"])
def test_a_state_folder_that_goes_under_load_grants_nothing_more(
    make_daemon: MakeDaemon, way: str
):
    """The daemon stays: another one in its place would start without claims."""
    for number in range(6):
        daemon = make_daemon(stories.HOST, cpu_pool=stories.GENERAL).start()
        told = Witness()
        crowd = Crowd(daemon.socket_path, 4, CHOSEN.seed + number, told.note)
        crowd.start()
        time.sleep(random.Random(number).uniform(0.1, 0.4))
        if way == "removed":
            # The daemon may make a file in it meanwhile.
            shutil.rmtree(daemon.state, ignore_errors=True)
        else:
            daemon.state.rename(daemon.folder / "aside")
        time.sleep(0.2)
        crowd.join(stop=True)
        assert daemon.process is not None
        assert daemon.process.poll() is None, daemon.log.read_text()
        seen = witness.look(daemon)
        assert stories.lies(told.stories, seen) == []
        refused = told.ask(daemon, "allocate_hugepages", **PAGES)
        assert refused["code"] == "store-failed"
        assert "store-failed" in {p["code"] for p in daemon.ask("get_health")["problems"]}
        daemon.kill()


def test_a_store_that_cannot_be_written_is_refused_in_one_line(make_daemon: MakeDaemon):
    daemon = make_daemon(stories.HOST).start()
    daemon.stop()
    (daemon.state / state_folder.DATABASE).chmod(0o400)
    if os.geteuid() == 0:
        # Root may write everything but for this.
        wrapped = daemon.command()
        daemon.command = lambda *_: [
            *("setpriv", "--bounding-set=-dac_override,-dac_read_search"),
            *wrapped,
        ]
    done = daemon.run()
    assert done.returncode == 78, done.stderr
    assert len(done.stderr.splitlines()) == 1
