#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Usage: unshare --mount sh boot.sh DIRECTORY NAME TREE OPTION...
#
# Boots TREE with systemd-nspawn and its OPTIONs, and writes to nothing of it: changes go to a tmpfs
# on DIRECTORY, which is in this mount namespace alone, as is all that is mounted here. On SIGTERM,
# or when the machine has turned itself off, nothing of it is left.
set -eu
directory=$1 name=$2 tree=$3
shift 3

mount -t tmpfs tmpfs "$directory"
mkdir "$directory/upper" "$directory/work" "$directory/root"
mount -t overlay overlay "$directory/root" \
    -o "lowerdir=$tree,upperdir=$directory/upper,workdir=$directory/work"
# What systemd-nspawn notes for itself goes there.
mount -t tmpfs tmpfs /run
# The one hierarchy of cgroups that systemd wants. On most machines it is there.
[ -e /sys/fs/cgroup/cgroup.controllers ] || mount -t cgroup2 cgroup2 /sys/fs/cgroup
group=/sys/fs/cgroup/$name
mkdir "$group"
trap 'echo 1 >"$group/cgroup.kill"' TERM

# No filter of system calls, as on a real machine: the one of systemd-nspawn has no landlock_*. No
# network: what is tested must not need it.
sh -c 'echo $$ >"$1/cgroup.procs"; shift; exec "$@"' sh "$group" \
    env SYSTEMD_SECCOMP=0 systemd-nspawn --quiet --boot --notify-ready=yes \
    --directory="$directory/root" --machine="$name" --register=no --keep-unit \
    --private-network --link-journal=no --resolv-conf=off --timezone=off \
    --console=read-only "$@" &
while kill -0 $! 2>/dev/null; do # a signal ends a wait
    wait $! || true
done
# The kernel ends the last of its processes after systemd-nspawn.
while grep -q 'populated 1' "$group/cgroup.events"; do
    sleep 0.01
done
find "$group" -depth -type d -delete
