#!/bin/sh
# Set up this checkout and run tests, as a user does: run in a tree of Debian. `tests.sh [WORDS FOR PYTEST...]`; without
# words: the demo and `make test`, which are the two commands of the README.
set -eu
cd /srv/virtsync
make --no-print-directory setup
# shellcheck disable=SC1091
. /etc/os-release
echo "$PRETTY_NAME $(cat /etc/debian_version): $(python3 --version), libvirt $(libvirtd --version | sed 's/.* //')," \
    "$(qemu-system-i386 --version | sed -n '1s/.*version /QEMU /p')"
[ $# -eq 0 ] || exec .venv/bin/pytest "$@"

make --no-print-directory demo
status=0
make --no-print-directory test || status=$?
echo "Not run in this Debian: the tests with GitOps engines, those of the page and those marked long." \
    "CONTRIBUTING.md says why."
exit "$status"
