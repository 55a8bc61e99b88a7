"""The migrations, ordered by name: one for each released version, which is never changed."""
