"""The pages of a store on this machine's loopback, made anew at every request: to look at while trials run."""

from __future__ import annotations

import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from d90.errors import D90Error, InputError
from d90.report.store import store_pages
from d90.trials.store import Store

__all__ = ["serving"]

REFRESH = 5  # seconds after which the index is asked for again


def serving(path: str | os.PathLike[str], port: int = 0) -> ThreadingHTTPServer:
    """A server of a store's pages at 127.0.0.1, not begun: call its `serve_forever`.

    Args:
        path: of the store.
        port: 0 for any that is free.

    Raises:
        InputError: no such store; the port is taken.
    """
    Store(path, write=False).close()
    made = Path(path)

    class Handler(BaseHTTPRequestHandler):
        """Answers GET with a page of the store as it is now, and reads nothing else."""

        def do_GET(self) -> None:
            try:
                store = Store(made, write=False)
                try:
                    pages = store_pages(store, "index.html", REFRESH)
                    page = pages.get(self.path.partition("?")[0].lstrip("/") or "index.html")
                    text, status = (page(), 200) if page else ("no such page", 404)
                finally:
                    store.close()
            except D90Error as error:
                text, status = str(error), 500
            body = text.encode("utf-8", "replace")
            self.send_response(status)
            self.send_header("Content-Type", f"text/{'html' if status == 200 else 'plain'}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: a line a request would hide what the trials say."""

    try:
        return ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except (OSError, OverflowError) as error:
        raise InputError(
            f"port {port} cannot be used ({error}); expected one that is free. Choose another with --port"
        ) from None
