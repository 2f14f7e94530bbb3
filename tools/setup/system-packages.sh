#!/bin/sh
# Install the Debian packages that the lab and the build of libvirt-python need; `system-packages.sh cluster`: and those
# of the nodes of a cluster; `system-packages.sh image`: what builds the image.
# As root it installs what is missing; for anybody else it prints the line to run, and fails.
set -eu

# libvirt-python comes as source only: compiler and headers are for it. binutils assemble the guest, openssl makes a key
# for the control plane, util-linux and mount make namespaces.
packages='
    python3 python3-venv python3-dev gcc libc6-dev pkg-config libvirt-dev
    libvirt-daemon-system libvirt-daemon-driver-qemu libvirt-clients qemu-system-x86 qemu-utils
    binutils mount openssl util-linux
'
if [ "${1:-}" = cluster ]; then
    packages="$packages containernetworking-plugins iptables iproute2 busybox-static"
    # Docker's own packages have both of these, and Debian's would drive them out.
    if ! command -v containerd >/dev/null || ! command -v runc >/dev/null; then
        packages="$packages containerd runc"
    fi
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
[ -n "$missing" ] || exit 0

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
