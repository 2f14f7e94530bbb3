#!/bin/sh
# Build the agent's image with what is there, docker, podman or buildah, and write it to build/image.tar too.
#
#   ENGINE=buildah   which of them; else the first that works
#   BASE=IMAGE       what it is built on; else debian:bookworm-slim, and for buildah a Debian that debootstrap makes here,
#                    once: no registry of images is needed
#   TAG=1.2.3        else the version of this checkout
#   CA_BUNDLE=FILE   authorities to trust while building, where the network has its own; else $SSL_CERT_FILE
set -eu
cd "$(dirname "$0")/../.."

CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/virtsync
RELEASE=bookworm
NAME=virtsync/virtsync
VERSION=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' controller/__init__.py)
TAG=${TAG:-$VERSION}
CA_BUNDLE=${CA_BUNDLE:-${SSL_CERT_FILE:-}}
ARCHIVE=build/image.tar

fail() {
    echo "make image: $*" >&2
    exit 1
}

works() {
    command -v "$1" >/dev/null || return 1
    case $1 in
        docker) docker info >/dev/null 2>&1 ;;
        podman) podman info >/dev/null 2>&1 ;;
    esac
}

choose() {
    for engine in docker podman buildah; do
        if works "$engine"; then
            echo "$engine"
            return
        fi
    done
    fail "no docker, podman or buildah works here; as root, run: apt-get install --yes buildah debootstrap"
}

# The base of buildah where no registry is to be asked: the least Debian there is, kept in the cache.
debian() {
    kept=$CACHE/base-$RELEASE.tar
    if [ ! -f "$kept" ]; then
        command -v debootstrap >/dev/null || fail "debootstrap not found; as root, run: apt-get install --yes debootstrap"
        echo "Making a base of Debian $RELEASE, once (about a minute)" >&2
        folder=$(mktemp -d)
        trap 'rm -rf "$folder"' EXIT
        # From where this machine has its own packages.
        # shellcheck disable=SC2016 # apt expands it
        mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' "Codename: $RELEASE" 2>/dev/null | head -n 1)
        debootstrap --variant=minbase "$RELEASE" "$folder/root" ${mirror:+"$mirror"} >"$folder/log" 2>&1 ||
            fail "debootstrap failed: $(tail -n 1 "$folder/log")"
        rm -rf "$folder"/root/var/cache/apt/* "$folder"/root/var/lib/apt/lists/*
        mkdir -p "$CACHE"
        tar --create --file "$kept.partial" --directory "$folder/root" --numeric-owner --one-file-system .
        mv "$kept.partial" "$kept"
    fi
    echo "$kept"
}

ENGINE=${ENGINE:-$(choose)}
set -- --build-arg "VERSION=$TAG" \
    --build-arg "REVISION=$(git describe --always --dirty --abbrev=40 --exclude '*' 2>/dev/null || echo unknown)" \
    --build-arg "CREATED=$(date --utc --date="@${SOURCE_DATE_EPOCH:-$(date +%s)}" +%Y-%m-%dT%H:%M:%SZ)" \
    --tag "$NAME:$TAG"
mkdir -p "$(dirname "$ARCHIVE")"
rm -f "$ARCHIVE"

case $ENGINE in
    docker | podman)
        [ -z "${BASE:-}" ] || set -- --build-arg "BASE=$BASE" "$@"
        "$ENGINE" build "$@" .
        "$ENGINE" save --output "$ARCHIVE" "$NAME:$TAG"
        ;;
    buildah)
        # Without an engine, and in a place that is a container itself: no namespaces, no registry.
        b() { buildah --storage-driver overlay --root "$CACHE/images" --runroot "${TMPDIR:-/tmp}/virtsync-images" "$@"; }
        if [ -z "${BASE:-}" ]; then
            kept=$(debian)
            BASE=localhost/debian:$RELEASE
            if ! b inspect --type image "$BASE" >/dev/null 2>&1; then
                made=$(b from scratch)
                b add --quiet "$made" "$kept" / >/dev/null
                b commit --quiet --rm "$made" "$BASE" >/dev/null
            fi
        fi
        if [ -n "$CA_BUNDLE" ]; then
            set -- --volume "$CA_BUNDLE:/run/ca.crt:ro" \
                --build-arg SSL_CERT_FILE=/run/ca.crt --build-arg PIP_CERT=/run/ca.crt "$@"
        fi
        b build --isolation chroot --network host --pull-never --layers --build-arg "BASE=$BASE" "$@" .
        b push --quiet "$NAME:$TAG" "docker-archive:$ARCHIVE" >/dev/null
        ;;
    *) fail "ENGINE must be docker, podman or buildah, not $ENGINE" ;;
esac
echo "$NAME:$TAG is in $ARCHIVE"
