"""A web server on the loopback interface that drops connections, lies about lengths and serves wrong bytes."""

import hashlib
import http.server
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

BEHAVIOURS = ("fine", "drops", "liar", "shorter", "wrong", "dead")  # the first part of an address


@dataclass(frozen=True)
class BadServer:
    """Addresses of the files it has, and what it was asked for: behaviour and first byte."""

    root: str
    files: Mapping[str, bytes]
    requests: list[tuple[str, int]] = field(default_factory=list)

    def url(self, behaviour: str, name: str) -> str:
        """Of one file: `fine`; `drops` a third of it at a time; `liar`: ends early, for good; `shorter`: says that it
        is 9 bytes shorter; `wrong`: other bytes of its length; `dead`: no byte."""
        return f"{self.root}/{behaviour}/{name}"

    def mirrors(self, name: str) -> list[str]:
        """All ways to fail, and then one that breaks off but can be resumed."""
        return [self.url(how, name) for how in ("dead", "wrong", "shorter", "liar", "drops")]

    def sha256(self, name: str) -> str:
        return hashlib.sha256(self.files[name]).hexdigest()


@contextmanager
def serve(files: Mapping[str, bytes]) -> Iterator[BadServer]:
    """Serve the files until the block is left."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as here:
        server = BadServer(f"http://127.0.0.1:{here.server_address[1]}", files)
        here.bad = server  # type: ignore[attr-defined]
        thread = threading.Thread(target=here.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            here.shutdown()
            thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        bad: BadServer = self.server.bad  # type: ignore[attr-defined]
        how, name = self.path.strip("/").split("/")
        whole = bad.files[name]
        content = {"wrong": bytes(len(whole)), "shorter": whole[:-9]}.get(how, whole)
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "bytes=0-")
        start = int(asked[1]) if asked else 0
        bad.requests.append((how, start))
        if start and start >= len(content):
            self._head(416, {"Content-Range": f"bytes */{len(content)}", "Content-Length": "0"})
            return
        place = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
        self._head(206 if start else 200, {"Content-Length": str(len(content) - start), **place})
        third = len(whole) // 3 + 1
        limit = {"drops": third, "liar": max(third - start, 0), "dead": 0}.get(how)
        self.wfile.write(content[start:][:limit])

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *words: object) -> None:
        pass
