"""The ``forwarder`` command. ``flask --app wsgi`` also offers its subcommands.

`main.py` has the command itself, and each other module a group of subcommands. This module has the
helpers for output that may quote text of remote servers.
"""

from __future__ import annotations

import click

from forwarder.core.terminal_text import escape_control_characters


def print_line(text: str, err: bool = False) -> None:
    """Print a line with its control characters escaped."""
    click.echo(escape_control_characters(text), err=err)
