"""The wire protocols: parameters, events, usage, errors and stream endings."""
