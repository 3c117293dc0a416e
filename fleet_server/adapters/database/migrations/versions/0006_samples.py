"""Sampled raw rows: batches that came, files they became, labels of single rows."""

import sqlalchemy as sa
from alembic import op
from sqlmodel.sql.sqltypes import AutoString, UTCDateTime

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "sample_mark",
        sa.Column("device", sa.Integer(), nullable=False),
        sa.Column("boot", AutoString(), nullable=False),
        sa.Column("highest", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", UTCDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["device"], ["device.number"], name=op.f("fk_sample_mark_device_device")
        ),
        sa.PrimaryKeyConstraint("device", "boot", name=op.f("pk_sample_mark")),
    )
    op.create_table(
        "sample_batch",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("model", AutoString(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("sha256", AutoString(), nullable=False),
        sa.Column("device", sa.Integer(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("received_at", UTCDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["device"], ["device.number"], name=op.f("fk_sample_batch_device_device")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sample_batch")),
    )
    op.create_table(
        "sample_file",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("model", AutoString(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("path", AutoString(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", AutoString(), nullable=False),
        sa.Column("first_at", UTCDateTime(), nullable=False),
        sa.Column("last_at", UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sample_file")),
        sa.UniqueConstraint("path", name=op.f("uq_sample_file_path")),
    )
    op.create_table(
        "sample_label",
        sa.Column("device", sa.Integer(), nullable=False),
        sa.Column("prediction_id", AutoString(), nullable=False),
        sa.Column("row", sa.Integer(), nullable=False),
        sa.Column("model", AutoString(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("label", sa.Float(), nullable=False),
        sa.Column("received_at", UTCDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["device"], ["device.number"], name=op.f("fk_sample_label_device_device")
        ),
        sa.PrimaryKeyConstraint("device", "prediction_id", "row", name=op.f("pk_sample_label")),
    )
    for table, column in (
        ("sample_batch", "model"),
        ("sample_batch", "received_at"),
        ("sample_file", "model"),
        ("sample_file", "last_at"),
        ("sample_label", "model"),
        ("sample_label", "received_at"),
    ):
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.create_index(batch_op.f(f"ix_{table}_{column}"), [column], unique=False)
