"""Archives without unpacking: tars written byte-stably, foreign tars streamed safely, single members read in place."""

import contextlib
import gzip
import posixpath
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Final

import polars as pl
from tqdm import tqdm

from lensml.schema import ContractError
from lensml.store import tables

_BLOCK: Final = 512  # a tar is made of blocks of this many bytes (POSIX.1-1988)
_EXTENSION_MAX: Final = 2**20  # bytes of a pax or GNU header: real ones hold a long name
_MEMBER_MAX: Final = 8 * 2**30  # bytes of a file in a USTAR archive
_DEPTH_MAX: Final = 2  # archives inside archives
_EXTENSIONS: Final = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
INDEX: Final = {"archive": pl.String, "name": pl.String, "offset": pl.Int64, "size": pl.Int64}  # of `Member`s
_GZIP_MAGIC: Final = b"\x1f\x8b"


@dataclass(frozen=True, order=True)
class Member:
    """Where a file's bytes stand in an uncompressed tar."""

    archive: str  # file name of the tar, without its folder
    name: str
    offset: int  # bytes from the start of the tar
    size: int  # bytes


def pack(folder: Path, files: Sequence[Path | str], out_tar: Path) -> list[Member]:
    """Write files of a folder into an uncompressed tar; the same files give the same bytes.

    Parameters
    ----------
    folder
        Where the files are.
    files
        Their paths relative to `folder`; they are written in sorted order.
    out_tar
        The tar to write (USTAR, times and owners zero).

    Returns
    -------
    list of Member
        In the tar's order.

    Raises
    ------
    ValueError
        A file is a link out of the folder, no regular file, or named twice.
    FileNotFoundError
        There is no such file.
    """
    names = sorted(Path(file).as_posix() for file in files)
    sources = {name: _inside(folder, name) for name in names}
    if len(sources) < len(names):
        raise ValueError(f"files of {folder} must be named once each, got {len(names)} names of {len(sources)} files.")
    with out_tar.open("wb") as file, _writer(file) as tar:
        return [
            _copy(tar, file, out_tar.name, name, path)
            for name, path in tqdm(sources.items(), "packing", unit=" files", disable=None)
        ]


def pack_one(file: Path, name: str, out_tar: Path) -> list[Member]:
    """Write one file under a name into an uncompressed tar.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    """
    with out_tar.open("wb") as target, _writer(target) as tar:
        return [_copy(tar, target, out_tar.name, name, file)]


def repack(archive: Path, out_tar: Path, wanted: Callable[[str], bool], max_bytes: int) -> list[Member]:
    """Write the wanted files of a foreign tar or tar.gz, and of the tars inside it, into an uncompressed tar.

    The archive is streamed: its order is kept, memory is constant, and nothing is written under a member's name. A
    file of an archive inside is named `<inner archive>/<name>`.

    Raises
    ------
    ContractError
        The archive is damaged or cut off; a member is a link, a device or sparse, or its name is absolute or has
        `..`; two wanted files have one name; or the unpacked files together exceed `max_bytes`.
    """
    members: dict[str, Member] = {}
    with archive.open("rb") as source, out_tar.open("wb") as file, _damage(archive), _writer(file) as tar:
        files = _walk(source, "", _Budget(archive, max_bytes), 0)
        for name, size, content in tqdm(files, archive.name, unit=" files", disable=None):
            if wanted(name):
                if name in members:
                    raise ContractError(f"{archive} must hold every file once, got {name} twice.")
                members[name] = _append(tar, file, out_tar.name, name, size, content)
    return list(members.values())


def read(folder: Path, member: Member) -> bytes:
    """The bytes of one member of a tar written here.

    Raises
    ------
    ContractError
        The tar is shorter than its index says.
    """
    with (folder / member.archive).open("rb") as file:
        file.seek(member.offset)
        content = file.read(member.size)
    if len(content) != member.size:
        raise ContractError(f"{folder / member.archive} must hold {member.name} whole, got {len(content)} bytes of it.")
    return content


def write_index(members: Sequence[Member], path: Path) -> None:
    """Write where every member stands, sorted by archive and name."""
    rows = [asdict(member) for member in sorted(members)]
    tables.write_parquet(pl.DataFrame(rows, schema=INDEX), INDEX, path)


def read_index(path: Path) -> list[Member]:
    """Read what `write_index` wrote.

    Raises
    ------
    FileNotFoundError, ContractError
        As `tables.read_parquet`.
    """
    return [Member(**row) for row in tables.read_parquet(path, INDEX).iter_rows(named=True)]


