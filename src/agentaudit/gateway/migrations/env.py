"""Runs migrations on the connection that `gateway.state_database` has opened and locked.

Alembic executes this file. All of an upgrade is one transaction, in SQLite too.
"""

from alembic import context

from agentaudit.gateway.state_tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
