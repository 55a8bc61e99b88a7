"""Settings from the environment: one declaration each."""
