"""The ``forwarder`` command, and ``forwarder serve``, which runs gunicorn."""

from __future__ import annotations

import os
import sys

import click

from forwarder import __version__
from forwarder.config import gunicorn_conf

APPLICATION = "forwarder.wsgi:app"


class LazyGroup(click.Group):
    """A group that imports its other commands only when they are needed.

    They import the application, which takes more than a second; ``serve`` leaves that to gunicorn.
    """

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of this name; for all but ``serve``, this imports the application."""
        if cmd_name not in self.commands:
            self._add_commands()
        return super().get_command(ctx, cmd_name)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        self._add_commands()
        return super().list_commands(ctx)

    def _add_commands(self) -> None:
        from forwarder.app import build_commands
        from forwarder.cli.check import check

        for command in (check, *build_commands()):
            self.add_command(command)


@click.group("forwarder", cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="forwarder")
def main() -> None:
    """Translate between OpenAI's Chat Completions and Responses APIs.

    Reads settings from the environment and from the file .env in the current directory.
    """


@main.command("serve")
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
