"""The wire APIs: parameters, events, usage, errors, terminal events."""
