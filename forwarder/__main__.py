"""Runs the ``forwarder`` command as ``python -m forwarder``."""

from forwarder.cli.main import main

main(prog_name="python -m forwarder")
