"""Downloads against a real server on the loopback interface that breaks off, lies, and serves the wrong bytes."""

import hashlib
import http.server
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lensml.ingest import download

CONTENT = np.random.default_rng(3).bytes(300_000)
SHA = hashlib.sha256(CONTENT).hexdigest()
WRONG = bytes(300_000)
BIG = 10**6


class _Handler(http.server.BaseHTTPRequestHandler):
    """The path says how the server behaves."""

    requests: list[tuple[str, str | None]]  # path, Range header

    def do_GET(self) -> None:
        how = self.path.strip("/")
        asked = self.headers.get("Range")
        self.requests.append((how, asked))
        if how in ("404", "500"):
            self.send_error(int(how))
            return
        content = WRONG if how == "wrong" else CONTENT[:-9] if how == "shorter" else CONTENT
        start = 0 if how == "norange" or asked is None else int(re.fullmatch(r"bytes=(\d+)-", asked)[1])  # type: ignore[index]
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self._send(how, content, start)

    def _send(self, how: str, content: bytes, start: int) -> None:
        self.send_response(206 if start else 200)
        if start:
            at = start + 1 if how == "shifted" else start
            self.send_header("Content-Range", f"bytes {at}-{len(content) - 1}/{len(content)}")
        rest = content[start:]
        if how == "encoded":
            self.send_header("Content-Encoding", "gzip")  # as servers say of a .gz file that must stay one
        if how != "nolength":
            self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        limit = {
            "drops": 100_000,
            "liar": max(100_000 - start, 0),
            "norange": 100_000 if len(self.requests) == 1 else None,
            "dead": 0,
        }.get(how)
        self.wfile.write(rest[:limit])

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    _Handler.requests = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as here:
        thread = threading.Thread(target=here.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{here.server_address[1]}"
        here.shutdown()
        thread.join()


@pytest.mark.parametrize("how", ["fine", "drops", "norange", "nolength", "encoded"])
def test_whatever_the_server_does_the_bytes_are_the_file(server: str, tmp_path: Path, how: str) -> None:
    path, sha256 = download.get([f"{server}/{how}"], SHA, tmp_path, BIG)
    assert path.read_bytes() == CONTENT
    assert sha256 == SHA


def test_a_dropped_connection_is_resumed_where_it_broke(server: str, tmp_path: Path) -> None:
    download.get([f"{server}/drops"], SHA, tmp_path, BIG)
    starts = [int(asked[6:-1]) if asked else 0 for _, asked in _Handler.requests]
    assert starts == [0, 100_000, 200_000]


def test_the_next_run_and_the_next_mirror_go_on_from_what_came(server: str, tmp_path: Path) -> None:
    (tmp_path / f"{SHA}.part").write_bytes(CONTENT[:123_456])
    path, _ = download.get([f"{server}/404", f"{server}/fine"], SHA, tmp_path, BIG)
    assert path.read_bytes() == CONTENT
    assert _Handler.requests == [("404", "bytes=123456-"), ("fine", "bytes=123456-")]


def test_a_whole_file_from_a_killed_run_is_not_fetched_again(server: str, tmp_path: Path) -> None:
    (tmp_path / f"{SHA}.part").write_bytes(CONTENT)
    download.get([f"{server}/fine"], SHA, tmp_path, BIG)
    assert _Handler.requests == [("fine", "bytes=300000-")]


@pytest.mark.parametrize("left", [b"x" * 1000, CONTENT + b"x"], ids=["other bytes", "too long"])
def test_a_spoilt_rest_is_thrown_away(server: str, tmp_path: Path, left: bytes) -> None:
    (tmp_path / f"{SHA}.part").write_bytes(left)
    path, _ = download.get([f"{server}/fine"], SHA, tmp_path, BIG)
    assert path.read_bytes() == CONTENT


def test_every_mirror_and_what_happened_is_named(server: str, tmp_path: Path) -> None:
    mirrors = [f"{server}/{how}" for how in ("404", "500", "dead", "wrong", "liar")] + ["http://127.0.0.1:1/x"]
    with pytest.raises(ConnectionError) as caught:
        download.get(mirrors, SHA, tmp_path, BIG)
    words = str(caught.value)
    for mirror in mirrors:
        assert mirror in words
    for what in (
        "404 Not Found",
        "500 Internal",
        hashlib.sha256(WRONG).hexdigest(),
        "100000 of 300000",
        " 0 of 300000",
        "refused",
    ):
        assert what in words
    assert "\n" not in words


def test_wrong_bytes_are_not_kept(server: str, tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match="another file"):
        download.get([f"{server}/wrong"], SHA, tmp_path, BIG)
    assert list(tmp_path.iterdir()) == []


def test_a_bad_mirror_does_not_spoil_a_good_one(server: str, tmp_path: Path) -> None:
    mirrors = [f"{server}/{how}" for how in ("wrong", "shorter", "liar", "fine")]
    path, _ = download.get(mirrors, SHA, tmp_path, BIG)
    assert path.read_bytes() == CONTENT


def test_an_answer_for_another_range_is_refused(server: str, tmp_path: Path) -> None:
    (tmp_path / f"{SHA}.part").write_bytes(CONTENT[:1000])
    with pytest.raises(ConnectionError, match="another range"):
        download.get([f"{server}/shifted"], SHA, tmp_path, BIG)


def test_without_a_checksum_the_hash_found_is_told(server: str, tmp_path: Path) -> None:
    assert download.get([f"{server}/drops"], None, tmp_path, BIG)[1] == SHA


def test_without_a_checksum_nothing_of_another_run_is_joined(server: str, tmp_path: Path) -> None:
    path, _ = download.get([f"{server}/fine"], None, tmp_path, BIG)
    path.write_bytes(b"x" * 1000)
    assert download.get([f"{server}/fine"], None, tmp_path, BIG)[1] == SHA


@pytest.mark.parametrize("how", ["liar", "nolength"])
def test_without_a_checksum_a_truncated_file_does_not_pass(server: str, tmp_path: Path, how: str) -> None:
    with pytest.raises(ConnectionError, match=r"100000 of 300000|states no length"):
        download.get([f"{server}/{how}"], None, tmp_path, BIG)


@pytest.mark.parametrize("how", ["fine", "nolength"])
def test_a_file_over_the_limit_is_refused(server: str, tmp_path: Path, how: str) -> None:
    with pytest.raises(ConnectionError, match="larger than allowed"):
        download.get([f"{server}/{how}"], SHA, tmp_path, 200_000)


def test_no_mirror_is_a_mistake_of_the_parameters(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one address"):
        download.get([], SHA, tmp_path, BIG)
