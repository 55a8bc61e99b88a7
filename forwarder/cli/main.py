"""The ``forwarder`` command."""

from __future__ import annotations

import click

from forwarder import __version__
from forwarder.app import make_app
from forwarder.cli.check import check
from forwarder.cli.models import build_keys_group, build_models_group
from forwarder.cli.replay import make_replay_command
from forwarder.cli.serve import serve
from forwarder.cli.upstream import build_probe_command, build_translate_command


@click.group("forwarder", context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="forwarder")
def main() -> None:
    """Translate between OpenAI's Chat Completions and Responses APIs.

    Reads settings from the environment and from the file .env in the current directory.
    """


for _command in (
    serve,
    check,
    build_probe_command,
    build_translate_command,
    build_models_group,
    build_keys_group,
    make_replay_command(make_app),
):
    main.add_command(_command)
