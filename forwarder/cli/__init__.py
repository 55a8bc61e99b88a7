"""The ``forwarder`` command.

A command reads its options, calls the objects of `Services` and prints the result. The work itself
is elsewhere: `models/registration.py`, `client_keys/registry.py`, `usage/report.py`,
`upstream/quirk_probe.py`, `pipeline/dry_run.py`, `server/replay_application.py`. Not here:
``python -m tools.docgen``, which belongs to the development of the code.

**How a command starts:**

1. `main.py` has the group and ``serve``. ``serve`` replaces the process by gunicorn and does not
   import the application: gunicorn's master must not have it, so that workers load the new code
   after a SIGHUP. For each other command, and for ``--help``, `LazyGroup` imports `app.py`, which
   takes more than a second, and adds ``check`` and the commands of `build_commands`.
2. `with_services` (`context.py`) reads the settings, sends log records from WARNING on to standard
   error, builds `Services` and closes them after the command. It does not start them, so no
   background loop runs. `with_settings` is for commands that build their own services (``replay``).
3. ``flask --app wsgi`` has the commands of `build_commands` too, but neither ``serve`` nor
   ``check``. There, `with_services` passes the services of the application that ``flask`` has
   loaded, and does not close them. `create_app` starts them only for ``flask run``.

``check`` uses neither: it parses the settings, those of gunicorn and the file of MCP servers, and
opens no database. ``openapi`` and ``replay`` need functions of `app.py`, which imports this
package; so `app.py` passes them to `make_openapi_command` and `make_replay_command`.

**Rules:**

- Standard output has only the result, so that scripts can read it (the new key of ``keys create``,
  the quirks of ``probe``). Notes and warnings go to standard error.
- Texts of clients and remote servers could control a terminal, so commands print them by
  `print_line` and fail with `CommandError`, both of this module.
- A `ForwarderError` becomes its message and exit code 1 (`run_or_fail` in `models.py`). Invalid
  settings become the list of all mistakes and exit code 2 (`InvalidConfiguration` in `check.py`).
  ``models check`` exits with 1 if a check fails. ``replay`` exits with 1 if the answers differ, and
  with 2 if it cannot compare them.
- The key of a provider or a client comes from a prompt, a variable or standard input. A key on the
  command line is refused, because other users and the shell's history can see it. In this version,
  ``replay --key`` only warns of that.
- For keys and models, an option becomes a field of the body that the API has, and the same object
  validates it.

**To add a command:** a module here with a click command under `with_services`, its row in
`build_commands` of `app.py` (or in ``_add_commands`` of `LazyGroup`, if ``flask`` should not have
it), and tests in ``tests/cli``; `tests/test_imports.py` fails if the module has none. A missing row
is noticed only by a test that runs the command through `main`; add its name to the list in
`tests/cli/test_main.py`. The command's docstring is its ``--help``.
"""

from __future__ import annotations

import click

from forwarder.core.terminal_text import escape_control_characters


class CommandError(click.ClickException):
    """A failure of a command. Its message is printed in one line, without control characters."""

    def __init__(self, message: str) -> None:
        super().__init__(escape_control_characters(" ".join(message.split())))


def print_line(text: str, err: bool = False) -> None:
    """Print a line with its control characters escaped."""
    click.echo(escape_control_characters(text), err=err)
