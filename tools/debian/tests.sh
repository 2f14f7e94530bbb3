#!/bin/sh
# Set up this checkout and run tests, as a user does: run in a tree of Debian. `tests.sh [WORDS FOR PYTEST...]`; without
# words: the demo, `make check`, and all tests of `make test` that need no cluster.
set -eu
cd /srv/virtsync
make --no-print-directory setup
# shellcheck disable=SC1091
. /etc/os-release
echo "$PRETTY_NAME $(cat /etc/debian_version): $(python3 --version), libvirt $(libvirtd --version | sed 's/.* //')," \
    "$(qemu-system-i386 --version | sed -n '1s/.*version /QEMU /p')"
[ $# -eq 0 ] || exec .venv/bin/pytest "$@"

make --no-print-directory demo
make --no-print-directory check
status=0
make --no-print-directory test-parts || status=$?
echo "Not run in this Debian: the tests on a real cluster, those with GitOps engines and those marked long." \
    "CONTRIBUTING.md says why."
exit "$status"
