"""The schema migrations: Alembic's environment, and one module for each released version."""
