#!/bin/sh
# Install the Debian packages that the lab and the build of libvirt-python need; `system-packages.sh cluster`: and those
# of the nodes of a cluster; `system-packages.sh image`: what builds the image.
# As root it installs what is missing; for anybody else it prints the line to run, and fails.
set -eu

# Unpack packages into the cache, at once or not at all. Installed, they would enable and start a service of the machine.
unpack() {
    unpacked=${XDG_CACHE_HOME:-$HOME/.cache}/virtsync/$1
    [ ! -d "$unpacked" ] || return 0
    echo "Unpacking into $unpacked: $*"
    mkdir -p "${unpacked%/*}"
    partial=$(mktemp -d "$unpacked.XXXXXX")
    trap 'rm -rf "$partial"' EXIT
    (
        cd "$partial"
        # Root downloads as a user of apt's own, who may not write here.
        set -- --quiet --option APT::Sandbox::User=root download "$@"
        apt-get "$@" || { apt-get --quiet update && apt-get "$@"; }
    )
    mkdir "$partial/root"
    for archive in "$partial"/*.deb; do
        dpkg-deb --extract "$archive" "$partial/root"
    done
    mv -T "$partial/root" "$unpacked"
}

# libvirt-python comes as source only: compiler and headers are for it. binutils assemble the guest, openssl makes a key
# for the control plane, util-linux and mount make namespaces.
packages='
    python3 python3-venv python3-dev gcc libc6-dev pkg-config libvirt-dev
    libvirt-daemon-system libvirt-daemon-driver-qemu libvirt-clients qemu-system-x86 qemu-utils
    binutils mount openssl util-linux
'
if [ "${1:-}" = cluster ]; then
    # The last is what Debian's runc needs, which is unpacked below.
    packages="$packages containernetworking-plugins iptables iproute2 busybox-static libseccomp2"
fi
if [ "${1:-}" = image ]; then
    # Whoever has an engine needs neither, whatever the system is.
    if docker info >/dev/null 2>&1 || podman info >/dev/null 2>&1; then
        exit 0
    fi
    packages='buildah debootstrap'
fi

if ! command -v dpkg-query >/dev/null; then
    echo 'This set-up knows the packages of Debian only: dpkg-query was not found.' >&2
    exit 1
fi

missing=
for package in $packages; do
    status=$(dpkg-query --show --showformat '${db:Status-Status}' "$package" 2>/dev/null) || status=unknown
    [ "$status" = installed ] || missing="$missing $package"
done
if [ -n "$missing" ]; then
    install="apt-get install --yes --no-install-recommends$missing"
    if [ "$(id -u)" -ne 0 ]; then
        echo "System packages are missing. Run this, then make again:" >&2
        echo "    sudo apt-get update && sudo $install" >&2
        exit 1
    fi
    echo "Installing system packages:$missing"
    export DEBIAN_FRONTEND=noninteractive
    # The package lists are only as new as they must be: when what they name can be had, they will do.
    $install --quiet --download-only >/dev/null 2>&1 || apt-get --quiet update
    $install --quiet --option Dpkg::Use-Pty=0
fi

# A machine may have both, of Debian or of Docker: then its programs are used, and its service is not.
if [ "${1:-}" = cluster ] && ! { command -v containerd && command -v runc; } >/dev/null; then
    unpack containerd runc
fi
