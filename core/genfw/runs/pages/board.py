"""A run's report, served on loopback while the run goes on; the page fetches itself again when the files change."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from genfw.runs.directory import RunDirectory
from genfw.runs.pages.report import report_text

_HOST = "127.0.0.1"


class Board:
    """A server of one run's report. Only this machine reaches it, and it changes nothing.

    Arguments:
        directory: The run directory, or a saved model's folder.
        port: Port to listen at; 0 takes a free one.

    Raises:
        RunError: It is no run directory.
        OSError: The port is taken.
    """

    def __init__(self, directory: str | Path, port: int = 0) -> None:
        self.run_dir = RunDirectory.open(directory)
        self._server = ThreadingHTTPServer((_HOST, port), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://{_HOST}:{self._server.server_port}/"

    def stamp(self) -> str:
        """What changes whenever a file that the report shows does."""
        run_dir = self.run_dir
        files = [run_dir.metrics, run_dir.events, run_dir.evaluation, run_dir.path / "STATUS", run_dir.samples]
        return "-".join(str(path.stat().st_mtime_ns) if path.exists() else "0" for path in files)

    def page(self) -> str:
        """The report as it is now."""
        stamp = self.stamp()  # before reading, so that what is written meanwhile is fetched again
        return report_text(self.run_dir, stamp=stamp)

    def serve(self) -> None:
        """Answer until :meth:`close`."""
        self._server.serve_forever(poll_interval=0.2)

    def start(self) -> None:
        """Answer in the background until :meth:`close`."""
        threading.Thread(target=self.serve, daemon=True).start()

    def close(self) -> None:
        """Stop answering; waits for :meth:`serve` to return."""
        self._server.shutdown()
        self._server.server_close()


def _handler(board: Board) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """``/`` is the page, ``/stamp`` its stamp."""
            # A page of another site that a browser shows may not read this one by a name that leads here.
            if self.headers.get("Host", "").rpartition(":")[0] not in (_HOST, "localhost"):
                self.send_error(403)
            elif self.path == "/":
                self._answer(board.page(), "text/html; charset=utf-8")
            elif self.path == "/stamp":
                self._answer(board.stamp(), "text/plain")
            else:
                self.send_error(404)

        def _answer(self, text: str, kind: str) -> None:
            content = text.encode()
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing of each request."""

    return Handler
