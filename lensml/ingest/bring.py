"""A source's files into its raw folder: from a local folder, an archive or mirrors, checked and listed."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from tqdm import tqdm

from lensml import config, paths
from lensml.ingest import archive, download
from lensml.schema import ContractError
from lensml.store import tables

MANIFEST: Final = "MANIFEST.json"
INDEX: Final = "index.parquet"
MAX_BYTES: Final = 64 * 2**30  # of one file; the largest data set of one file has 18 GB
_TARS: Final = (".tar", ".tar.gz", ".tgz")
_CHUNK: Final = 2**20

Wanted = Callable[[str], bool]  # of a file's name, relative to the folder or within the archive
_Origin = tuple[Path, dict[str, Any]]  # a file here, and what the manifest says of it


def packed(source: config.FilesSource, wanted: Wanted, licence: str, out: Path, **facts: Any) -> list[archive.Member]:
    """Write the wanted files of a source into tars beside an index and a manifest.

    A folder is packed; a tar is repacked, without what is not wanted; any other file is packed as it is.

    Parameters
    ----------
    facts : more of the manifest's entries

    Raises
    ------
    ValueError, ConnectionError, OSError
        There are no such files, they are damaged, or a checksum is another.
    ContractError
        None of the files is wanted.
    """
    out.mkdir(parents=True, exist_ok=True)
    if source.path is not None and Path(source.path).is_dir():
        folder = Path(source.path)
        names = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
        members = archive.pack(folder, [name for name in names if wanted(name.as_posix())], out / "files-00000.tar")
        origins, files = [{"path": folder.name}], []
    else:
        members, origins, files = [], [], _files(source)
        for number, (file, origin) in enumerate(files):
            members += _into_tar(file, origin["name"], wanted, out / f"files-{number:05d}.tar")
            origins.append(origin)
    if not members:
        raise ContractError(f"{_where(source)} must hold files of this kind of source, got none. Correct the path.")
    _refuse_twice(members)
    archive.write_index(members, out / INDEX)
    tables.write_json({"origins": origins, "licence": licence, **facts, "files": _checksums(out)}, out / MANIFEST)
    _forget(source, files)  # only now: until here a download need not be repeated
    return members


def plain(source: config.FilesSource, licence: str, out: Path, **facts: Any) -> list[Path]:
    """Copy a source's files as they are: what is read in place, such as HDF5.

    Raises
    ------
    ValueError, ConnectionError, OSError
        As `packed`.
    """
    out.mkdir(parents=True, exist_ok=True)
    copies, origins, files = [], [], _files(source)
    for file, origin in files:
        copy = out / _safe(origin["name"])
        if copy.exists():
            raise ContractError(f"{_where(source)} must hold every file once, got {copy.name} twice. Rename one.")
        _copy(file, copy)
        copies.append(copy)
        origins.append(origin)
    _forget(source, files)
    tables.write_json({"origins": origins, "licence": licence, **facts, "files": _checksums(out)}, out / MANIFEST)
    return copies


def members(raw: Path) -> list[archive.Member]:
    """What `packed` has brought."""
    return archive.read_index(raw / INDEX)


def facts(raw: Path) -> dict[str, Any]:
    """The manifest."""
    return tables.read_json(raw / MANIFEST)


def _files(source: config.FilesSource) -> list[_Origin]:
    if source.path is None:
        return [_downloaded(entry) for entry in source.downloads]
    path = Path(source.path)
    if path.is_dir():
        return [(_inside(file, path), {"name": file.name}) for file in sorted(path.iterdir()) if _is_data(file)]
    if not path.exists():
        raise FileNotFoundError(f"{path} must be a folder or a file, got nothing there. Correct the path")
    return [(path, {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)})]


def _forget(source: config.FilesSource, files: list[_Origin]) -> None:
    """Remove what was downloaded, only now: until here it need not be repeated. Equal files are one."""
    for file in {file for file, _ in files} if source.path is None else ():
        file.unlink()


def _is_data(file: Path) -> bool:
    return file.is_file() and not file.name.startswith(".") and file.name != MANIFEST


def _inside(file: Path, folder: Path) -> Path:
    if not file.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{file} must not lead out of its folder, got a link to elsewhere. Copy the file.")
    return file


def _downloaded(entry: config.Download) -> _Origin:
    file, found = download.get(entry.mirrors, entry.sha256, Path(paths.DOWNLOAD), MAX_BYTES)
    address = urlsplit(entry.mirrors[0]).path
    name = "index.html" if address.endswith("/") or not address else Path(address).name
    facts = {"urls": entry.mirrors, "verified": entry.sha256 is not None, "sha256": found}
    return file, {"name": name, "bytes": file.stat().st_size, **facts}


def _into_tar(file: Path, name: str, wanted: Wanted, tar: Path) -> list[archive.Member]:
    if name.endswith(_TARS):
        return archive.repack(file, tar, wanted, MAX_BYTES)
    return archive.pack_one(file, _safe(name), tar) if wanted(name) else []


def _safe(name: str) -> str:
    if not name or name.startswith(".") or "/" in name or "\\" in name:
        raise ValueError(f"a file must have a plain name, got {name!r:.80}. Rename it.")
    return name


def _refuse_twice(members: list[archive.Member]) -> None:
    seen: set[str] = set()
    for member in members:
        if member.name in seen:
            raise ContractError(f"a source must hold every file once, got {member.name} twice. Remove one.")
        seen.add(member.name)


def _where(source: config.FilesSource) -> str:
    return source.path or source.downloads[0].mirrors[0]


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as content, target.open("wb") as file:
        bar = tqdm(total=source.stat().st_size, desc=target.name, unit="B", unit_scale=True, disable=None)
        with bar:
            while chunk := content.read(_CHUNK):
                file.write(chunk)
                bar.update(len(chunk))


def _checksums(out: Path) -> dict[str, Any]:
    files = sorted(path for path in out.iterdir() if path.is_file())
    return {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in files}


def sha256(path: Path) -> str:
    """Of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
