"""A small JSON server on a free port of the loopback interface, in threads of this process."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HOST = "127.0.0.1"
MOST_BYTES = 10_000


class Refused(Exception):
    """The request can't be done; becomes an answer with this HTTP status."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


Answer = Callable[[str, Any, dict[str, Any]], dict[str, Any]]
"""(path, headers, body) to the answer; raises :class:`Refused`."""


@contextmanager
def serve(answer: Answer) -> Iterator[str]:
    """Yields the server's URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply({})

        def do_POST(self) -> None:
            length = min(int(self.headers.get("Content-Length") or 0), MOST_BYTES)
            self._reply(json.loads(self.rfile.read(length) or b"{}"))

        def _reply(self, body: dict[str, Any]) -> None:
            try:
                status, reason, found = 200, "OK", answer(self.path, self.headers, body)
            except Refused as refused:
                status, reason, found = refused.status, refused.reason, {}
            text = json.dumps(found).encode()
            try:
                self.send_response(status, reason)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)
            except ConnectionError:
                return  # who asked was killed meanwhile: part of the show

        def log_message(self, *args: object) -> None:
            return

    server = ThreadingHTTPServer((HOST, 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
