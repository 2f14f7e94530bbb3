#!/bin/sh
# Build the agent's image with docker, podman or buildah, and also write it to build/image.tar.
#
#   ENGINE=buildah   the engine; default: the first that works
#   BASE=IMAGE       the base image; default: debian:bookworm-slim, and for buildah a Debian that debootstrap creates
#                    here once, so that no image registry is needed
#   TAG=1.2.3        the tag; default: the version of this checkout
#   FRESH=1          use nothing from earlier builds, and delete them: to get security updates that were released since
#   CA_BUNDLE=FILE   authorities to trust during the build, if the network has its own; default: $SSL_CERT_FILE
#   STORE=FOLDER     where buildah keeps the base and its layers; default: the cache
#   SOURCE_DATE_EPOCH=SECONDS  the time of the image; default: that of the commit
set -eu
cd "$(dirname "$0")/../.."

CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/virtsync
RELEASE=bookworm
STORE=${STORE:-$CACHE}
KEPT=$STORE/base-$RELEASE.tar
# The full name, as containerd reads the name in the manifests: podman and buildah would add localhost to a short one.
NAME=docker.io/virtsync/virtsync
VERSION=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' controller/__init__.py)
TAG=${TAG:-$VERSION}
CA_BUNDLE=${CA_BUNDLE:-${SSL_CERT_FILE:-}}
ARCHIVE=build/image.tar
RUN=${XDG_RUNTIME_DIR:-/run}/virtsync-images
[ "$STORE" = "$CACHE" ] || RUN=$STORE/run
EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}

fail() {
    echo "make image: $*" >&2
    exit 1
}

works() {
    command -v "$1" >/dev/null || return 1
    case $1 in
        docker) docker info >/dev/null 2>&1 ;;
        podman) podman info >/dev/null 2>&1 ;;
        buildah) ;;
        *) return 1 ;;
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

