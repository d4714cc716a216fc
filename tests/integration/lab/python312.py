# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""A Python 3.12 that can be moved: Debian has 3.11 and 3.13, and core24 has 3.12.

It is a copy of one of the host's, without what a snap or a charm never imports. It links to the
shared libraries of the guest (Debian trixie's), which are the same or newer than the host's.
"""

import shutil
from pathlib import Path

from tests.integration.lab import host

UNUSED = (
    *("test", "tests", "idlelib", "turtledemo", "tkinter", "ensurepip", "lib2to3", "pydoc_data"),
    *("__pycache__", "site-packages", "config-3.12-*", "*.a", "LICENSE.txt", "turtle.py"),
    *("_tkinter.*", "_test*.so", "_ctypes_test*", "xxlimited*", "_xx*", "nis.*", "_dbm.*"),
    *("_gdbm.*", "*.opt-?.pyc"),
)


def source(python: Path) -> Path:
    """The installation that an interpreter belongs to."""
    said = host.build([python, "-c", "import sys; print(sys.base_prefix)"], timeout=30)
    return Path(said.strip())


def fingerprint(python: Path) -> str:
    """What tells one Python from another without reading all of it."""
    said = host.build([python, "-c", "import sys; print(sys.version)"], timeout=30)
    return f"{source(python)} {said}"


def copy(python: Path, prefix: Path, libraries: Path) -> None:
    """Put bin/python3.12, bin/python3 and lib/python3.12 below `prefix`.

    Args:
        libraries: where the loader of that system finds libpython3.12.so.1.0.
    """
    installation = source(python)
    library = prefix / "lib/python3.12"
    shutil.copytree(
        installation / "lib/python3.12",
        library,
        symlinks=True,
        ignore=shutil.ignore_patterns(*UNUSED),
        dirs_exist_ok=True,
    )
    (library / "site-packages").mkdir(exist_ok=True)
    (prefix / "bin").mkdir(exist_ok=True)
    shutil.copy2(python, prefix / "bin/python3.12")
    if not (prefix / "bin/python3").is_symlink():
        (prefix / "bin/python3").symlink_to("python3.12")
    # Compiled ahead, as nothing can be written beside the sources in a snap's base.
    command = [python, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]
    host.build([*command, "-s", prefix, library])
    for shared in (installation / "lib").glob("libpython3.12.so.*"):
        shutil.copy2(shared, libraries / shared.name)
    if strip := host.which("strip"):  # symbols for a debugger are half of it
        compiled = [*library.glob("lib-dynload/*.so"), *libraries.glob("libpython3.12.so.*")]
        host.build([strip, "--strip-unneeded", *compiled])


def needed_libraries(python: Path) -> list[Path]:
    """The host's shared libraries behind a copy's interpreter and extension modules."""
    root = python.parent.parent
    files = [python, *(root / "lib/python3.12/lib-dynload").glob("*.so")]
    found: dict[str, Path] = {}
    for line in host.build(["ldd", *files], timeout=120).splitlines():
        words = line.split()
        path = words[2] if "=>" in words and len(words) > 2 else words[0] if words else ""
        if path.startswith("/") and not path.endswith(":"):
            found.setdefault(Path(path).name, Path(path))
    return list(found.values())
