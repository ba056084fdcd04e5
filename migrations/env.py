"""Alembic's entry: runs the history over the connection the store gives, or one made from the settings."""

from alembic import context
from sqlalchemy import Connection, text

from allocator.store.migrate import note_oldest_code
from allocator.store.tables import metadata

UPGRADE_LOCK = 7_253_041_881  # any number, the same for all upgraders


def run(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        # Of several upgraders one works, the others wait and then find nothing to do. (SQLite: BEGIN
        # IMMEDIATE.)
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": UPGRADE_LOCK})
    context.configure(
        connection=connection,
        target_metadata=metadata,
        render_as_batch=connection.dialect.name == "sqlite",
        transactional_ddl=True,
        compare_type=True,
    )
    with context.begin_transaction():
        context.run_migrations()
        note_oldest_code(connection, context.script)


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    from allocator.base.settings import Settings
    from allocator.store.database import Database

    with Database(Settings().sqlalchemy_url).write() as own:
        run(own)
