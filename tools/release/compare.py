"""Compares two folders bit for bit, and says which files differ and where."""

import hashlib
import tarfile
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

BLOCK_BYTES = 1 << 20


def differences(one: Path, other: Path) -> list[str]:
    """Return one sentence for each file that is only in one folder, or differs; none if the folders are equal."""
    files = {file.relative_to(folder) for folder in (one, other) for file in folder.rglob("*") if file.is_file()}
    return [sentence for file in sorted(files) if (sentence := _difference(file, one / file, other / file))]


def _difference(name: Path, one: Path, other: Path) -> str:
    for missing, present in ((one, other), (other, one)):
        if not missing.is_file():
            return f"{name} is only in {present.parent}."
    offset = _first_difference(one, other)
    if offset is None:
        return ""
    return f"{name} differs from byte {offset}{_in_archive(one, other)}."


def _first_difference(one: Path, other: Path) -> int | None:
    """The number of the first byte that differs; None if the files are equal."""
    with one.open("rb") as first, other.open("rb") as second:
        before = 0
        while (a := first.read(BLOCK_BYTES)) == (b := second.read(BLOCK_BYTES)):
            if not a:
                return None
            before += len(a)
    pairs = enumerate(zip(a, b, strict=False))
    return before + next((number for number, (x, y) in pairs if x != y), min(len(a), len(b)))


def _in_archive(one: Path, other: Path) -> str:
    """The first entry that differs, if both files are archives."""
    if not all(map(tarfile.is_tarfile, (one, other))):
        return ""
    for first, second in zip_longest(_members(one), _members(other)):
        if first != second:
            return f", in {(first or second or ('',))[0]}"
    return ""


def _members(archive: Path) -> Iterator[tuple[str, ...]]:
    """Name, metadata and digest of each entry; of an archive in the archive, also those of its entries."""
    with tarfile.open(archive) as tar:
        yield from _entries(tar, "")


def _entries(tar: tarfile.TarFile, where: str) -> Iterator[tuple[str, ...]]:
    for entry in tar:
        content = tar.extractfile(entry) if entry.isreg() else None
        if content and not where and entry.name.endswith(".tar"):
            with tarfile.open(fileobj=content) as inner:
                yield from _entries(inner, f"{where}{entry.name}: ")
        else:
            digest = hashlib.sha256(content.read()).hexdigest() if content else ""
            yield (f"{where}{entry.name}", *map(str, entry.get_info().values()), digest)
