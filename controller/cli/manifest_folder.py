"""A folder of manifests, such as a part of a Git repository: which objects it has, and how new ones are added.

`DIR/<node>/<name>.yaml` has one object. Each `DIR/<node>`, and DIR itself, has a kustomization. No file that exists is
changed, except that a kustomization gets the entries of new files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from controller.api.codec import parse
from controller.api.json_mapping import Json
from controller.api.names import GROUP, KIND
from controller.api.virtualmachine import VirtualMachine
from controller.kube import manifests
from controller.runtime.errors import Rejected

KUSTOMIZATIONS = ("kustomization.yaml", "kustomization.yml", "Kustomization")
"""The names that kustomize accepts. It accepts only one of them in a folder."""

SUFFIXES = {".yaml", ".yml", ".json"}
"""The files that kustomize and kubectl read."""


class ManifestFolder:
    """The objects in a folder, and the files to add to it. Not thread-safe."""

    def __init__(self, root: Path) -> None:
        """Read all manifests below `root`, which need not exist. Raises Rejected with a message."""
        self.root = root
        self.objects: list[VirtualMachine] = []
        """The VirtualMachine objects in the files."""
        self.files: set[tuple[str, str]] = set()
        """A pair (folder, name without its suffix) for each file that exists in a folder of a node."""
        self._new: dict[Path, str] = {}
        for path in _manifests(root):
            self.objects += _virtual_machines(path)
            if path.parent.parent == root:
                self.files.add((path.parent.name, path.stem))

    def add(self, node: str, name: str, text: str) -> None:
        """Add a file to the folder of a node. `write` writes it."""
        self._new[self.root / node / f"{name}.yaml"] = text

    def write(self) -> None:
        """Write the added files and the kustomizations that list them. Raises Rejected with a message.

        All files are first written under temporary names, so a full disk leaves no change. Then they are renamed, the
        kustomizations first: if this is interrupted, kustomize names a missing file, and the next import writes it.
        """
        files = self._kustomizations() | self._new if self._new else {}
        staged: dict[Path, Path] = {}
        made: list[Path] = []
        try:
            for number, (path, text) in enumerate(files.items()):
                made += _made_folders(path.parent)
                staged[path] = path.with_name(f".virtsync-{os.getpid()}-{number}.partial")
                staged[path].write_text(text, encoding="utf-8")
            if created := next((path for path in self._new if path.exists()), None):
                raise Rejected(f"{created} was created in the meantime: run the import again")
            for path, partial in staged.items():
                partial.replace(path)
        except OSError as error:
            raise Rejected(f"{error.filename or self.root} cannot be written: {error.strerror}") from error
        finally:
            for partial in staged.values():
                with suppress(OSError):
                    partial.unlink()
            for folder in reversed(made):
                with suppress(OSError):  # it has files
                    folder.rmdir()

    def _kustomizations(self) -> dict[Path, str]:
        """Return the new texts of the kustomizations that change. The one of the root is first. Raises Rejected."""
        folders = sorted({path.parent for path in self._new})
        entries = {self.root: [folder.name for folder in folders if not _kustomization(folder).exists()]}
        for folder in folders:
            entries[folder] = sorted(path.name for path in self._new if path.parent == folder)
        paths = {_kustomization(folder): names for folder, names in entries.items() if names}
        return {path: _with_resources(path, names) for path, names in paths.items()}


def _manifests(root: Path) -> Iterator[Path]:
    """Yield the YAML and JSON files below a folder, in a stable order. Hidden files and folders are left out."""
    for path in sorted(path for path in root.rglob("*") if path.suffix in SUFFIXES):
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        if path.is_file() and not hidden:
            yield path


def _virtual_machines(path: Path) -> list[VirtualMachine]:
    try:
        return [parse(raw) for document in _documents(path) for raw in _objects(document) if _is_vm(raw)]
    except (Rejected, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise Rejected(f"{path} cannot be read, so its objects are not known: {why}") from error


def _documents(path: Path) -> list[object]:
    text = _read(path)
    if path.suffix == ".json":
        with suppress(ValueError):  # it can also be several documents, which YAML reads
            return [json.loads(text)]  # YAML does not allow the tabs of JSON
    return manifests.documents(text)


def _objects(document: object) -> Iterator[Json]:
    """Yield the objects of a document: those of a list (`kind: List`, `VirtualMachineList`), or the only one."""
    if not isinstance(document, dict):
        return
    if not isinstance(items := document.get("items"), list):
        yield document
        return
    # As kubectl reads a list: an item without a kind is of the kind of the list.
    kind = {"apiVersion": document.get("apiVersion"), "kind": str(document.get("kind", "")).removesuffix("List")}
    for item in items:
        if isinstance(item, dict):
            yield from _objects(kind | item)


def _is_vm(document: Json) -> bool:
    return document.get("kind") == KIND and str(document.get("apiVersion", "")).startswith(f"{GROUP}/")


def _kustomization(folder: Path) -> Path:
    """Return the path of the folder's kustomization, or the path for a new one."""
    paths = [folder / name for name in KUSTOMIZATIONS]
    return next((path for path in paths if path.exists()), paths[0])


def _with_resources(path: Path, entries: list[str]) -> str:
    if not path.exists():
        return manifests.kustomization(entries)
    try:
        return manifests.with_resources(_read(path), entries)
    except Rejected as error:
        raise Rejected(f"{path} cannot be changed: {error}. Add to its resources: {', '.join(entries)}") from error


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise Rejected(error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise Rejected("it is not UTF-8") from error


def _made_folders(folder: Path) -> list[Path]:
    """Make a folder and those above it. Return the new ones, from the top to the bottom."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing[::-1]
