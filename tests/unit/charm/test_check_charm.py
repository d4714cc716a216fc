# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The check of a packed charm refuses one that would not work where it is deployed."""

import pathlib
import shutil
import subprocess
import zipfile
from collections.abc import Callable

import pytest

from ci import check_charm

SITE = check_charm.SITE
ROOT = pathlib.Path(__file__).parents[3]
MODULES = [f"src/{path.name}" for path in (ROOT / "src").glob("*.py")]
COMPILED = f"{SITE}/pydantic_core/_pydantic_core.cpython-312-x86_64-linux-gnu.so"
Make = Callable[[dict[str, bytes | None]], pathlib.Path]


@pytest.fixture
def snap(tmp_path: pathlib.Path) -> pathlib.Path:
    if shutil.which("mksquashfs") is None or shutil.which("unsquashfs") is None:
        pytest.skip("there is no mksquashfs: apt-get install squashfs-tools")
    tree, packed = tmp_path / "tree", tmp_path / "epa-orchestrator.snap"
    (tree / "meta").mkdir(parents=True)
    (tree / "meta/snap.yaml").write_text("name: epa-orchestrator\narchitectures: [amd64]\n")
    subprocess.run(["mksquashfs", tree, packed, "-quiet", "-no-progress"], check=True)
    return packed


@pytest.fixture
def make(tmp_path: pathlib.Path, snap: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Zips a charm that is right but for some files, of which None means missing."""
    monkeypatch.chdir(ROOT)

    def make(changed: dict[str, bytes | None]) -> pathlib.Path:
        content: dict[str, bytes | None] = dict.fromkeys([*check_charm.FILES, *MODULES], b"x")
        content |= {f"{SITE}/{name}/__init__.py": b"" for name in check_charm.PACKAGES}
        content |= {
            COMPILED: b"",
            "bundle/epa-orchestrator.snap": snap.read_bytes(),
            "manifest.yaml": b"bases:\n- architectures: [amd64]\n",
            "venv/pyvenv.cfg": b"home = /usr/bin\n",
        }
        charm = tmp_path / "x.charm"
        with zipfile.ZipFile(charm, "w") as packed:
            for name, data in (content | changed).items():
                if data is not None:
                    info = zipfile.ZipInfo(name)
                    info.external_attr = (0o755 if data != b"no mode" else 0o644) << 16
                    packed.writestr(info, data)
        return charm

    return make


def test_a_charm_with_everything_passes(make: Make, snap: pathlib.Path):
    check_charm.check(make({}), snap)


@pytest.mark.parametrize(
    "name",
    [*check_charm.FILES, "src/reconciler.py", *check_charm.PACKAGES],
)
def test_a_charm_that_lacks_something_is_refused(name: str, make: Make, snap: pathlib.Path):
    package = name in check_charm.PACKAGES
    missing = f"{SITE}/{name}/__init__.py" if package else name
    changed: dict[str, bytes | None] = {missing: None}
    if name == "pydantic_core":
        changed |= {COMPILED: None, f"{SITE}/a.cpython-312-x86_64-linux-gnu.so": b""}
    with pytest.raises(check_charm.Fault, match=f"{name} is missing"):
        check_charm.check(make(changed), snap)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"bundle/epa-orchestrator.snap": b"another"}, "the bundled snap is another"),
        ({"dispatch": b"no mode"}, "dispatch cannot run"),
        ({"venv/pyvenv.cfg": b"home = /root/x\n"}, "names the builder's Python"),
        ({COMPILED: None}, "no compiled module"),
        ({f"{SITE}/a.cpython-311-x86_64-linux-gnu.so": b""}, "for another Python"),
        ({"epa_daemon/daemon.py": b""}, "the daemon's source is in"),
        ({"manifest.yaml": b"architectures: [arm64]"}, "the snap is for amd64, the charm is not"),
    ],
)
def test_a_charm_with_something_wrong_is_refused(
    changed: dict[str, bytes | None], text: str, make: Make, snap: pathlib.Path
):
    with pytest.raises(check_charm.Fault, match=text):
        check_charm.check(make(changed), snap)
