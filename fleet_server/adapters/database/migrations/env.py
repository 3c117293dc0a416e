"""Run migrations on the connection that migrate() or a test hands over."""

from alembic import context
from sqlmodel import SQLModel

from fleet_server.adapters.database import tables

__all__ = ["tables"]

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=SQLModel.metadata,
    render_as_batch=True,
    user_module_prefix="",
    compare_type=True,
)
context.run_migrations()
