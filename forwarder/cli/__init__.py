"""The ``forwarder`` command; ``flask --app wsgi`` has the same subcommands beside Flask's own."""
