"""docs/tutorial.md for tests that type its commands: what is typed in each section, and the terminal."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENT = (ROOT / "docs" / "tutorial.md").read_text()
AGE = re.compile(r"(\d+[smhd])+")


def sections() -> dict[str, list[tuple[str, str]]]:
    """What is typed in each section, and what it prints, as far as the page shows it."""
    found: dict[str, list[tuple[str, str]]] = {}
    for section in re.split(r"^## ", DOCUMENT, flags=re.MULTILINE)[1:]:
        blocks = re.findall(r"^```console\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
        texts = [text for block in blocks for text in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]
        found[section.partition("\n")[0]] = [_command(text) for text in texts]
    return found


def _command(text: str) -> tuple[str, str]:
    """A command with its here-document, and what it prints."""
    if "<<END\n" in text:
        body, _, shown = text.partition("\nEND\n")
        return f"{body}\nEND\n", shown
    command, _, shown = text.partition("\n")
    return command, shown


class Terminal:
    """The second terminal of the page, in the checkout. `virsh` is that of node-a."""

    def __init__(self, kubeconfig: Path, assets: Path, libvirt_uri: str, folder: Path) -> None:
        roles = ("AUTHOR", "COMMITTER")
        people = {f"GIT_{role}_{what}": "me@example.org" for role in roles for what in ("NAME", "EMAIL")}
        settings = {
            "KUBECONFIG": str(kubeconfig),
            "KUBECACHEDIR": str(folder / "kubectl-cache"),
            "LIBVIRT_DEFAULT_URI": libvirt_uri,
            "PATH": f"{Path(sys.executable).parent}:{assets}:{os.environ['PATH']}",
        }
        self._env: dict[str, str] = {**os.environ, **people, **settings}

    def paste(self, line: str) -> None:
        """Set the variables of a line such as `export FLEET=/git URL=http://...`."""
        self._env |= dict(word.split("=", 1) for word in line.removeprefix("export ").split())

    def follow(self, title: str) -> None:
        """Type the commands of a section, and compare what they print with what the page shows."""
        for command, shown in sections()[title]:
            told = self._type(command)
            if shown.strip():
                assert _without_ages(told) == _without_ages(shown), command

    def _type(self, command: str) -> str:
        shell = ["bash", "-ec", command]
        done = subprocess.run(shell, cwd=ROOT, env=self._env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr


def _without_ages(text: str) -> list[list[str]]:
    return [[word for word in line.split() if not AGE.fullmatch(word)] for line in text.splitlines() if line.strip()]
