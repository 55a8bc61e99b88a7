"""The migrations, ordered by name. A released migration is never changed."""
