# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""A host in a folder: the files that the daemon reads, usable as `--root`, and what it answers.

It is what tests replay a machine from, and the first thing to attach to a bug report.
"""

import datetime
import io
import json
import os
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from charms.epa_orchestrator.v0 import epa_client

from epa_daemon import __version__
from epa_daemon.errors import CannotStart

Reply = dict[str, Any]

_CPU = "sys/devices/system/cpu"
_NODE = "sys/devices/system/node"
# Folder below the root -> files in it. Only these: nothing here tells more of a machine than
# its shape.
_FACTS = {
    _CPU: ("online", "offline", "isolated", "present", "possible"),
    f"{_CPU}/cpu[0-9]*": ("online",),
    f"{_CPU}/cpu[0-9]*/topology": (
        *("core_id", "physical_package_id", "die_id", "cluster_id"),
        *("core_cpus_list", "thread_siblings_list", "core_siblings_list", "package_cpus_list"),
        *("die_cpus_list", "cluster_cpus_list"),
    ),
    f"{_CPU}/cpu[0-9]*/cache/index[0-9]*": ("level", "type", "shared_cpu_list"),
    _NODE: ("online", "possible", "has_cpu", "has_memory"),
    f"{_NODE}/node[0-9]*": ("cpulist", "distance"),
    f"{_NODE}/node[0-9]*/hugepages/hugepages-*kB": ("nr_hugepages", "free_hugepages"),
    "proc": ("cmdline", "version"),
    "etc/openvswitch": ("enable_dynamic_cpu_affinity",),
}


def record(target: str, root: Path, client: epa_client.EpaClient, options: Path | None) -> Reply:
    """Record a host and its daemon.

    Args:
        target: the folder, made here so that nothing is overwritten; `-` for standard output, as
            a tar archive.
        root: the host tree, / for this host.
        client: asks the daemon; one that does not answer is recorded as such.
        options: the file with the accepted options, if there is one.

    Returns:
        What the file `record.json` says: `files` (a count), and `not_read`, which maps each file
        that is there but could not be read, and each question to the daemon that failed, to the
        reason.

    Raises:
        CannotStart: the folder is there already or cannot be made.
    """
    not_read: dict[str, str] = {}
    files = dict(_facts(root, not_read))
    files |= {f"daemon/{name}.json": text for name, text in _answers(client, not_read)}
    if options:
        files |= _one(options, "daemon/options.json", not_read)
    about: Reply = {
        "recorded_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "version": __version__,
        "files": len(files),
        "not_read": not_read,
    }
    files["record.json"] = _json(about)
    if target == "-":
        _pack(files)
    else:
        _write(Path(target), files)
    return about


def _facts(root: Path, not_read: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    for pattern, names in _FACTS.items():
        # A folder without a wildcard is not looked for: what is not permitted would look absent.
        folders = sorted(root.glob(pattern)) if "*" in pattern else [root / pattern]
        for folder in folders:
            for name in names:
                path = folder / name
                yield from _one(path, str(path.relative_to(root)), not_read).items()


def _one(path: Path, name: str, not_read: dict[str, str]) -> dict[str, bytes]:
    try:
        return {name: path.read_bytes()}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        not_read[name] = error.strerror or str(error)
        return {}


def _answers(
    client: epa_client.EpaClient, not_read: dict[str, str]
) -> Iterator[tuple[str, bytes]]:
    questions: Mapping[str, Callable[[], Reply]] = {
        "health": client.get_health,
        "list-isolated": client.list_allocations,
        "list-general": lambda: client.list_allocations(pool="general"),
        "hugepages": client.get_memory_info,
        "topology": client.get_topology,
    }
    for name, ask in questions.items():
        try:
            yield name, _json(ask())
        except epa_client.EpaError as error:
            not_read[f"daemon/{name}.json"] = str(error)


def _json(content: Reply) -> bytes:
    return (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode()


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    try:
        folder.mkdir()
        for name, content in files.items():
            path = folder / name
            os.makedirs(path.parent, exist_ok=True)
            path.write_bytes(content)
    except OSError as error:
        raise CannotStart(
            f"cannot record into {folder}: {error.strerror}; name a folder that is not there yet "
            "(for the snap: below /var/snap/epa-orchestrator/common), or - for standard output"
        ) from error


def _pack(files: Mapping[str, bytes]) -> None:
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"host/{name}")
            member.size, member.mtime = len(content), int(time.time())
            archive.addfile(member, io.BytesIO(content))
