"""Get one file from a list of mirrors: resumed where it broke off, its length and checksum checked."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import requests
from tqdm import tqdm
from urllib3.exceptions import HTTPError

_CHUNK: Final = 2**20  # bytes
_TIMEOUT_S: Final = 60  # without a single byte
_RESUMES: Final = 50  # of one mirror, each of which brought something
_OK, _PARTIAL, _BEYOND_END = 200, 206, 416  # HTTP status (RFC 9110)


class _BrokeOffError(ConnectionError):
    """The connection ended within the file: what came is kept, the same mirror may go on."""


def get(mirrors: Sequence[str], sha256: str | None, folder: Path, max_bytes: int) -> tuple[Path, str]:
    """The file from the first mirror that gives it whole.

    What a broken download has got is kept in `folder` and the next call goes on from there, if the checksum is known:
    only then the bytes of two answers can be joined safely.

    Parameters
    ----------
    mirrors
        http or https addresses of the same file, the preferred one first.
    sha256
        What the file must have, hexadecimal; None accepts any file whose length is as the server states.
    folder
        Where unfinished downloads are kept.
    max_bytes
        A larger file is refused.

    Returns
    -------
    path, sha256
        The file within `folder`, and the checksum it has.

    Raises
    ------
    ValueError
        There is no mirror.
    ConnectionError
        No mirror gave the file; the message names each one and what happened.
    """
    if not mirrors:
        raise ValueError("mirrors must name at least one address, got none. Add one or give a local path.")
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{sha256 or hashlib.sha256(' '.join(mirrors).encode()).hexdigest()}.part"
    failures = []
    for mirror in mirrors:
        try:
            return part, _from_mirror(mirror, sha256, part, max_bytes)
        except ConnectionError as error:
            failures.append(f"{mirror}: {error}")
    raise ConnectionError(
        f"the file must come whole from one of {len(mirrors)} mirror(s), got " + "; ".join(failures) + ". "
        "Try again later (what came is kept), add a mirror, or give a local path."
    )


def _from_mirror(url: str, sha256: str | None, part: Path, max_bytes: int) -> str:
    if sha256 is None:
        part.unlink(missing_ok=True)
    resumed = _size(part) > 0
    _complete(url, part, max_bytes, pinned=sha256 is not None)
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 in (None, found):
        return found
    part.unlink()
    if resumed:  # the fault may lie in what was there before: once more, all from this mirror
        return _from_mirror(url, sha256, part, max_bytes)
    raise ConnectionError(f"another file, with sha256 {found}")


def _complete(url: str, part: Path, max_bytes: int, pinned: bool) -> None:
    for resume in range(_RESUMES + 1):
        before = _size(part)
        try:
            return _receive(url, part, max_bytes, pinned)
        except _BrokeOffError:
            if _size(part) == before or resume == _RESUMES:
                raise


def _receive(url: str, part: Path, max_bytes: int, pinned: bool) -> None:
    start = _size(part)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT_S) as answer:
            if answer.status_code == _BEYOND_END and answer.headers.get("Content-Range") == f"bytes */{start}":
                return  # all of it is here already
            if answer.status_code == _BEYOND_END:
                part.unlink()
                raise _BrokeOffError(f"it has fewer than the {start} bytes got before")
            start = _start(answer, start)
            total = _total(answer, start, max_bytes, pinned)
            _write(answer, part, start, total, max_bytes)
    except requests.RequestException as error:
        raise ConnectionError(_reason(error)) from None
    if total is not None and _size(part) != total:
        raise _BrokeOffError(f"truncated: {_size(part)} of {total} bytes")


def _start(answer: requests.Response, asked: int) -> int:
    """Where in the file the answer's first byte stands."""
    if answer.status_code == _OK:
        return 0
    if answer.status_code != _PARTIAL:
        raise ConnectionError(f"{answer.status_code} {answer.reason}")
    if not answer.headers.get("Content-Range", "").startswith(f"bytes {asked}-"):
        raise ConnectionError(f"another range than asked for: {answer.headers.get('Content-Range')}")
    return asked


def _total(answer: requests.Response, start: int, max_bytes: int, pinned: bool) -> int | None:
    length = answer.headers.get("Content-Length", "")
    if not length.isdecimal():
        if pinned:
            return None  # the checksum tells
        raise ConnectionError("it states no length, and without a sha256 a truncated file could not be told")
    total = start + int(length)
    if total > max_bytes:
        raise ConnectionError(f"larger than allowed: {total} of {max_bytes} bytes")
    return total


def _write(answer: requests.Response, part: Path, start: int, total: int | None, max_bytes: int) -> None:
    bar = tqdm(desc=part.name[:12], total=total, initial=start, unit="B", unit_scale=True, disable=None)
    try:
        with bar, part.open("r+b" if start else "wb") as file:
            file.seek(start)
            for chunk in answer.raw.stream(_CHUNK, decode_content=False):
                if file.tell() + len(chunk) > max_bytes:
                    raise ConnectionError(f"larger than allowed: more than {max_bytes} bytes")
                file.write(chunk)
                bar.update(len(chunk))
    except (HTTPError, requests.RequestException) as error:
        raise _BrokeOffError(f"broke off after {_size(part)} of {total} bytes: {_reason(error)}") from None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _reason(error: Exception) -> str:
    """The innermost words of a network error; the outer ones repeat the address."""
    inner = error
    while isinstance(getattr(inner, "reason", None) or (inner.args or [None])[0], Exception):
        inner = getattr(inner, "reason", None) or inner.args[0]
    return f"{type(inner).__name__}: {str(inner).split('>: ')[-1]}"
