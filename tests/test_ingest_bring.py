"""A source's files brought into its raw folder: what is wanted, checked, listed, and nothing of the machine in it."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from lensml import config
from lensml.ingest import archive, bring
from lensml.schema import ContractError

FILES = {"a/one.fits": b"one", "a/two.fits": b"twotwo", "b/other.txt": b"no"}


def source(path: Path | None = None, downloads: list[dict[str, object]] | None = None) -> config.FilesSource:
    return config.FilesSource.model_validate({"path": path and str(path), "downloads": downloads or []})


def wanted(name: str) -> bool:
    return name.endswith(".fits")


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as file:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def contents(raw: Path) -> dict[str, bytes]:
    return {member.name: archive.read(raw, member) for member in bring.members(raw)}


@pytest.mark.parametrize("form", ["folder", "tar", "tar.gz"])
def test_wanted_files_are_packed_whatever_they_come_in(tmp_path: Path, form: str) -> None:
    here = write(tmp_path / "in", FILES) if form == "folder" else tar(tmp_path / f"in.{form}", FILES)
    bring.packed(source(here), wanted, "CC0", tmp_path / "raw", challenge="x")
    assert contents(tmp_path / "raw") == {name: FILES[name] for name in ("a/one.fits", "a/two.fits")}
    told = bring.facts(tmp_path / "raw")
    assert (told["licence"], told["challenge"]) == ("CC0", "x")
    assert str(tmp_path) not in json.dumps(told)
    tars = {name for name in told["files"] if name.endswith(".tar")}
    assert tars == {"files-00000.tar"}
    digest = hashlib.sha256((tmp_path / "raw" / "files-00000.tar").read_bytes()).hexdigest()
    assert told["files"]["files-00000.tar"]["sha256"] == digest


def test_a_single_file_is_packed_under_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "table.fits").write_bytes(b"content")
    bring.packed(source(tmp_path / "table.fits"), wanted, "CC0", tmp_path / "raw")
    assert contents(tmp_path / "raw") == {"table.fits": b"content"}


def test_plain_files_are_copied_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "x.hdf5").write_bytes(bytes(3_000_000))
    copies = bring.plain(source(tmp_path / "x.hdf5"), "CC0", tmp_path / "raw")
    assert [path.name for path in copies] == ["x.hdf5"]
    assert copies[0].read_bytes() == bytes(3_000_000)
    assert bring.facts(tmp_path / "raw")["files"]["x.hdf5"]["bytes"] == 3_000_000


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    here = write(tmp_path / "in", FILES)
    for out in ("1", "2"):
        bring.packed(source(here), wanted, "CC0", tmp_path / out)
    for name in ("files-00000.tar", bring.INDEX, bring.MANIFEST):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_nothing_wanted_and_nothing_there_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="must hold files of this kind"):
        bring.packed(source(write(tmp_path / "in", {"x.txt": b""})), wanted, "CC0", tmp_path / "raw")
    with pytest.raises(FileNotFoundError, match="got nothing there"):
        bring.packed(source(tmp_path / "nowhere"), wanted, "CC0", tmp_path / "raw")


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    here = write(tmp_path / "in", FILES)
    (tmp_path / "secret.fits").write_bytes(b"secret")
    (here / "link.fits").symlink_to(tmp_path / "secret.fits")
    with pytest.raises(ValueError, match="must not lead out"):
        bring.packed(source(here), wanted, "CC0", tmp_path / "raw")


def test_a_source_names_a_path_or_downloads_and_not_both(tmp_path: Path) -> None:
    download = {"mirrors": ["http://127.0.0.1/x.tar"], "sha256": None}
    for path, downloads in ((None, []), (tmp_path, [download])):
        with pytest.raises(ValueError, match="either a path or downloads"):
            source(path, downloads)
