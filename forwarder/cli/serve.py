"""``forwarder serve``: replaces the process by gunicorn with the forwarder's configuration."""

from __future__ import annotations

import os
import sys

import click

from forwarder.config import gunicorn_conf

APPLICATION = "forwarder.wsgi:app"


@click.command("serve")
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on.  [default: 8000]")
@click.option("--workers", type=click.IntRange(1), help="Number of processes.  [default: 1]")
def serve(host: str | None, port: int | None, workers: int | None) -> None:
    """Serve the forwarder with gunicorn.

    The options override GUNICORN_BIND and WEB_CONCURRENCY.  All other settings of gunicorn are
    variables too; gunicorn's own options can be given in GUNICORN_CMD_ARGS.  Without settings it
    answers from the built-in demo upstream.
    """
    # A new process image, since gunicorn's master must not have the application imported: after a
    # SIGHUP its workers load the code and the settings that are there by then.
    command = [sys.executable, "-m", "gunicorn", "--config", gunicorn_conf.__file__]
    if host is not None or port is not None:
        address = host or "127.0.0.1"
        address = f"[{address}]" if ":" in address else address
        command += ["--bind", f"{address}:{8000 if port is None else port}"]
    if workers is not None:
        command += ["--workers", str(workers)]
    os.execv(sys.executable, [*command, APPLICATION])  # noqa: S606
