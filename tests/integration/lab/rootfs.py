# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Root folders made from Debian packages: the guest's own, and that of the stand-in base.

The guest is Debian trixie, whose kernel (6.12), systemd and snapd (2.68, which knows `hold`) are
near those of the Ubuntu hosts that the daemon is for.
"""

import lzma
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.integration.lab import debian, host, python312

GUEST = """
    systemd systemd-sysv systemd-resolved- udev dbus kmod procps psmisc iproute2 util-linux
    snapd apparmor squashfs-tools python3 openvswitch-switch jq strace sqlite3 less
    ca-certificates
"""
# What the real core24 has and a snap of Python may call or link to.
BASE = """
    bash coreutils grep sed findutils util-linux mount libc-bin ca-certificates openssl procps
    libssl3t64 libffi8 libsqlite3-0 zlib1g libbz2-1.0 liblzma5 libncursesw6 libreadline8t64
    libuuid1 libexpat1 libgcc-s1 libstdc++6 libcrypt1
"""
# Units that wait for a network, a console or a clock which the guest does not have.
MASKED = """
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer e2scrub_all.timer
    man-db.timer snapd.snap-repair.timer systemd-tmpfiles-clean.timer getty@tty1.service
    serial-getty@ttyS0.service systemd-timesyncd.service systemd-networkd-wait-online.service
    systemd-networkd.service systemd-pstore.service systemd-firstboot.service
    systemd-random-seed.service console-setup.service keyboard-setup.service
    e2scrub_reap.service systemd-update-utmp.service
"""
# AppArmor profiles of programs which the guest does not have cost 10 s of every first boot.
KEPT_PROFILES = {"abi", "abstractions", "disable", "force-complain", "local", "tunables"}
UNUSED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "var/cache/apt", "var/lib/apt")


def guest(out: Path, kernel_modules: Path, python: Path) -> None:
    """Fill `out` with the guest's root folder."""
    _bootstrap(out, GUEST.split(), "minbase")
    shutil.copytree(kernel_modules, out / "usr/lib/modules", symlinks=True, dirs_exist_ok=True)
    python312.copy(python, out / "usr/local/python3.12", out / "usr/lib/x86_64-linux-gnu")
    _settings(out)
    _quiet(out)
    host.build(["chroot", out, "depmod", next(kernel_modules.iterdir()).name])


def base(out: Path, python: Path) -> None:
    """Fill `out` with what the stand-in for the base core24 shows to a snap as its root."""
    _bootstrap(out, BASE.split(), "essential")
    python312.copy(python, out / "usr", out / "usr/lib/x86_64-linux-gnu")
    (out / "usr/bin/python3").unlink(missing_ok=True)
    (out / "usr/bin/python3").symlink_to("python3.12")
    for unused in ("usr/bin/perl", "usr/lib/x86_64-linux-gnu/perl-base", "var/lib/dpkg"):
        _remove(out / unused)


def _bootstrap(out: Path, packages: Sequence[str], variant: str) -> None:
    with tempfile.TemporaryDirectory() as work:
        way_out = debian.host_way_out(Path(work) / "apt.conf")
        command = [
            *("mmdebstrap", "--quiet", "--mode=root", f"--variant={variant}"),
            *("--format=directory", "--architectures=amd64", f"--aptopt={way_out}"),
            *('--aptopt=Acquire::Languages "none"', '--aptopt=Acquire::Retries "3"'),
            *("--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=force-unsafe-io"),
            f"--include={','.join(packages)}",
            *(debian.GUEST_SUITE, str(out), debian.source(debian.GUEST_SUITE)),
        ]
        host.build(command)
    for unused in UNUSED:
        _remove(out / unused)


def _settings(root: Path) -> None:
    files = {
        "etc/hostname": "lab\n",
        "etc/hosts": "127.0.0.1 localhost lab\n",
        # No name service: snapd would wait half a minute for one.
        "etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files\n",
        "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
        "etc/fstab": "",
        "etc/systemd/journald.conf.d/lab.conf": "[Journal]\nStorage=volatile\nRateLimitBurst=0\n",
        "etc/systemd/system.conf.d/lab.conf": "[Manager]\nDefaultTimeoutStartSec=300s\n",
        "etc/profile.d/lab.sh": "export PATH=$PATH:/snap/bin\n",
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(text)


def _quiet(root: Path) -> None:
    """Leave out of the guest's boot what only costs time there."""
    units = root / "etc/systemd/system"
    for unit in MASKED.split():
        (units / unit).unlink(missing_ok=True)
        (units / unit).symlink_to("/dev/null")
    for entry in (root / "etc/apparmor.d").iterdir():
        if entry.name not in KEPT_PROFILES and "snap" not in entry.name:
            _remove(entry)


def image(root: Path, out: Path) -> None:
    """An ext4 image of a root folder, with room to install snaps."""
    with out.open("wb") as file:
        file.truncate(6 << 30)
    features = "^has_journal,^metadata_csum,^64bit,^resize_inode"
    host.build(["mke2fs", "-q", "-t", "ext4", "-O", features, "-m0", "-d", root, out])


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def unpacked_modules(folder: Path, wanted: Sequence[str]) -> list[tuple[str, bytes]]:
    """The named kernel modules and what they need, in loading order, unpacked; not built-in ones.

    Args:
        folder: `lib/modules/<release>`, with depmod's files.
    """
    needs: dict[str, list[str]] = {}
    paths: dict[str, Path] = {}
    for line in (folder / "modules.dep").read_text().splitlines():
        file, _, others = line.partition(":")
        paths[_module_name(file)] = folder / file
        needs[_module_name(file)] = [_module_name(other) for other in others.split()]
    order: list[str] = []
    for name in wanted:
        # modules.dep lists the nearest need first
        for module in [*reversed(needs.get(name, [])), name]:
            if module in paths and module not in order:
                order.append(module)
    return [(name, _unpacked(paths[name])) for name in order]


def _module_name(path: str) -> str:
    return Path(path).name.split(".")[0].replace("-", "_")


def _unpacked(path: Path) -> bytes:
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data
