"""Certificates by serial, boots, and what is wrong with a device's identity."""

import sqlalchemy as sa
from alembic import op
from sqlmodel.sql.sqltypes import AutoString, UTCDateTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "certificate",
        sa.Column("serial", AutoString(), nullable=False),
        sa.Column("device", sa.Integer(), nullable=False),
        sa.Column("key_sha256", AutoString(), nullable=False),
        sa.Column("issued_at", UTCDateTime(), nullable=False),
        sa.Column("expires_at", UTCDateTime(), nullable=False),
        sa.Column("seen_at", UTCDateTime(), nullable=True),
        sa.Column("revoked_at", UTCDateTime(), nullable=True),
        sa.Column("listed_at", UTCDateTime(), nullable=True),
        sa.Column("pem", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["device"], ["device.number"], name=op.f("fk_certificate_device_device")
        ),
        sa.PrimaryKeyConstraint("serial", name=op.f("pk_certificate")),
    )
    with op.batch_alter_table("certificate", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_certificate_device"), ["device"], unique=False)
        batch_op.create_index("ix_certificate_unlisted", ["listed_at", "revoked_at"], unique=False)
    op.add_column("device", sa.Column("boots", sa.Text(), nullable=False, server_default=""))
    op.add_column("device", sa.Column("cut_wanted_at", UTCDateTime(), nullable=True))
    op.add_column("device", sa.Column("cloned_at", UTCDateTime(), nullable=True))
    op.add_column(
        "device", sa.Column("clone_evidence", sa.Text(), nullable=False, server_default="")
    )
    with op.batch_alter_table("device", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_device_cut_wanted_at"), ["cut_wanted_at"])
        batch_op.create_index(batch_op.f("ix_device_cloned_at"), ["cloned_at"])
    op.execute(
        "INSERT INTO certificate (serial, device, key_sha256, issued_at, expires_at, seen_at,"
        " revoked_at, listed_at, pem) SELECT certificate_serial, number, '',"
        " coalesce(enrolled_at, created_at), certificate_expires_at,"
        " coalesce(enrolled_at, created_at), revoked_at, NULL, '' FROM device"
        " WHERE certificate_serial != '' AND certificate_expires_at IS NOT NULL"
    )
