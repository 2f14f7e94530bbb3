#!/bin/sh
# Set up a node's files and hostname; run as the first process in its namespaces, which then becomes the program that
# only reaps. `node.sh NAME FOLDER PAUSE`; FOLDER/disk survives a reboot.
set -eu
name=$1 folder=$2 pause=$3

hostname "$name"
# A mount that kubelet or libvirtd makes here is visible in pods that were started before.
mount --make-rshared /

for place in /run /var/lib /var/log; do
    mount -t tmpfs -o mode=755 tmpfs "$place"
done
for place in /var/lib/containerd /var/lib/kubelet /var/log/pods /var/log/containers; do
    mkdir -p "$folder/disk$place" "$place"
    mount --bind "$folder/disk$place" "$place"
done
mkdir -p /run/lock /run/netns

# kubelet sets these for the whole machine: here it finds files that already have its values.
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
    kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
    file=/run/sysctl/${setting%=*}
    mkdir -p "${file%/*}"
    echo "${setting#*=}" >"$file"
    mount --bind "$file" "/proc/sys/${setting%=*}"
done

ip link set lo up
echo 1 >/proc/sys/net/ipv4/ip_forward
exec "$pause"
