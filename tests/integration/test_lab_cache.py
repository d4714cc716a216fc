# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The lab's cache and shapes: what can be shown without a machine."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.integration.lab import fixtures, host, initrd
from tests.integration.lab.cache import Cache, key_of
from tests.integration.lab.errors import BuildFailed, MissingNeeds
from tests.integration.lab.shape import Node, Shape


def fill(out: Path) -> None:
    (out / "file").write_text("whole")


def never(out: Path) -> None:
    raise AssertionError("built again")


class TestCache:
    def test_another_session_finds_what_one_made(self, tmp_path: Path):
        made = Cache(tmp_path).get("thing", "1", fill)
        found = Cache(tmp_path).get("thing", "1", never)
        assert (found, (found / "file").read_text()) == (made, "whole")

    def test_a_failed_build_leaves_nothing(self, tmp_path: Path):
        with pytest.raises(AssertionError, match="built again"):
            Cache(tmp_path).get("thing", "1", never)
        assert list(tmp_path.glob("thing@*")) == []

    def test_a_killed_build_leaves_nothing_that_counts(self, tmp_path: Path):
        code = (
            "import os, pathlib, signal, sys; from tests.integration.lab.cache import Cache\n"
            "def half(out):\n"
            "    (out / 'file').write_text('half')\n"
            "    os.kill(os.getpid(), signal.SIGKILL)\n"
            "Cache(pathlib.Path(sys.argv[1])).get('thing', '1', half)"
        )
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=60)
        assert done.returncode == -9
        assert len(list(tmp_path.glob("thing@*.part"))) == 1
        folder = Cache(tmp_path).get("thing", "1", fill)
        assert (folder / "file").read_text() == "whole"
        assert list(tmp_path.glob("thing@*")) == [folder]

    def test_an_old_generation_goes_when_nobody_uses_it(self, tmp_path: Path):
        holder = Cache(tmp_path)
        old = holder.get("thing", "1", fill)
        new = Cache(tmp_path).get("thing", "2", fill)
        assert old.is_dir()
        holder.release()
        Cache(tmp_path).get("thing", "2", never)
        assert list(tmp_path.glob("thing@*")) == [new]

    def test_two_at_once_build_once(self, tmp_path: Path):
        built: list[Path] = []

        def slowly(out: Path) -> None:
            time.sleep(0.2)
            built.append(out)

        def get() -> None:
            Cache(tmp_path).get("thing", "1", slowly)

        threads = [threading.Thread(target=get) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(built) == 1

    def test_a_key_tells_contents_names_and_modes_apart(self, tmp_path: Path):
        folder = tmp_path / "folder"
        folder.mkdir()
        (folder / "a").write_text("1")
        keys = {key_of("x", files=[folder])}
        (folder / "a").chmod(0o755)
        keys.add(key_of("x", files=[folder]))
        (folder / "a").write_text("2")
        keys.add(key_of("x", files=[folder]))
        (folder / "a").rename(folder / "b")
        keys.add(key_of("x", files=[folder]))
        keys.add(key_of("y", files=[folder]))
        assert len(keys) == 5


class TestShape:
    @pytest.mark.parametrize(
        ("shape", "complaint"),
        [
            ({"cpus": 0}, "1 to 240"),
            ({"cpus": 241, "sockets": 1, "threads": 1}, "1 to 240"),
            ({"cpus": 6}, "do not divide"),
            ({"nodes": (Node("0-3", 1024),)}, "must be in one node"),
            ({"nodes": (Node("0-3", 1024), Node("3-7", 1024))}, "must be in one node"),
            ({"nodes": (Node("0-7", 1000),)}, "multiple of 128"),
            ({"isolated": "6-8"}, r"\[8\] do not exist"),
            ({"pages_2m": (1, 1)}, "2 counts of pages for 1 nodes"),
            ({"pages_1g": 2}, "leave less than 512 MiB"),
        ],
    )
    def test_one_that_cannot_be_is_refused(self, shape: dict[str, object], complaint: str):
        with pytest.raises(ValueError, match=complaint):
            Shape(**shape)  # pyright: ignore[reportArgumentType]

    def test_the_kernel_is_told(self):
        shape = Shape(isolated="2-7", pages_2m=64, kernel=("nosmt",))
        assert shape.kernel_arguments == (
            *("isolcpus=2-7", "hugepagesz=2M", "hugepages=64", "nosmt"),
        )
        nodes = (Node("0-7", 2048), Node("", 2048))
        uneven = Shape(nodes=nodes, pages_1g=(0, 1))
        assert uneven.kernel_arguments == ("hugepagesz=1G", "hugepages=0:0,1:1")


class TestNeeds:
    def test_what_is_missing_is_named_with_the_packages_that_bring_it(
        self, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(host, "which", {"apt-get": "x", "dpkg-deb": "x"}.get)
        monkeypatch.setattr(host, "python312", lambda: None)
        with pytest.raises(MissingNeeds) as raised:
            host.require()
        said = str(raised.value)
        assert "apt-get install e2fsprogs mmdebstrap squashfs-tools util-linux" in said
        assert "a Python 3.12" in said

    def test_tests_are_skipped_or_fail_as_asked(self, monkeypatch: pytest.MonkeyPatch):
        reason = MissingNeeds("the machine lab needs a horse")
        monkeypatch.delenv("EPA_LAB", raising=False)
        with pytest.raises(pytest.skip.Exception, match=r"NO MACHINE TESTS: .* a horse"):
            fixtures.go_without(reason)
        monkeypatch.setenv("EPA_LAB", "required")
        with pytest.raises(pytest.fail.Exception, match=r"EPA_LAB=required, but .* a horse"):
            fixtures.go_without(reason)

    def test_a_failing_program_is_shown_with_its_words(self):
        with pytest.raises(BuildFailed, match=r"(?s)returned 4:.*no room"):
            host.build(["sh", "-c", "echo no room >&2; exit 4"])


def test_an_initrd_is_what_cpio_reads(tmp_path: Path):
    tree = tmp_path / "tree"
    (tree / "d").mkdir(parents=True)
    (tree / "d/f").write_text("odd")
    (tree / "l").symlink_to("d/f")
    archive = initrd.archive(tree, "a/b")
    assert archive.startswith(b"070701")
    assert len(archive) % 4 == 0
    assert [name for name in (b"a\0", b"a/b\0", b"a/b/d/f\0", b"a/b/l\0") if name in archive] == [
        *(b"a\0", b"a/b\0", b"a/b/d/f\0", b"a/b/l\0"),
    ]