# Create the base for buildah without a registry: a minimal Debian, kept in the cache.
debian() {
    if [ ! -f "$KEPT" ]; then
        [ "$(id -u)" -eq 0 ] || fail "a base of Debian can be made by root only; be root, or name one with BASE="
        command -v debootstrap >/dev/null || fail "debootstrap not found; as root, run: apt-get install --yes debootstrap"
        echo "Making a base of Debian $RELEASE, once (about a minute)" >&2
        folder=$(mktemp -d)
        trap 'rm -rf --one-file-system "$folder"' EXIT
        trap 'exit 130' INT TERM
        # Use the mirrors from which this machine gets its own packages, including updates.
        # shellcheck disable=SC2016 # apt expands it
        apt-get indextargets --format 'deb $(SITE) $(CODENAME) main' 'Created-By: Packages' 2>/dev/null |
            grep -E " $RELEASE(-updates|-security)? main$" | sort -u >"$folder/sources" || true
        mirror=$(awk -v "release=$RELEASE" '$3 == release { print $2; exit }' "$folder/sources")
        # The password file has the day on which an entry was made: a fixed one.
        SOURCE_DATE_EPOCH=315532800 \
            debootstrap --variant=minbase "$RELEASE" "$folder/root" ${mirror:+"$mirror"} >"$folder/log" 2>&1 ||
            fail "debootstrap failed: $(tail -n 1 "$folder/log")"
        if [ -n "$mirror" ]; then
            cp "$folder/sources" "$folder/root/etc/apt/sources.list"
        fi
        for step in update 'upgrade --yes'; do
            # shellcheck disable=SC2086 # words
            DEBIAN_FRONTEND=noninteractive chroot "$folder/root" apt-get --quiet $step >"$folder/log" 2>&1 ||
                fail "apt-get $step failed in the base: $(tail -n 1 "$folder/log")"
        done
        # The last two files are copies of this machine's. The cache of ldconfig has numbers of the file system.
        (cd "$folder/root" && rm -rf var/cache/apt/* var/cache/ldconfig/* var/lib/apt/lists/* var/log/* \
            etc/hostname etc/resolv.conf)
        tar --create --file "$KEPT.partial" --directory "$folder/root" --numeric-owner --one-file-system .
        mv "$KEPT.partial" "$KEPT"
    fi
}

ENGINE=${ENGINE:-$(choose)}
works "$ENGINE" || fail "ENGINE=$ENGINE does not work here: it must be a docker, podman or buildah that does"
revision=$(git describe --always --dirty --abbrev=40 --exclude '*' 2>/dev/null || echo unknown)
created=$(date --utc --date="@$EPOCH" +%Y-%m-%dT%H:%M:%SZ)
set -- --tag "$NAME:$TAG"
for value in "version=$TAG" "revision=$revision" "created=$created"; do
    # Set both: podman and buildah take a LABEL from their cache even if its build arguments have changed.
    set -- --build-arg "$(echo "${value%%=*}" | tr '[:lower:]' '[:upper:]')=${value#*=}" \
        --label "org.opencontainers.image.$value" "$@"
done
[ -z "${FRESH:-}" ] || set -- --no-cache "$@"
# docker cannot mount volumes during a build.
if [ -n "$CA_BUNDLE" ] && [ "$ENGINE" != docker ]; then
    set -- --volume "$CA_BUNDLE:/run/ca.crt:ro" \
        --build-arg SSL_CERT_FILE=/run/ca.crt --build-arg PIP_CERT=/run/ca.crt "$@"
fi
mkdir -p "$(dirname "$ARCHIVE")" "$CACHE" "$STORE"
# Allow one build at a time in a store.
exec 9>"$STORE/image.lock"
flock 9
rm -f "$ARCHIVE.partial" "$ARCHIVE.built"

case $ENGINE in
    docker | podman)
        [ -z "${BASE:-}" ] || set -- --build-arg "BASE=$BASE" "$@"
        "$ENGINE" build "$@" .
        "$ENGINE" save --output "$ARCHIVE.built" "$NAME:$TAG"
        ;;
    buildah)
        # This must work without an engine, and inside a container: no namespaces, no registry. If overlay mounts are
        # refused, each layer would be a whole copy: then keep only stages, and build everything each time.
        driver=overlay layers=true
        # Debian 13's buildah does not start without netavark. The setup unpacks it, if it is not installed.
        if [ -d "$CACHE/netavark" ]; then
            export CONTAINERS_CONF_OVERRIDE="$STORE/containers.conf"
            printf '[engine]\nhelper_binaries_dir = ["%s"]\n' "$CACHE/netavark/usr/lib/podman" \
                >"$CONTAINERS_CONF_OVERRIDE"
        fi
        b() { buildah --storage-driver "$driver" --root "$STORE/images-$driver" --runroot "$RUN" "$@"; }
        b info >/dev/null 2>&1 || driver=vfs layers=false
        if [ -z "${BASE:-}" ]; then
            set -- --pull-never "$@"
            BASE=localhost/debian:$RELEASE
            if [ -n "${FRESH:-}" ]; then
                rm -f "$KEPT"
                b rmi --all --force >/dev/null
            fi
            debian
            if ! b inspect --type image "$BASE" >/dev/null 2>&1; then
                made=$(b from scratch)
                b add --quiet "$made" "$KEPT" / >/dev/null
                b commit --quiet --rm "$made" "$BASE" >/dev/null
            fi
        fi
        # Keep the limits of this shell: the buildah of Debian 13 (1.39) raises them, which root may not do in a
        # container. That of Debian 12 (1.28) lowers them before it reads this option, and cannot raise them again.
        case $(buildah --version) in
            'buildah version 1.2'[0-9].*) ;;
            *)
                for limit in nofile nproc; do
                    value=$(prlimit "--$limit" --output SOFT,HARD --noheadings --raw | sed 's/unlimited/-1/g; s/ /:/')
                    set -- --ulimit "$limit=$value" "$@"
                done
                ;;
        esac
        b build --isolation chroot --network host --layers=$layers --build-arg "BASE=$BASE" "$@" .
        b push --quiet "$NAME:$TAG" "docker-archive:$ARCHIVE.built" >/dev/null
        ;;
esac
python3 tools/image/canonical.py "$ARCHIVE.built" "$ARCHIVE.partial" "$EPOCH"
rm "$ARCHIVE.built"
mv "$ARCHIVE.partial" "$ARCHIVE"
echo "$NAME:$TAG is in $ARCHIVE"
