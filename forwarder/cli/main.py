"""The ``forwarder`` command, and ``forwarder serve``, which runs gunicorn."""

from __future__ import annotations

import os
import sys

import click

from forwarder import __version__
from forwarder.app import answer_replay, make_app
from forwarder.cli.check import check
from forwarder.cli.keys import keys_group, secrets_group
from forwarder.cli.models import models_group
from forwarder.cli.openapi import make_openapi_command
from forwarder.cli.replay import make_replay_command
from forwarder.cli.upstream import probe_command, translate_command
from forwarder.cli.usage import print_usage
from forwarder.config import gunicorn_conf

APPLICATION = "forwarder.wsgi:app"


@click.group("forwarder", context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="forwarder")
def main() -> None:
    """Translate between OpenAI's Chat Completions and Responses APIs.

    Reads settings from the environment and from the file .env in the current directory.
    """


@click.command("serve")
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on.  [default: 8000]")
@click.option("--workers", type=click.IntRange(1), help="Number of processes.  [default: 1]")
def serve(host: str | None, port: int | None, workers: int | None) -> None:
    """Serve the forwarder with gunicorn.

    The options override GUNICORN_BIND and WEB_CONCURRENCY. Other gunicorn settings have variables
    too; GUNICORN_CMD_ARGS takes gunicorn's own options. Without a configured upstream, the
    built-in demo answers.
    """
    # exec, since gunicorn's master must not import the application: after SIGHUP, its workers load
    # the new code and settings.
    command = [sys.executable, "-m", "gunicorn", "--config", gunicorn_conf.__file__]
    if host is not None or port is not None:
        address = host or "127.0.0.1"
        address = f"[{address}]" if ":" in address else address
        command += ["--bind", f"{address}:{8000 if port is None else port}"]
    if workers is not None:
        command += ["--workers", str(workers)]
    os.execv(sys.executable, [*command, APPLICATION])  # noqa: S606


for _command in (
    serve,
    check,
    probe_command,
    translate_command,
    models_group,
    keys_group,
    secrets_group,
    print_usage,
    make_openapi_command(make_app),
    make_replay_command(answer_replay),
):
    main.add_command(_command)
