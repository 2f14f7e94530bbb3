"""The canonical form of an image archive: equal for equal contents, and it loses nothing that the image needs."""

import hashlib
import importlib.util
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from release.image import ImageArchive

SCRIPT = Path(__file__).parents[2] / "tools/image/canonical.py"
EPOCH = 1_700_000_000

Json = dict[str, Any]
Entry = tuple[tarfile.TarInfo, bytes]


def _canonical(archive: Path, target: Path) -> Path:
    found = importlib.util.spec_from_file_location("canonical", SCRIPT)
    assert found
    assert found.loader
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    module.canonical(archive, target, EPOCH)
    return target


def entry(name: str, content: bytes = b"", mtime: float = 0, **fields: Any) -> Entry:
    made = tarfile.TarInfo(name)
    made.size, made.mtime = len(content), mtime
    for field, value in fields.items():
        setattr(made, field, value)
    return made, content


def folder(name: str, mtime: float = 0) -> Entry:
    return entry(name, mtime=mtime, type=tarfile.DIRTYPE, mode=0o755)


def _tar(entries: Sequence[Entry]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for one, content in entries:
            tar.addfile(one, io.BytesIO(content))
    return file.getvalue()


def _image(path: Path, *layers: Sequence[Entry], **config: Any) -> Path:
    tars = [_tar(layer) for layer in layers]
    described = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": ["virtsync"], "Labels": {"a": "b"}},
        "created": "2026-11-27T20:00:00Z",
        "history": [{"created_by": f"step {number}", "created": "2026"} for number in range(len(tars))],
    } | config
    files = [entry(f"{number}/layer.tar", tar) for number, tar in enumerate(tars)]
    manifest = {"Config": "c.json", "RepoTags": ["virtsync:1"], "Layers": [one.name for one, _ in files]}
    files += [entry("c.json", json.dumps(described).encode()), entry("manifest.json", json.dumps([manifest]).encode())]
    path.write_bytes(_tar(files))
    return path


def _read(archive: Path) -> tuple[Json, Json, list[dict[str, tarfile.TarInfo]]]:
    with tarfile.open(archive) as image:

        def content(name: str) -> bytes:
            file = image.extractfile(name)
            assert file
            return file.read()

        (manifest,) = json.loads(content("manifest.json"))
        config = json.loads(content(manifest["Config"]))
        tars = [content(name) for name in manifest["Layers"]]
    assert [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in tars] == config["rootfs"]["diff_ids"]
    return manifest, config, [_by_name(tar) for tar in tars]


def _by_name(layer: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        return {one.name: one for one in tar}


def test_order_times_owners_names_and_what_the_builder_notes_make_no_difference(tmp_path: Path) -> None:
    first = _image(tmp_path / "a", [folder("./etc/", 1), entry("./etc/x", b"x", EPOCH + 5)], [entry("y", b"y", 7.5)])
    second = _image(
        tmp_path / "b",
        [entry("etc/x", b"x", EPOCH + 99, uname="root"), folder("etc", 1)],
        [entry("y", b"y", 7)],
        created="2027-01-01T00:00:00Z",
        docker_version="99",
        history=[{"created_by": "from another archive"}, {"created_by": "step 1", "comment": "from here"}],
    )
    one, other = _canonical(first, tmp_path / "one"), _canonical(second, tmp_path / "other")
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    "changed",
    [entry("y", b"z"), entry("y", b"y", uid=5), entry("y", b"y", mode=0o755), entry("z", b"y")],
)
def test_contents_owners_modes_and_names_do(tmp_path: Path, changed: Entry) -> None:
    one = _canonical(_image(tmp_path / "a", [entry("y", b"y")]), tmp_path / "one")
    other = _canonical(_image(tmp_path / "b", [changed]), tmp_path / "other")
    assert one.read_bytes() != other.read_bytes()


def test_files_have_one_time_and_the_image_has_that_of_the_commit(tmp_path: Path) -> None:
    archive = _image(tmp_path / "a", [entry("new", b"n", EPOCH + 1), entry("old", b"o", 5)])
    _, config, (layer,) = _read(_canonical(archive, tmp_path / "one"))
    assert {name: one.mtime for name, one in layer.items()} == dict.fromkeys(layer, 315532800)
    assert config["created"] == config["history"][0]["created"] == "2023-11-14T22:13:20Z"


def test_how_the_image_runs_and_its_names_are_kept(tmp_path: Path) -> None:
    manifest, config, _ = _read(_canonical(_image(tmp_path / "a", [entry("x")]), tmp_path / "one"))
    assert manifest["RepoTags"] == ["virtsync:1"]
    assert config["config"] == {"Entrypoint": ["virtsync"], "Labels": {"a": "b"}}
    assert (config["architecture"], config["os"]) == ("amd64", "linux")


def test_a_link_comes_after_the_file_and_special_files_are_kept(tmp_path: Path) -> None:
    def link(name: str, to: str) -> Entry:
        return entry(name, linkname=to, type=tarfile.LNKTYPE)

    symlink = entry("s", linkname="b", type=tarfile.SYMTYPE, mode=0o777)
    device = entry("dev", type=tarfile.CHRTYPE, devmajor=1, devminor=3)
    one = _canonical(
        _image(tmp_path / "a", [entry("b", b"content"), link("a", "b"), link("c", "./b"), symlink, device]),
        tmp_path / "one",
    )
    other = _canonical(
        _image(tmp_path / "b", [entry("c", b"content"), device, link("b", "c"), link("a", "c"), symlink]),
        tmp_path / "other",
    )
    assert one.read_bytes() == other.read_bytes()
    _, _, (layer,) = _read(one)
    assert list(layer) == ["a", "b", "c", "dev", "s"]
    assert layer["a"].isreg()
    assert [(layer[name].islnk(), layer[name].linkname) for name in "bc"] == [(True, "a")] * 2
    assert (layer["s"].issym(), layer["s"].linkname) == (True, "b")
    assert (layer["dev"].ischr(), layer["dev"].devmajor, layer["dev"].devminor) == (True, 1, 3)


def test_a_file_of_the_image_is_as_the_last_layer_leaves_it(tmp_path: Path) -> None:
    archive = _image(
        tmp_path / "a",
        [entry("d/status", b"first"), entry("gone/x", b"x"), entry("away", b"y")],
        [entry("d/status", b"second"), entry(".wh.gone"), entry(".wh.away")],
    )
    image = ImageArchive(_canonical(archive, tmp_path / "one"))
    assert image.texts(lambda name: not name.startswith(".wh.")) == {"d/status": "second"}
    assert image.architecture == "amd64"
