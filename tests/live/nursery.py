"""A process that imports the libraries of servers once and forks servers.

A fresh server spends most of its start importing the application, in each of its workers. In a
forked server the modules are imported already, after gevent has patched the standard library, as in
a worker. Until its worker starts, the original functions are restored, as in gunicorn's master. Each
worker still creates the application, with its settings, database and event loop.

``python -m tests.live.nursery`` reads requests from its standard input, one JSON value a line, and
answers each with a line.  It imports only what gunicorn's master imports too, because gevent would
patch other modules differently.
"""

from __future__ import annotations

import atexit
import functools
import gc
import json
import os
import sys
import threading
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from gevent import _hub_local, monkey
from gevent.monkey._state import saved

THREAD_MODULES = ("threading", "_thread", "_threading_local", "logging")
"""Modules that stay patched in the master, because gevent has changed the id of its only thread."""

MODULES_OF_EVERY_APPLICATION = ("forwarder.server.rate_limit", "openai.resources.chat")
"""Modules that are imported while an application is created."""

_MISSING = object()


def import_libraries() -> None:
    """Import the master's modules, then patch with gevent and import the worker's modules."""
    for name in ("gunicorn.app.wsgiapp", "gunicorn.arbiter", "forwarder.server.gunicorn_worker"):
        import_module(name)
    monkey.patch_all()
    for name in ("forwarder.app", "forwarder.server.startup_log", *MODULES_OF_EVERY_APPLICATION):
        import_module(name)
    prepare_applications()

    originals = [
        (sys.modules[module_name], name, original)
        for module_name, values in saved.items()
        if module_name in sys.modules and module_name not in THREAD_MODULES
        for name, original in values.items()
    ]
    patched = [(module, name, getattr(module, name, _MISSING)) for module, name, _ in originals]
    set_attributes(originals)
    monkey.patch_all = functools.partial(set_attributes, patched)  # a worker calls it at its start


def prepare_applications() -> None:
    """Do the work once that takes most of the creation of an application."""
    application = import_module("forwarder.app")
    rules = import_module("tests.helpers.url_rules")
    rules.Rule.compile = rules.make_caching_compile()
    application.register_routes(application.Application("forwarder"))

    services = import_module("forwarder.services")
    services.token_urlsafe = lambda size: "x" * size  # the secret of databases that have none
    import_module("forwarder.core.encryption").stretch_secret(services.token_urlsafe(32))


def set_attributes(values: Sequence[tuple[Any, str, Any]]) -> None:
    for module, name, value in values:
        if value is _MISSING:
            delattr(module, name)
        else:
            setattr(module, name, value)


def serve_fork_requests() -> None:
    """Fork a server for each request; return in each server.

    A request is an object with ``arguments``, ``environment`` and ``log`` (the answer is the id of
    the new process), or the id of a process (the answer is its exit code, or null while it runs).
    """
    for line in sys.stdin:
        request = json.loads(line)
        if isinstance(request, int):
            pid, status = os.waitpid(request, os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if not answer:
                become_server(**request)
                return
        print(json.dumps(answer), flush=True)
    os._exit(0)  # without the exit functions, which only servers need


def become_server(arguments: Sequence[str], environment: dict[str, str], log: str) -> None:
    """Take over the arguments, the environment and the files of a fresh process."""
    coerced = {name: value for name, value in os.environ.items() if name == "LC_CTYPE"}
    os.environ.clear()
    os.environ.update(coerced | environment)
    sys.argv[1:] = arguments
    null = os.open(os.devnull, os.O_RDWR)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    for file, standard in ((null, 0), (output, 1), (output, 2)):
        os.dup2(file, standard)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))


def main() -> None:
    """Run gunicorn in each process that was forked."""
    import_libraries()
    # A fork does not copy threads, and a copied event loop does not work.
    assert threading.active_count() == 1
    assert _hub_local.get_hub_if_exists() is None
    gc.collect()
    gc.freeze()
    gunicorn = import_module("gunicorn.__main__")
    sys.argv[0] = str(gunicorn.__file__)
    serve_fork_requests()
    try:
        gunicorn.run(prog="gunicorn")
    except SystemExit as end:
        end_process(end.code)


def end_process(code: object) -> None:
    """Exit like the interpreter, but without freeing objects, which would copy all memory pages."""
    if isinstance(code, str):
        print(code, file=sys.stderr)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for file in (sys.stdout, sys.stderr):
        file.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    main()
