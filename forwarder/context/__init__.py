"""The record of one request while it is served, and what observes it."""
