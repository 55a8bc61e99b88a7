"""Runs the forwarder in threads of the test process, behind a real socket."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from werkzeug.serving import WSGIRequestHandler, make_server

from forwarder.app import create_app
from forwarder.config.settings import Settings
from forwarder.server.extension import get_extension


class _Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: object) -> None:
        """Log nothing."""


_NO_BREAKERS = {f"{name}_BREAKER_{setting}": "0" for name in ("CHAT", "RESPONSES")
                for setting in ("FAILURES", "SHARE")}  # fmt: skip
"""Settings without breakers, because upstreams fail on purpose."""


@contextmanager
def host_forwarder(environment: Mapping[str, str]) -> Iterator[str]:
    """Run the forwarder with these settings. Yields its URL without a trailing slash."""
    app = create_app(Settings.from_env({**_NO_BREAKERS, **environment}))
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_Quiet)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        get_extension(app).services.close()  # the application never closes them
