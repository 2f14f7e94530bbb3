#!/bin/sh
# Install the Debian packages that the lab and the build of libvirt-python need. `system-packages.sh cluster` also
# installs those that the nodes of a cluster need; `system-packages.sh gitops` also installs what Argo CD needs;
# `system-packages.sh image` installs only what builds the image, `system-packages.sh debian` only what makes a Debian,
# `system-packages.sh page` only a browser, `system-packages.sh publish` only gh.
# If root runs this script, it installs the missing packages; otherwise it prints the command to run, and fails.
set -eu

# Unpack packages into the cache, atomically. Installing them would enable and start a service on the machine.
unpack() {
    unpacked=${XDG_CACHE_HOME:-$HOME/.cache}/virtsync/$1
    [ ! -d "$unpacked" ] || return 0
    echo "Unpacking into $unpacked: $*"
    mkdir -p "${unpacked%/*}"
    partial=$(mktemp -d "$unpacked.XXXXXX")
    trap 'rm -rf "$partial"' EXIT
    (
        cd "$partial"
        # As root, apt downloads as its own user, who must not write here.
        set -- --quiet --option APT::Sandbox::User=root download "$@"
        apt-get "$@" || { apt-get --quiet update && apt-get "$@"; }
    )
    mkdir "$partial/root"
    for archive in "$partial"/*.deb; do
        dpkg-deb --extract "$archive" "$partial/root"
    done
    mv -T "$partial/root" "$unpacked"
    rm -rf "$partial"
}

# apt checks each package against the signed index of Debian, so its version is the one of this Debian release: 2.42 in
# Debian 12. Installing it would start a server and add 36 packages. The programs need only the C library.
if [ "${1:-}" = prometheus ]; then
    { command -v prometheus && command -v promtool; } >/dev/null || {
        unpack prometheus
        # Since Debian 13, promtool is a package of its own.
        [ -x "$unpacked/usr/bin/promtool" ] || unpack promtool
    }
    exit 0
fi

# libvirt-python has only a source distribution, which needs a compiler and headers. binutils assemble the guest,
# util-linux and mount create namespaces, and systemd runs the unit of the agent in them. The shells are those in which
# completion is tested.
packages='
    python3 python3-venv python3-dev gcc libc6-dev pkg-config libvirt-dev
    libvirt-daemon-system libvirt-daemon-driver-qemu libvirt-clients qemu-system-x86 qemu-utils
    binutils mount util-linux systemd bash-completion fish zsh
'
if [ "${1:-}" = cluster ]; then
    # Debian's runc, which is unpacked below, needs libseccomp2.
    packages="$packages containernetworking-plugins iptables iproute2 busybox-static libseccomp2"
fi
# Debian's Chromium is an ordinary program: it brings no service. A machine can have it from elsewhere.
if [ "${1:-}" = page ]; then
    ! command -v chromium >/dev/null || exit 0
    packages='chromium fonts-dejavu-core'
fi
# A program without a service, which can be there from elsewhere.
if [ "${1:-}" = publish ]; then
    ! command -v gh >/dev/null || exit 0
    packages=gh
fi
if [ "${1:-}" = image ]; then
    # If there is an engine, neither package is needed, on any system.
    if [ "${ENGINE:-}" != buildah ] && { docker info >/dev/null 2>&1 || podman info >/dev/null 2>&1; }; then
        exit 0
    fi
    packages='buildah debootstrap'
fi
[ "${1:-}" != debian ] || packages=debootstrap

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
    # Update the package lists only if the packages that they name can no longer be downloaded.
    $install --quiet --download-only >/dev/null 2>&1 || apt-get --quiet update
    $install --quiet --option Dpkg::Use-Pty=0
fi

# The machine might have both already, from Debian or from Docker: then use its programs, but not its service.
if [ "${1:-}" = cluster ] && ! { command -v containerd && command -v runc; } >/dev/null; then
    unpack containerd runc
fi
# Without netavark, the buildah of Debian 13 and later does nothing at all, although the build uses none of its networks.
if [ "${1:-}" = image ] && dpkg --compare-versions "$(dpkg-query --show --showformat '${Version}' buildah)" ge 1.30; then
    [ -x /usr/lib/podman/netavark ] || unpack netavark
fi
# The program of redis-server is in redis-tools; the libraries are those that Debian does not install by itself.
if [ "${1:-}" = gitops ] && ! command -v redis-server >/dev/null; then
    unpack redis-server redis-tools libjemalloc2 liblzf1
fi
