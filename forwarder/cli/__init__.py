"""The ``forwarder`` command. ``flask --app wsgi`` also offers its subcommands."""
