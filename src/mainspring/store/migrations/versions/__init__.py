"""Migrations: append-only, never edited once released."""
