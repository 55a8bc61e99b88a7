"""Calls to upstreams through the official SDK."""
