# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Assert what a packed charm holds: `check_charm.py CHARM SNAP`."""

import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

FILES = (
    "dispatch",
    "metadata.yaml",
    "config.yaml",
    "actions.yaml",
    "manifest.yaml",
    "version",
    "LICENSE",
    "README.md",
    "icon.svg",
    "src/charm.py",
    "lib/charms/epa_orchestrator/v0/epa_client.py",
    "bundle/epa-orchestrator.snap",
)
PACKAGES = ("ops", "ops_tracing", "charmlibs/snap", "pydantic", "pydantic_core", "opentelemetry")
SITE = "venv/lib/python3.12/site-packages"


class Fault(Exception):
    """The charm would not work where it is deployed."""


def check(charm: Path, snap: Path) -> None:
    """Raise Fault if something is missing, wrong, or not for the base's Python."""
    with zipfile.ZipFile(charm) as packed:
        names = set(packed.namelist())
        for name in FILES:
            _demand(name in names, f"{name} is missing")
        for package in PACKAGES:
            there = any(name.startswith(f"{SITE}/{package}/") for name in names)
            _demand(there, f"the package {package} is missing")
        bundled = packed.read("bundle/epa-orchestrator.snap")
        _demand(bundled == snap.read_bytes(), "the bundled snap is another")
        _demand(
            bool(packed.getinfo("dispatch").external_attr >> 16 & 0o111), "dispatch cannot run"
        )
        venv = packed.read("venv/pyvenv.cfg").decode()
        _demand("home = /usr/bin\n" in venv, "its virtual environment names the builder's Python")
        manifest = packed.read("manifest.yaml").decode()
    _check_wheels(names)
    _check_architecture(snap, manifest)


def _check_wheels(names: set[str]) -> None:
    """Compiled modules load in one Python alone, and that is the base's."""
    compiled = [name for name in names if ".cpython-" in name and name.endswith(".so")]
    _demand(bool(compiled), "no compiled module")
    for name in compiled:
        _demand(".cpython-312-" in name, f"{name} is for another Python")
    modules = sorted(path.name for path in Path("src").glob("*.py"))
    for module in modules:
        _demand(f"src/{module}" in names, f"src/{module} is missing")
    _demand(not any(name.startswith("epa_daemon/") for name in names), "the daemon's source is in")


def _check_architecture(snap: Path, manifest: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        unpacked = f"{folder}/snap"
        command = ["unsquashfs", "-quiet", "-no-progress", "-dest", unpacked, str(snap)]
        subprocess.run(  # noqa: S603 - a list, and no shell
            [*command, "meta/snap.yaml"], check=True, stdout=subprocess.DEVNULL
        )
        described = Path(unpacked, "meta/snap.yaml").read_text()
    architectures = re.findall(r"\b(amd64|arm64)\b", described.partition("architectures")[2])[:1]
    _demand(bool(architectures), "the snap names no architecture")
    _demand(architectures[0] in manifest, f"the snap is for {architectures[0]}, the charm is not")


def _demand(holds: bool, text: str) -> None:
    if not holds:
        raise Fault(text)


if __name__ == "__main__":
    try:
        check(Path(sys.argv[1]), Path(sys.argv[2]))
    except Fault as fault:
        sys.exit(f"bad charm: {fault}")
