"""The path of a request: the order of the stages, and the gateway that drives it."""
