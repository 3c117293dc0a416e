"""Shadowing: the wish for it, and what comparing found by device, slot and candidate."""

import sqlalchemy as sa
from alembic import op
from sqlmodel.sql.sqltypes import AutoString, UTCDateTime

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_COUNTS = (
    "seconds",
    "requests",
    "rows",
    "differs",
    "non_finite",
    "errors",
    "skipped",
    "dropped",
    "cpu_ms",
)


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "shadow",
        sa.Column("device", sa.Integer(), nullable=False),
        sa.Column("slot", AutoString(), nullable=False),
        sa.Column("sha256", AutoString(), nullable=False),
        sa.Column("target", AutoString(), nullable=False),
        sa.Column("rollout", sa.Integer(), nullable=False),
        sa.Column("state", AutoString(), nullable=False),
        sa.Column("note", AutoString(), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in _COUNTS),
        sa.Column("bins", sa.Text(), nullable=False),
        sa.Column("changed_at", UTCDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["device"], ["device.number"], name=op.f("fk_shadow_device_device")
        ),
        sa.PrimaryKeyConstraint("device", "slot", "sha256", name=op.f("pk_shadow")),
    )
    with op.batch_alter_table("shadow", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_shadow_rollout"), ["rollout"], unique=False)
    op.add_column("desired", sa.Column("shadow", sa.Text(), nullable=False, server_default=""))
