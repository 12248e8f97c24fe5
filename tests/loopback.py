"""An HTTP server on this machine that breaks off, ignores ranges, or sends other ones."""

import http.server
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class Server(http.server.ThreadingHTTPServer):
    """Serves some files and notes which ranges of them were asked for.

    ``/no-ranges`` ignores ranges, ``/wrong-range`` sends another one than it was asked for.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = dict(files)
        self.breaks_after: int | None = None  # bytes of the next answer before it breaks off
        self.asked: list[tuple[str, str | None]] = []

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append((self.path, wanted))
        if self.path not in self.server.files:
            self.send_error(404)
            return
        content = self.server.files[self.path]
        start = 0
        if wanted and self.path != "/no-ranges":
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.end_headers()
                return
            self.send_response(206)
            shown = start + 1 if self.path == "/wrong-range" else start
            self.send_header("Content-Range", f"bytes {shown}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        stop, self.server.breaks_after = self.server.breaks_after, None
        self.wfile.write(content[start:][:stop])

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(files: Mapping[str, bytes]) -> Iterator[Server]:
    with Server(files) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
