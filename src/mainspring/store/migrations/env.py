"""Where alembic meets our connection: `schema.migrate` opens the transaction and passes it in."""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
