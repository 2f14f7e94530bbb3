"""Renders the manifest of the plugin for one archive, from deploy/krew/virtsync.yaml."""

import hashlib
from pathlib import Path

from controller import __version__

TEMPLATE = Path(__file__).parents[2] / "deploy" / "krew" / "virtsync.yaml"
RELEASES = "https://github.com/virtsync/virtsync/releases/download"


def archive_name() -> str:
    """The name of the archive of this version."""
    return f"kubectl-virtsync-v{__version__}.tar.gz"


def render(archive: Path) -> str:
    """Return the manifest for this archive."""
    words = {
        "VERSION": f"v{__version__}",
        "URI": f"{RELEASES}/v{__version__}/{archive.name}",
        "SHA256": hashlib.sha256(archive.read_bytes()).hexdigest(),
    }
    _, _, text = TEMPLATE.read_text().partition("\n\n")  # without the comment about the template
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    return text