class _Budget:
    """How many bytes the rest of an archive may still unpack to."""

    def __init__(self, archive: Path, limit: int) -> None:
        self.archive, self.limit, self.spent = archive, limit, 0

    def spend(self, size: int) -> None:
        self.spent += size
        if self.spent > self.limit:
            raise ContractError(f"{self.archive} must unpack to at most {self.limit} bytes, got more.")


class _Header(tarfile.TarInfo):
    """A tar header that does not let damage pass for the archive's end, as tarfile does after the first member."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Header":
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError:
            if len(buf) == _BLOCK and not any(buf):
                raise  # a block of zeros: the end of the archive
            raise tarfile.ReadError("damaged or cut off between two files") from None
        if header.type in _EXTENSIONS and header.size > _EXTENSION_MAX:
            raise tarfile.ReadError(f"a header of {header.size} bytes")
        return header


def _walk(file: IO[bytes], prefix: str, budget: _Budget, depth: int) -> Iterator[tuple[str, int, IO[bytes]]]:
    plain = _unzipped(file)
    with tarfile.open(fileobj=plain, mode="r|", tarinfo=_Header) as tar:
        for header in tar:
            content = _content(tar, header, budget)
            if content is None:
                continue
            name = posixpath.join(prefix, posixpath.normpath(header.name))
            if not _is_archive(name):
                yield name, header.size, content
            elif depth < _DEPTH_MAX:
                yield from _walk(content, name, budget, depth + 1)
            else:
                raise ContractError(f"{budget.archive} must not nest archives deeper than {_DEPTH_MAX}, got {name}.")
            tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every header otherwise: memory would grow with the archive
    _drain(plain, budget)


def _content(tar: tarfile.TarFile, header: tarfile.TarInfo, budget: _Budget) -> IO[bytes] | None:
    """The content of a file; None for a folder; whatever else is refused."""
    if header.name.startswith("/") or ".." in header.name.split("/") or "\\" in header.name:
        raise ContractError(f"{budget.archive} must hold relative names without '..', got {header.name!r}.")
    if header.isdir():
        return None
    if not header.isreg() or header.issparse():
        raise ContractError(f"{budget.archive} must hold plain files only, got a link or device: {header.name!r}.")
    budget.spend(header.size)
    return tar.extractfile(header)


def _is_archive(name: str) -> bool:
    return name.endswith((".tar", ".tar.gz", ".tgz"))


def _unzipped(file: IO[bytes]) -> IO[bytes]:
    magic = file.peek(2)[:2]  # type: ignore[attr-defined]
    return gzip.GzipFile(fileobj=file) if magic == _GZIP_MAGIC else file  # type: ignore[return-value]


def _drain(file: IO[bytes], budget: _Budget) -> None:
    """Read what follows the tar's end, so that gzip compares its checksum."""
    while chunk := file.read(2**16):
        budget.spend(len(chunk))


@contextlib.contextmanager
def _damage(archive: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ContractError(
            f"{archive} must be a whole tar or tar.gz, got a damaged one: {error}. Get it anew."
        ) from None


def _inside(folder: Path, name: str) -> Path:
    path = (folder / name).resolve(strict=True)
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"{folder / name} must not lead out of its folder, got a link to elsewhere. Copy the file.")
    if not path.is_file():
        raise ValueError(f"{folder / name} must be a regular file, got something else. Remove it.")
    return path


@contextlib.contextmanager
def _writer(file: IO[bytes]) -> Iterator[tarfile.TarFile]:
    with tarfile.open(fileobj=file, mode="w:", format=tarfile.USTAR_FORMAT) as tar:
        yield tar


def _copy(tar: tarfile.TarFile, file: IO[bytes], archive: str, name: str, source: Path) -> Member:
    with source.open("rb") as content:
        return _append(tar, file, archive, name, source.stat().st_size, content)


def _append(tar: tarfile.TarFile, file: IO[bytes], archive: str, name: str, size: int, content: IO[bytes]) -> Member:
    if size >= _MEMBER_MAX:
        raise ContractError(f"{name} must have less than {_MEMBER_MAX} bytes to be packed, got {size}. Split it.")
    header = tarfile.TarInfo(name)  # its times and owners are zero, its mode 0644
    header.size = size
    offset = file.tell() + _BLOCK
    tar.addfile(header, content)
    tar.members = []  # type: ignore[attr-defined]
    return Member(archive, name, offset, size)
