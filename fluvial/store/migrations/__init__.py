"""Alembic's environment. Migrations are only ever added: old databases must open for ever."""
