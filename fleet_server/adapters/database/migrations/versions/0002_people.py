"""People, their tokens, and an audit log that can be searched."""

import sqlalchemy as sa
from alembic import op
from sqlmodel.sql.sqltypes import AutoString, UTCDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "person",
        sa.Column("name", AutoString(), nullable=False),
        sa.Column("role", AutoString(), nullable=False),
        sa.Column("password_argon2", AutoString(), nullable=False),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("disabled_at", UTCDateTime(), nullable=True),
        sa.Column("last_login_at", UTCDateTime(), nullable=True),
        sa.Column("login_failures", sa.Integer(), nullable=False),
        sa.Column("locked_until", UTCDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_person")),
    )
    with op.batch_alter_table("api_token", schema=None) as batch_op:
        batch_op.add_column(sa.Column("id", AutoString(), nullable=True))
        batch_op.add_column(sa.Column("kind", AutoString(), nullable=True))
        batch_op.add_column(sa.Column("label", AutoString(), nullable=True))
        batch_op.add_column(sa.Column("last_used_at", UTCDateTime(), nullable=True))
    op.execute(
        "UPDATE api_token SET id = substr(secret_sha256, 1, 12), kind = 'service', label = ''"
    )
    with op.batch_alter_table("api_token", schema=None) as batch_op:
        batch_op.alter_column("id", existing_type=AutoString(), nullable=False)
        batch_op.alter_column("kind", existing_type=AutoString(), nullable=False)
        batch_op.alter_column("label", existing_type=AutoString(), nullable=False)
        batch_op.create_index(batch_op.f("ix_api_token_id"), ["id"], unique=True)
        batch_op.create_index(batch_op.f("ix_api_token_name"), ["name"], unique=False)
    with op.batch_alter_table("audit", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_audit_actor"), ["actor"], unique=False)
        batch_op.create_index(batch_op.f("ix_audit_act"), ["act"], unique=False)
