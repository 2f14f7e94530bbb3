#!/bin/sh
# Run the tests of this checkout in another release of Debian: `run.sh RELEASE [WORDS FOR PYTEST...]`. Needs root.
#
# Debian is a tree of files in the cache, made once. The tests run in namespaces whose root it is, with processes,
# mounts, /dev and /run of their own. They share the kernel, the network and the cgroups of this machine.
#
#   MIRROR=URL   the mirror of Debian; default: the one from which this machine gets its own packages
#   FRESH=1      delete the tree and make it again
set -eu
cd "$(dirname "$0")/../.."
release=$1
shift
cache=${XDG_CACHE_HOME:-$HOME/.cache}/virtsync
tree=$cache/debian-$release

fail() {
    echo "Debian $release: $*" >&2
    exit 1
}

mirror() {
    # apt expands it
    # shellcheck disable=SC2016
    apt-get indextargets --format '$(SITE)' 'Created-By: Packages' "Label: $1" 2>/dev/null | head -n 1
}

# The packages of a Debian as it is installed, and what our documents say that is needed.
make_tree() {
    main=${MIRROR:-$(mirror Debian)} security=$(mirror Debian-Security)
    [ -n "$main" ] || fail "apt knows no mirror of Debian on this machine: set MIRROR=URL"
    echo "Making a Debian $release from $main in $tree, once (2 to 5 minutes)"
    partial=$(mktemp -d "$tree.XXXXXX")
    trap 'rm -rf --one-file-system "$partial"' EXIT
    trap 'exit 130' INT TERM
    chmod 755 "$partial"
    debootstrap --include=ca-certificates,git,make "$release" "$partial" "$main" >"$tree.log" 2>&1 ||
        fail "debootstrap failed: $(tail -n 1 "$tree.log"); see $tree.log"
    cat >"$partial/etc/apt/sources.list" <<END
deb $main $release main
END
    # Debian's testing and unstable have no such suites.
    case $release in
        testing | unstable | sid | forky) ;;
        *)
            cat >>"$partial/etc/apt/sources.list" <<END
deb $main $release-updates main
${security:+deb $security $release-security main}
END
            ;;
    esac
    # No service is to be started there, as in an image of a container.
    printf '#!/bin/sh\nexit 101\n' >"$partial/usr/sbin/policy-rc.d"
    chmod 755 "$partial/usr/sbin/policy-rc.d"
    mv -T "$partial" "$tree"
    trap - EXIT INT TERM
}

# What Git tracks or would track, as it is now; the virtual environment of the last run stays.
copy_checkout() {
    folder=$tree/srv/virtsync
    kept=$tree/srv/.venv
    if [ -d "$folder/.venv" ]; then
        mv -T "$folder/.venv" "$kept"
    fi
    rm -rf "$folder"
    # The checkout may be that of another user.
    set -- git -c 'safe.directory=*'
    "$@" clone --quiet --no-checkout --no-hardlinks "$PWD" "$folder"
    "$@" ls-files -z --deleted | sort -z >"$tree.deleted"
    "$@" ls-files -z --cached --others --exclude-standard --deduplicate | sort -z | comm -z -23 - "$tree.deleted" |
        tar --create --null --no-recursion --files-from=- | tar --extract --no-same-owner --directory "$folder"
    rm "$tree.deleted"
    git -C "$folder" reset --quiet
    if [ -d "$kept" ]; then
        mv -T "$kept" "$folder/.venv"
    fi
}

[ "$(id -u)" -eq 0 ] || fail 'the tree can be made and entered by root only.'
mkdir -p "$cache"
# One run at a time: they share the tree.
exec 9>"$tree.lock"
flock --nonblock 9 || {
    echo "Waiting for another run in $tree" >&2
    flock 9
}
[ -z "${FRESH:-}" ] || rm -rf --one-file-system "$tree"
[ -d "$tree" ] || make_tree
copy_checkout
status=0
unshare --mount --pid --ipc --fork --kill-child=KILL --propagation private \
    sh tools/debian/enter.sh "$tree" "$cache" sh /srv/virtsync/tools/debian/tests.sh "$@" || status=$?
exit "$status"
