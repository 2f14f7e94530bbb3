#!/usr/bin/env python3
"""Run `kubectl virtsync` from the packages beside this file. An older Python must be able to read it."""

import os
import sys

LEAST = (3, 11)

if sys.version_info < LEAST:
    sys.stderr.write(
        "kubectl virtsync needs Python %d.%d or newer as python3; this is Python %d.%d.\n"  # noqa: UP031
        % (LEAST + sys.version_info[:2])
    )
    sys.exit(2)

# Krew links to this file from another folder.
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "lib"))  # noqa: PTH118, PTH120

from controller.cli.plugin import main  # noqa: E402

main()
