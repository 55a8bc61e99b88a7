"""A WSGI application that describes its process, to compare forked servers with fresh ones."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from gevent.monkey._state import saved

from tests.live.nursery import MODULES_OF_EVERY_APPLICATION

for name in ("forwarder.app", "forwarder.server.startup_log", *MODULES_OF_EVERY_APPLICATION):
    import_module(name)

Originals = list[tuple[str, str, object]]


def app(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    body = json.dumps(describe_process()).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


def describe_process() -> dict[str, Any]:
    originals = [
        (module, name, original)
        for module, values in saved.items()
        if module in sys.modules
        for name, original in values.items()
    ]
    status = Path("/proc/self/status").read_text().splitlines()
    return {
        "patched": {
            f"{module}.{name}": describe(getattr(sys.modules[module], name, None))
            for module, name, _ in originals
        },
        "unpatched": find_references(originals),
        "modules": sorted(sys.modules),
        "main thread": describe(threading.main_thread()),
        "current thread": describe(threading.current_thread()),
        "handlers": {each.name: describe(signal.getsignal(each)) for each in signal.Signals},
        "signals": [line for line in status if line.startswith(("SigBlk", "SigIgn", "SigCgt"))],
        "environment": dict(os.environ),
        "arguments": sys.argv,
        "path": sys.path,
        "directory": os.getcwd(),
        "group": os.getpgid(0),
        "garbage": [gc.isenabled(), gc.get_threshold()],
        "encodings": [sys.stdout.encoding, sys.stderr.encoding, sys.getfilesystemencoding()],
    }


def find_references(originals: Originals) -> list[str]:
    """Return the references in modules to original functions that gevent has replaced."""
    names = {id(value): f"{module}.{name}" for module, name, value in originals}
    return sorted(
        f"{module_name}.{name} is {names[id(value)]}"
        for module_name, module in list(sys.modules.items())
        if not module_name.startswith("gevent")
        for name, value in list(vars(module).items())
        if id(value) in names
    )


def describe(value: object) -> str:
    name = getattr(value, "__qualname__", None) or type(value).__qualname__
    return f"{getattr(value, '__module__', None)} {name}"
