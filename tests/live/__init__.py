"""The whole program, over real HTTP and with real clients."""
