"""Since when a device has its labels, and which package a rollout offered it last."""

import sqlalchemy as sa
from alembic import op
from sqlmodel.sql.sqltypes import AutoString, UTCDateTime

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("device", sa.Column("labelled_at", UTCDateTime(), nullable=True))
    with op.batch_alter_table("device", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_device_labelled_at"), ["labelled_at"], unique=False)
    op.add_column(
        "rollout_device", sa.Column("target", AutoString(), nullable=False, server_default="")
    )
    # What a rollout holds now is what it offered.
    op.execute(
        "UPDATE rollout_device SET target = coalesce((SELECT max(desired.target) FROM desired"
        " WHERE desired.device = rollout_device.device"
        " AND desired.rollout = rollout_device.rollout), '')"
        " WHERE offered_at IS NOT NULL"
    )
