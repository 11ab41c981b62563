"""Archives: written byte-stably, read in place, hostile ones refused (oracles: Python's tarfile, planted faults)."""

import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest

from lensml.ingest import archive
from lensml.schema import ContractError

MIB = 2**20


def _tar(members: list[tuple[tarfile.TarInfo | str, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for header, content in members:
            info = tarfile.TarInfo(header) if isinstance(header, str) else header
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def _contents(path: Path, max_bytes: int = MIB) -> dict[str, bytes]:
    out = path.with_name("repacked")
    return {m.name: archive.read(path.parent, m) for m in archive.repack(path, out, lambda name: True, max_bytes)}


def _special(kind: bytes, name: str = "x.fits", target: str = "/etc/passwd") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "in"
    for name, content in {"b.fits": b"bb" * 700, "a.fits": b"", "deep/" * 30 + "c.fits": b"c"}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def _names(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*.fits")]


def test_packed_members_are_where_the_index_says_and_where_tarfile_finds_them(tmp_path: Path, folder: Path) -> None:
    members = archive.pack(folder, _names(folder), tmp_path / "o.tar")
    assert [m.name for m in members] == sorted(_names(folder))
    with tarfile.open(tmp_path / "o.tar") as tar:
        found = {m.name: (m.offset_data, m.size, m.mtime, m.uid, m.gid) for m in tar}
    for member in members:
        assert found[member.name] == (member.offset, member.size, 0, 0, 0)
        assert archive.read(tmp_path, member) == (folder / member.name).read_bytes()


def test_the_same_files_give_the_same_bytes(tmp_path: Path, folder: Path) -> None:
    archive.pack(folder, _names(folder), tmp_path / "1.tar")
    os.utime(folder / "b.fits", (1, 1))
    (folder / "b.fits").chmod(0o755)
    archive.pack(folder, list(reversed(_names(folder))), tmp_path / "2.tar")
    assert (tmp_path / "1.tar").read_bytes() == (tmp_path / "2.tar").read_bytes()


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "secret").write_text("s")
    (folder / "link.fits").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match=r"link\.fits must not lead out"):
        archive.pack(folder, ["link.fits"], tmp_path / "o.tar")
    with pytest.raises(ValueError, match="must not lead out"):
        archive.pack(folder, ["../secret"], tmp_path / "o.tar")


def test_a_link_within_the_folder_is_its_file(tmp_path: Path, folder: Path) -> None:
    (folder / "link.fits").symlink_to("b.fits")
    (member,) = archive.pack(folder, ["link.fits"], tmp_path / "o.tar")
    assert archive.read(tmp_path, member) == (folder / "b.fits").read_bytes()


@pytest.mark.parametrize(("files", "error"), [(["b.fits", "b.fits"], ValueError), (["no"], FileNotFoundError)])
def test_files_named_twice_or_absent_are_refused(
    tmp_path: Path, folder: Path, files: list[str], error: type[Exception]
) -> None:
    with pytest.raises(error):
        archive.pack(folder, files, tmp_path / "o.tar")


def test_a_folder_or_a_pipe_is_no_file(tmp_path: Path, folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    for name in ("deep", "pipe"):
        with pytest.raises(ValueError, match="must be a regular file"):
            archive.pack(folder, [name], tmp_path / "o.tar")


@pytest.mark.parametrize("outer", [lambda b: b, gzip.compress], ids=["tar", "tar.gz"])
@pytest.mark.parametrize("inner", ["Data.0.tar", "Data.0.tar.gz"])
def test_archives_inside_archives_are_walked(tmp_path: Path, outer, inner: str) -> None:
    nested = _tar([("./p/a.fits", b"A" * 5000), ("p/b.fits", b"B")])
    nested = gzip.compress(nested) if inner.endswith("gz") else nested
    (tmp_path / "x").write_bytes(outer(_tar([(inner, nested), ("c.csv", b"ID")])))
    assert _contents(tmp_path / "x") == {f"{inner}/p/a.fits": b"A" * 5000, f"{inner}/p/b.fits": b"B", "c.csv": b"ID"}


def test_repack_keeps_what_is_wanted_and_needs_no_content_read_by_the_caller(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(gzip.compress(_tar([("a.fits", b"A" * 999), ("no.txt", b"no"), ("b.fits", b"B")])))
    members = archive.repack(tmp_path / "x", tmp_path / "o.tar", lambda name: name.endswith(".fits"), MIB)
    assert [(m.archive, m.name, archive.read(tmp_path, m)) for m in members] == [
        ("o.tar", "a.fits", b"A" * 999),
        ("o.tar", "b.fits", b"B"),
    ]


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(_tar([("a", b"1"), ("./a", b"2")]))
    with pytest.raises(ContractError, match="got a twice"):
        archive.repack(tmp_path / "x", tmp_path / "o.tar", lambda name: True, MIB)


@pytest.mark.parametrize(
    "header",
    [
        _special(tarfile.SYMTYPE),
        _special(tarfile.LNKTYPE),
        _special(tarfile.CHRTYPE),
        _special(tarfile.FIFOTYPE),
        "/abs.fits",
        "a/../../b.fits",
        "..\\b.fits",
    ],
    ids=["symlink", "hardlink", "device", "pipe", "absolute", "dots", "backslash"],
)
def test_hostile_members_are_refused(tmp_path: Path, header: tarfile.TarInfo | str) -> None:
    (tmp_path / "x.tar").write_bytes(_tar([("ok.fits", b"1"), (header, b"")]))
    with pytest.raises(ContractError, match=r"x\.tar must hold"):
        _contents(tmp_path / "x.tar")


def test_a_gzip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    bomb = gzip.compress(_tar([("big.fits", bytes(8 * MIB))]))
    assert len(bomb) < MIB // 50
    for name, content in {"x.tar.gz": bomb, "y.tar.gz": gzip.compress(_tar([("in.tar.gz", bomb)]))}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ContractError, match=f"at most {MIB} bytes"):
            _contents(tmp_path / name)


def test_a_bomb_behind_the_end_of_the_tar_or_in_a_header_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tail").write_bytes(gzip.compress(_tar([("a", b"1")]) + bytes(8 * MIB)))
    with pytest.raises(ContractError, match="at most"):
        _contents(tmp_path / "tail")
    header = tarfile.TarInfo("n" * (2 * MIB))
    (tmp_path / "header").write_bytes(gzip.compress(_tar([(header, b"")])))
    with pytest.raises(ContractError, match="a header of"):
        _contents(tmp_path / "header")


def test_archives_nested_without_end_are_refused(tmp_path: Path) -> None:
    content = _tar([("a", b"1")])
    for _ in range(3):
        content = _tar([("a.tar", content)])
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ContractError, match="nest"):
        _contents(tmp_path / "x")


@pytest.mark.parametrize("wrap", [bytes, gzip.compress], ids=["tar", "tar.gz"])
def test_cut_off_anywhere_an_archive_is_refused(tmp_path: Path, wrap) -> None:
    """tarfile itself takes a cut between two files for the end."""
    whole = wrap(_tar([("a", os.urandom(600)), ("b", os.urandom(600))]))
    payload = 512 + 1024 + 512 + 1024  # what a reader needs, without the end mark
    for cut in range(0, min(len(whole), payload + 1) if wrap is bytes else len(whole), 97):
        (tmp_path / "x").write_bytes(whole[:cut])
        with pytest.raises(ContractError, match="whole tar"):
            _contents(tmp_path / "x")


def test_damaged_headers_and_checksums_are_refused(tmp_path: Path) -> None:
    whole = bytearray(_tar([("a", b"1"), ("b", b"2")]))
    whole[1024 + 100] ^= 1  # in the second header
    (tmp_path / "tar").write_bytes(whole)
    zipped = bytearray(gzip.compress(_tar([("a", b"1")])))
    zipped[-8] ^= 1  # gzip's CRC32
    (tmp_path / "gz").write_bytes(zipped)
    (tmp_path / "html").write_bytes(b"<html>404</html>" * 100)
    for name in ("tar", "gz", "html"):
        with pytest.raises(ContractError, match="whole tar"):
            _contents(tmp_path / name)


def test_a_tar_shorter_than_its_index_is_refused(tmp_path: Path, folder: Path) -> None:
    members = archive.pack(folder, ["b.fits"], tmp_path / "o.tar")
    (tmp_path / "o.tar").write_bytes((tmp_path / "o.tar").read_bytes()[:600])
    with pytest.raises(ContractError, match=r"b\.fits whole, got 88"):
        archive.read(tmp_path, members[0])
