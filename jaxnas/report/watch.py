"""The report of a run while it runs: a small server whose page updates itself."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import socketserver
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from jaxnas.errors import RunError
from jaxnas.report.page import embedded, page
from jaxnas.report.payload import payload, waiting
from jaxnas.runs import reading as runs

_READ = ("config.json", "history.jsonl", "result.json", "final_arch.json")
_LOCAL = ("127.0.0.1", "localhost", "::1")
_MOST = 32  # connections at a time
_PATIENCE = 10.0  # seconds that a client may keep silent


class Source:
    """A run's payload and page, made anew only when a file of the run has changed."""

    def __init__(self, run: str | os.PathLike):
        self.run = Path(run)
        self._lock = threading.Lock()
        self._known: tuple[Any, dict[str, Any], bytes, str] | None = None
        self._page: tuple[bytes, str] | None = None

    def get(self) -> tuple[bytes, str]:
        """The payload as JSON, and a revision that changes whenever the JSON does.

        A run that is damaged, or is being written at this moment, gives `{"error": message}`.
        """
        with self._lock:
            return self._current()[1:]

    def page(self) -> tuple[bytes, str]:
        """The page, and a revision as `get` gives it."""
        with self._lock:
            data, _, revision = self._current()
            if self._page is None or self._page[1] != revision:
                shown = {**waiting(self.run), "live": True, **({} if "error" in data else data)}
                self._page = (page(shown).encode("utf-8"), revision)
            return self._page

    def _current(self) -> tuple[dict[str, Any], bytes, str]:
        files = self._files()
        if self._known is None or self._known[0] != files:
            data = self._read()
            body = embedded(data).encode("ascii")
            self._known = (files, data, body, f'"{hashlib.sha256(body).hexdigest()[:20]}"')
        return self._known[1:]

    def _read(self) -> dict[str, Any]:
        try:
            return waiting(self.run) if not_begun(self.run) else payload(self.run)
        except (RunError, OSError) as e:
            return {"error": str(e)}

    def _files(self) -> list[tuple[str, int, int, bool]]:
        """What changes when something is new: the state of the files read, and whether a process works on the run."""
        found = []
        for folder in (self.run, *runs.trainings(self.run)):
            for name in (*_READ, "run.lock"):
                try:
                    stat = (folder / name).stat()
                    held = name == "run.lock" and runs.working(folder)
                except OSError:
                    continue  # there is none
                found.append((str(folder / name), stat.st_mtime_ns, stat.st_size, held))
        return found


def not_begun(run: Path) -> bool:
    """Whether a folder does not exist yet, or holds nothing of a run yet."""
    if not run.exists():
        return True
    return run.is_dir() and all(file.name == "run.lock" or file.name.startswith(".") for file in run.iterdir())


class Server(ThreadingHTTPServer):
    """Serves the page of one run at `/` and its data at `/data.json`.

    It has a bounded number of threads. A client that comes when all are busy takes the place of the one that has been
    silent for longest; if all are being answered, it is asked to try again.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, run: str | os.PathLike, host: str, port: int):
        self.source = Source(run)
        self.host = host
        self._open: dict[Any, bool] = {}  # connections, oldest first, and whether they have asked for something
        self._door = threading.Lock()
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, port), Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Gives a connection a thread."""
        with self._door:
            idle = [known for known, asked in self._open.items() if not asked]
            full = len(self._open) >= _MOST
            if full and idle:
                del self._open[idle[0]]
                with contextlib.suppress(OSError):
                    idle[0].shutdown(socket.SHUT_RDWR)  # its thread then ends
            if not full or idle:
                self._open[request] = False
        if full and not idle:
            with contextlib.suppress(OSError):
                request.sendall(b"HTTP/1.0 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n")
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Ends a connection."""
        with self._door:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def is_asked(self, request: Any) -> None:
        """Notes that a connection has sent a request: it keeps its place until it is answered."""
        with self._door:
            if request in self._open:
                self._open[request] = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A page that was closed during the answer is no error."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer's would look the host's name up
        self.server_name, self.server_port = self.host, self.server_address[1]

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD."""

    server: Server
    timeout = _PATIENCE

    def do_GET(self) -> None:
        self.server.is_asked(self.request)
        path = self.path.partition("?")[0]
        if not self._known_host():
            self._answer(403, "text/plain", b"This server answers to localhost only.")
        elif path in ("/", "/data.json"):
            source, kind = self.server.source, "application/json" if path != "/" else "text/html; charset=utf-8"
            body, revision = source.page() if path == "/" else source.get()
            if self.headers.get("If-None-Match") == revision:
                self._answer(304, None, b"", revision)
            else:
                self._answer(200, kind, body, revision)
        else:
            self._answer(404, "text/plain", b"There is nothing here.")

    do_HEAD = do_GET

    def _known_host(self) -> bool:
        """Refuses names that a foreign site had resolve to this machine (DNS rebinding)."""
        if self.server.host not in _LOCAL:
            return True
        asked = self.headers.get("Host", "")
        return asked.rpartition(":")[0].strip("[]") in _LOCAL or asked in _LOCAL

    def _answer(self, status: int, kind: str | None, body: bytes, revision: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        if revision is not None:
            self.send_header("ETag", revision)
        if kind is not None:
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: a line per second would hide what matters."""


def make_server(run: str | os.PathLike, host: str = "127.0.0.1", port: int = 8080) -> Server:
    """A server that listens; `serve_forever` then answers.

    Raises:
      RunError: if `run` exists and is neither a run directory nor an empty folder, if the port cannot be listened on,
        or if plotly is not installed.
    """
    if not host.strip():
        raise RunError("the host is empty, which would let everyone in; 127.0.0.1 is this machine, 0.0.0.0 everyone.")
    if not not_begun(Path(run)):
        runs.read_config(run)
        runs.read_space(run)
    page(waiting(run))  # to report now if something is not installed
    try:
        return Server(run, host, port)
    except OverflowError:
        raise RunError(f"port {port}: expected 0 to 65535.") from None
    except (OSError, ValueError, TypeError) as e:  # the latter of what is no name of a host
        reason = e.strerror if isinstance(e, OSError) and e.strerror else e
        raise RunError(
            f"cannot listen on port {port} of {host[:200]}: {reason}. Give another port; 0 takes a free one."
        ) from None


def serve(run: str | os.PathLike, host: str = "127.0.0.1", port: int = 8080) -> None:
    """Serves a run's report until Ctrl-C, and prints its address.

    Args:
      run: run directory, or a folder in which a run will begin, which need not exist yet.
      host: what to listen on; the default can only be reached from this machine.
      port: 0 takes a free one.

    Raises:
      RunError: as `make_server`.
    """
    with make_server(run, host, port) as server:
        print(f"watching {run} at {server.url} (Ctrl-C ends it)", flush=True)
        if not Path(run).exists():
            print(f"{run} does not exist yet: the page waits for a run to begin in it", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
