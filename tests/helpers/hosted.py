"""The forwarder in a thread of the tests themselves, behind a real socket."""

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
        """Tests have no use for a line for each request."""


_PATIENT = {f"{name}_BREAKER_{knob}": "0" for name in ("CHAT", "RESPONSES")
            for knob in ("FAILURES", "SHARE")}  # fmt: skip
"""Upstreams that fail on purpose are asked all the same."""


@contextmanager
def hosting(environment: Mapping[str, str]) -> Iterator[str]:
    """The forwarder with these settings, in threads; gives its root, without the last slash."""
    app = create_app(Settings.from_env({**_PATIENT, **environment}))
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_Quiet)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        get_extension(app).services.close()  # a program keeps its connections as long as it runs
