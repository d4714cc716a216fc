# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Charms in files: ours as ci/pack-charm makes it, and a principal without any wheels."""

import os
import subprocess
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRINCIPAL = Path(__file__).with_name("charms") / "principal"


def packed_charm(out: Path) -> Path:
    """The charm of EPA_CHARM, or of the last commit; skips where it cannot be packed."""
    charm = os.environ.get("EPA_CHARM")
    if charm is not None:
        return Path(charm).resolve()
    done = subprocess.run(
        [ROOT / "ci/pack-charm", ROOT, out], capture_output=True, text=True, check=False
    )
    if "missing: " in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.splitlines()[-1])


def principal_charm(out: Path) -> Path:
    """The minimal principal, zipped with the modes of its files."""
    charm = out / "principal.charm"
    with zipfile.ZipFile(charm, "w") as packed:
        for path in sorted(PRINCIPAL.iterdir()):
            packed.write(path, path.name)
    return charm
