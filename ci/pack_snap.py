# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Run the parts of snap/snapcraft.yaml with snapcraft's engine, and lay out the snap's folder.

    pack_snap.py SOURCE BUILD PYTHON312 [VERSION]

leaves the snap's content in BUILD/prime. What snapcraft does besides (fetching build-snaps,
starting a build machine of the base) is replaced by tools that are on PATH already.
"""

import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

import craft_parts
import yaml
from craft_parts import packages
from craft_parts.packages import base

# Keys of snapcraft.yaml that describe the build and not the snap.
_BUILD_KEYS = ("parts", "platforms", "adopt-info")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def main(source: Path, build: Path, python312: Path, version: str) -> None:
    """Lay out the snap's folder."""
    project: dict[str, Any] = yaml.safe_load((source / "snap/snapcraft.yaml").read_text())
    architecture = _ARCHITECTURES[platform.machine()]
    if architecture not in project["platforms"]:
        raise SystemExit(f"snapcraft.yaml knows no platform {architecture}")
    _put_first_on_path(python312, build / "bin")
    os.chdir(source)
    found = _run_parts(project, build)
    prime = build / "prime"
    _write_meta(project, prime / "meta", version or found, architecture)
    _copy_hooks(source / "snap/hooks", prime / "meta/hooks")


def _put_first_on_path(python312: Path, folder: Path) -> None:
    """The plugin builds with the `python3` that it finds, which must be the base's version."""
    folder.mkdir(parents=True)
    for name in ("python3", "python3.12"):
        (folder / name).symlink_to(python312)
    os.environ["PATH"] = f"{folder}:{os.environ['PATH']}"


def _run_parts(project: dict[str, Any], build: Path) -> str:
    parts = project["parts"]
    for part in parts.values():
        part.pop("build-snaps", None)
    # Debian packages would need python-apt, of the system's Python; no part names any.
    packages.Repository = base.DummyRepository  # pyright: ignore[reportPrivateImportUsage]
    lifecycle = craft_parts.LifecycleManager(
        {"parts": parts},
        application_name="packsnap",
        cache_dir=build / "cache",
        work_dir=build,
        base=project["base"],
        project_name=project["name"],
        project_vars={"version": "", "grade": project["grade"]},
        project_vars_part_name=project["adopt-info"],
        ignore_local_sources=["*.snap"],
    )
    with lifecycle.action_executor() as executor:
        executor.execute(lifecycle.plan(craft_parts.Step.PRIME))
    return lifecycle.project_info.get_project_var("version", raw_read=True)


def _write_meta(project: dict[str, Any], meta: Path, version: str, architecture: str) -> None:
    content = {key: value for key, value in project.items() if key not in _BUILD_KEYS}
    content |= {"version": version, "architectures": [architecture]}
    meta.mkdir()
    (meta / "snap.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def _copy_hooks(hooks: Path, target: Path) -> None:
    target.mkdir()
    for hook in hooks.iterdir():
        shutil.copy(hook, target / hook.name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), (*sys.argv[4:], "")[0])
