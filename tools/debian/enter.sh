#!/bin/sh
# Change the root to a tree, and run a command there; run as the first process of new namespaces of mounts and processes.
# `enter.sh TREE CACHE COMMAND...`. It stays the first process, because a first process has to reap orphans.
set -eu
tree=$1 cache=$2
shift 2
inner=root/.cache/virtsync

mount --bind "$tree" "$tree"
cd "$tree"
mount -t proc proc proc
mount --rbind /sys sys
mount -t tmpfs -o mode=755 tmpfs run
find tmp -mindepth 1 -delete
chmod 1777 tmp

# Devices of the tree's own, so that no test can change those of the machine.
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty console kmsg kvm fuse; do
    [ ! -e "/dev/$device" ] || cp -a "/dev/$device" dev/
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,mode=620,ptmxmode=666,gid=5 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
for number in 0:stdin 1:stdout 2:stderr; do
    ln -s "/proc/self/fd/${number%:*}" "dev/${number#*:}"
done

# The network is that of the machine.
for file in hosts resolv.conf; do
    rm -f "etc/$file"
    cp "/etc/$file" "etc/$file"
done
bundle=${CA_BUNDLE:-${SSL_CERT_FILE:-}}
[ -z "$bundle" ] || cp "$bundle" run/ca.crt

# A folder whose name ends with the digest of what it was built from is the same on each Debian: programs of Go, and
# the guest. Other folders are of this Debian.
mkdir -p "$inner"
find "$inner" -mindepth 1 -maxdepth 1 -type d -empty -delete
digit='[0-9a-f]'
digest=$digit$digit$digit$digit$digit$digit$digit$digit$digit$digit$digit$digit
# The digest is a pattern.
# shellcheck disable=SC2231
for folder in "$cache"/*-${digest} "$cache/go" "$cache/go-build"; do
    if [ -d "$folder" ]; then
        mkdir -p "$inner/${folder##*/}"
        mount --bind "$folder" "$inner/${folder##*/}"
    fi
done

mkdir -p mnt/outside
pivot_root . mnt/outside
cd /
umount --lazy /mnt/outside
rmdir /mnt/outside

# Of the environment, only what says how to reach the package indexes.
set -- HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 "$@"
[ ! -e /run/ca.crt ] || set -- SSL_CERT_FILE=/run/ca.crt PIP_CERT=/run/ca.crt "$@"
for name in TERM http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY PIP_INDEX_URL UV_DEFAULT_INDEX GOPROXY; do
    value=$(printenv "$name") || continue
    set -- "$name=$value" "$@"
done
status=0
env --ignore-environment "$@" || status=$?
exit "$status"
