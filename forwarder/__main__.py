"""``python -m forwarder``: the ``forwarder`` command where it is not installed."""

from forwarder.cli.main import main

main(prog_name="python -m forwarder")
