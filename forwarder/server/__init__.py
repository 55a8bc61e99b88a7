"""Flask blueprints, one for each API family; thin: they read requests and write answers."""
