# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Charms in files: ours as ci/pack-charm makes it, and a principal without any wheels."""

import os
import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.integration.lab import cache, host
from tests.integration.lab.lab import Lab

ROOT = Path(__file__).parents[2]
PRINCIPAL = Path(__file__).with_name("charms") / "principal"
PACKED = ("charmcraft.yaml", "src", "lib", "bundle", "pyproject.toml", "uv.lock", "ci")


def packed_charm(out: Path, snap: Path | None = None) -> Path:
    """The charm of EPA_CHARM, or of the last commit; skips where it cannot be packed.

    Args:
        snap: what to put into it, instead of packing one.
    """
    charm = os.environ.get("EPA_CHARM")
    if charm is not None:
        return Path(charm).resolve()
    done = subprocess.run(
        [ROOT / "ci/pack-charm", ROOT, out],
        env=os.environ | ({"EPA_SNAP": str(snap)} if snap else {}),
        capture_output=True,
        text=True,
        check=False,
    )
    if "missing: " in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.splitlines()[-1])


def cached_charm(lab: Lab, snap: Path) -> Path:
    """As `packed_charm`, and packed again only when what it is made of changes."""
    if given := os.environ.get("EPA_CHARM"):
        return Path(given).resolve()

    def pack(out: Path) -> None:
        packed_charm(out, snap).rename(out / "packed.charm")

    committed = host.build(["git", "-C", ROOT, "rev-parse", *(f"HEAD:{name}" for name in PACKED)])
    return lab.cache.get("charm", cache.key_of(committed, files=[snap]), pack) / "packed.charm"


def bundle_of(charm: Path, out: Path) -> Path:
    """The snap that the charm carries."""
    with zipfile.ZipFile(charm) as packed:
        return Path(packed.extract("bundle/epa-orchestrator.snap", out))


def another_build(charm: Path, work: Path, refuses: str = "") -> Path:
    """The bundled snap with the version `another`.

    Args:
        refuses: its hook post-refresh says this, and has snapd undo the refresh.
    """
    tree, built = work / "tree", work / "epa-orchestrator.snap"
    bundle = bundle_of(charm, work)
    subprocess.run(["unsquashfs", "-q", "-n", "-no-xattrs", "-d", tree, bundle], check=True)
    described = tree / "meta/snap.yaml"
    lines = described.read_text().splitlines()
    changed = ["version: another" if line.startswith("version:") else line for line in lines]
    described.write_text("\n".join(changed) + "\n")
    if refuses:
        hook = tree / "meta/hooks/post-refresh"
        hook.write_text(f"#!/bin/sh\necho '{refuses}' >&2\nexit 1\n")
    # What every snap is packed with; containers mount it by themselves, and know no other.
    command = ["mksquashfs", tree, built, "-noappend", "-comp", "xz", "-no-fragments"]
    subprocess.run([*command, "-no-xattrs", "-all-root", "-no-progress", "-quiet"], check=True)
    return built


def principal_charm(out: Path) -> Path:
    """The minimal principal, zipped with the modes of its files."""
    charm = out / "principal.charm"
    with zipfile.ZipFile(charm, "w") as packed:
        for path in sorted(PRINCIPAL.iterdir()):
            packed.write(path, path.name)
    return charm
