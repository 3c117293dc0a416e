"""Late labels of several targets or labels of an answer: counted and kept by name."""

import sqlalchemy as sa
from alembic import op
from sqlmodel.sql.sqltypes import AutoString

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

KEYS = {
    "label_count": ["model", "version", "device", "hour_at", "predicted", "label"],
    "sample_label": ["device", "prediction_id", "row"],
}


def upgrade() -> None:
    """Apply."""
    for table, key in KEYS.items():
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.add_column(sa.Column("part", AutoString(), nullable=False, server_default=""))
            batch_op.drop_constraint(op.f(f"pk_{table}"), type_="primary")
            batch_op.create_primary_key(op.f(f"pk_{table}"), [*key, "part"])
