"""Late labels: counts per model, version, device and hour, and what has been counted."""

import sqlalchemy as sa
from alembic import op
from sqlmodel.sql.sqltypes import AutoString, UTCDateTime

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "label_mark",
        sa.Column("device", sa.Integer(), nullable=False),
        sa.Column("boot", AutoString(), nullable=False),
        sa.Column("highest", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", UTCDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["device"], ["device.number"], name=op.f("fk_label_mark_device_device")
        ),
        sa.PrimaryKeyConstraint("device", "boot", name=op.f("pk_label_mark")),
    )
    op.create_table(
        "label_count",
        sa.Column("model", AutoString(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("device", sa.Integer(), nullable=False),
        sa.Column("hour_at", UTCDateTime(), nullable=False),
        sa.Column("predicted", sa.Integer(), nullable=False),
        sa.Column("label", sa.Integer(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("error_sum", sa.Float(), nullable=False),
        sa.Column("absolute_sum", sa.Float(), nullable=False),
        sa.Column("squared_sum", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["device"], ["device.number"], name=op.f("fk_label_count_device_device")
        ),
        sa.PrimaryKeyConstraint(
            "model",
            "version",
            "device",
            "hour_at",
            "predicted",
            "label",
            name=op.f("pk_label_count"),
        ),
    )
    with op.batch_alter_table("label_count", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_label_count_hour_at"), ["hour_at"], unique=False)
