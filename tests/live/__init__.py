"""Tests of the whole program, over real HTTP and with real clients."""
