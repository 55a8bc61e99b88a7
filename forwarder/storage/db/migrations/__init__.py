"""How the tables came to be: Alembic's environment, and one module for each step."""
