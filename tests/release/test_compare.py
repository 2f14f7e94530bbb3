"""The comparison of two builds finds each byte that differs."""

import io
import tarfile
from pathlib import Path

import pytest

from release.compare import BLOCK_BYTES, differences


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        (folder / "sub").mkdir(parents=True)
        (folder / "sub" / "b").write_bytes(b"x" * (2 * BLOCK_BYTES))
        (folder / "a").write_bytes(b"same")
    return one, other


def _archive(target: Path, **files: tuple[bytes, int]) -> None:
    with tarfile.open(target, "w") as tar:
        for name, (content, mtime) in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = len(content), mtime
            tar.addfile(entry, io.BytesIO(content))


def test_equal_folders_have_no_difference(folders: tuple[Path, Path]) -> None:
    assert differences(*folders) == []


@pytest.mark.parametrize("offset", [0, BLOCK_BYTES - 1, BLOCK_BYTES, 2 * BLOCK_BYTES - 1])
def test_one_byte_that_differs_is_named(folders: tuple[Path, Path], offset: int) -> None:
    with (folders[1] / "sub" / "b").open("r+b") as file:
        file.seek(offset)
        file.write(b"y")
    assert differences(*folders) == [f"sub/b differs from byte {offset}."]


def test_a_file_that_is_longer_differs_where_the_other_ends(folders: tuple[Path, Path]) -> None:
    (folders[1] / "a").write_bytes(b"same and more")
    assert differences(*folders) == ["a differs from byte 4."]


def test_a_file_that_is_in_one_folder_only_is_named(folders: tuple[Path, Path]) -> None:
    (folders[0] / "only").touch()
    assert differences(*folders) == [f"only is only in {folders[0]}."]
    assert differences(*reversed(folders)) == [f"only is only in {folders[0]}."]


def test_of_an_archive_the_first_entry_that_differs_is_named(folders: tuple[Path, Path]) -> None:
    for folder, time in zip(folders, (1, 2), strict=True):
        _archive(folder / "layer.tar", p=(b"p", 1), q=(b"q", time))
        _archive(folder / "image", **{"layer.tar": ((folder / "layer.tar").read_bytes(), 0)})
        (folder / "layer.tar").unlink()
    (found,) = differences(*folders)
    assert found.startswith("image differs from byte ")
    assert found.endswith(", in layer.tar: q.")
