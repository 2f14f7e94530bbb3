#!/bin/sh
# Become a systemd of our own, as the first process of new namespaces: a host that has nothing but the given units.
# `own_systemd.sh NAME FOLDER LIBVIRT CGROUP...`; FOLDER/units has the units, LIBVIRT is the folder of libvirt's socket.
set -eu
name=$1 folder=$2 libvirt=$3
shift 3
for cgroup in "$@"; do
    echo 0 >"$cgroup/cgroup.procs"
done

targets="basic sysinit shutdown umount final multi-user slices sockets paths timers local-fs local-fs-pre swap network
network-online exit"
mkdir -p "$folder/targets" "$folder/default" "$folder/opt" "$folder/none"
for target in $targets; do
    cp "/lib/systemd/system/$target.target" "$folder/targets/"
done
echo "$name" >"$folder/hostname"

mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/libvirt
mount --bind "$libvirt" /run/libvirt
mount --bind "$folder/targets" /lib/systemd/system
mount --bind "$folder/none" /lib/systemd/system-generators
mount -t tmpfs -o mode=755 tmpfs /etc/systemd
mkdir -p /etc/systemd/system
cp -r "$folder/units/." /etc/systemd/system/
mount --bind "$folder/hostname" /etc/hostname
mount --bind "$folder/default" /etc/default
mount --bind "$folder/opt" /opt
mount -t tmpfs -o mode=755 tmpfs /var/lib
exec env -i container=lab PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --unit=multi-user.target --log-target=console --show-status=no
