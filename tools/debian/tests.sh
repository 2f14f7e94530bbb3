#!/bin/sh
# Set up this checkout and run tests, as a user does: run in a tree of Debian. `tests.sh [WORDS FOR PYTEST...]`; without
# words: `make check`, and all tests of `make test` that need no cluster.
set -eu
cd /srv/virtsync
make --no-print-directory setup
# shellcheck disable=SC1091
. /etc/os-release
echo "$PRETTY_NAME $(cat /etc/debian_version): $(python3 --version), libvirt $(libvirtd --version | sed 's/.* //')," \
    "$(qemu-system-i386 --version | sed -n '1s/.*version /QEMU /p')"
[ $# -gt 0 ] || make --no-print-directory check
exec .venv/bin/pytest -m 'not long and not e2e and not gitops' "$@"
