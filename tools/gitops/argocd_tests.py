"""Argo CD's own tests of resource customizations, run on those of virtsync, as for a pull request to its repository."""

import shutil
import subprocess
from pathlib import Path

from gitops.argocd import MODULE, UPSTREAM

PACKAGE = f"{UPSTREAM}/util/lua"
TESTS = ("TestLuaHealthScript", "TestLuaResourceActionsScript")


def run(customizations: Path, patch: Path, folder: Path) -> str:
    """Build and run the tests in an empty folder, and return what Go says; LabError with its end if one fails.

    `customizations` has the layout of resource_customizations in Argo CD's repository. `patch` is what the pull request
    changes there besides. The first run compiles for a minute.
    """
    source = MODULE.source_of(UPSTREAM)
    repository = folder / "argo-cd"
    for package in _packages(source):
        (repository / package).mkdir(parents=True, exist_ok=True)
        for file in (source / package).iterdir():
            if file.is_file():
                shutil.copy(file, repository / package)
    for name in ("go.mod", "go.sum"):
        shutil.copy(source / name, repository)
    shutil.copytree(customizations, repository / "resource_customizations", dirs_exist_ok=True)
    subprocess.run(["git", "apply", patch.resolve()], cwd=repository, check=True)
    modules = folder / "go.mod"
    modules.write_text((MODULE.folder / "go.mod").read_text() + f"\nreplace {UPSTREAM} => {repository}\n")
    shutil.copy(MODULE.folder / "go.sum", folder)
    words = ("test", "-v", "-trimpath", "-vet=off", "-run", "|".join(TESTS), f"-modfile={modules}", PACKAGE)
    return "\n".join(MODULE.go(*words))


def _packages(source: Path) -> list[Path]:
    """The folders of Argo CD that its tests of customizations are compiled from, relative to `source`."""
    listed = MODULE.go("list", "-test", "-deps", "-f", "{{.Dir}}", PACKAGE)
    return sorted({Path(line).relative_to(source) for line in listed if line.startswith(f"{source}/")})
