#!/bin/busybox sh
# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.
#
# The guest's first process: goes on from a disk (lab.root=DEVICE), or serves the agent here.
/bin/busybox --install -s /bin
export PATH=/bin:/usr/bin HOME=/root LANG=C.UTF-8 PYTHONUNBUFFERED=1

mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
for module in /lab/modules/*.ko; do insmod "$module"; done

root=$(sed -n 's/.*lab\.root=\([^ ]*\).*/\1/p' /proc/cmdline)
if [ -n "$root" ]; then
    for _ in 1 2 3 4 5 6 7 8 9 10; do [ -b "$root" ] && break || sleep 0.2; done
    mkdir /disk
    mount -t ext4 -o noatime "$root" /disk || { echo "lab: cannot mount $root"; poweroff -f; }
    # systemd keeps a /run that it finds, and takes units from it.
    mount -t tmpfs -o mode=755,nodev,nosuid run /disk/run
    mkdir -p /disk/run/lab /disk/run/systemd/system/sysinit.target.wants
    cp /lab/agent.py /disk/run/lab/
    cp /lab/lab-agent.service /disk/run/systemd/system/
    ln -s ../lab-agent.service /disk/run/systemd/system/sysinit.target.wants/
    umount /proc /sys
    mount -o move /dev /disk/dev
    exec switch_root /disk /sbin/init
fi

mkdir -p /dev/pts /dev/shm /sys/fs/cgroup
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs run /run
mount -t cgroup2 cgroup /sys/fs/cgroup
ip link set lo up
hostname lab
while :; do
    python3.12 /lab/agent.py
    echo "lab: the agent ended with $?"
    sleep 1
done
