"""First schema."""

import sqlalchemy as sa
from alembic import op
from sqlmodel.sql.sqltypes import AutoString, UTCDateTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "api_token",
        sa.Column("secret_sha256", AutoString(), nullable=False),
        sa.Column("name", AutoString(), nullable=False),
        sa.Column("role", AutoString(), nullable=False),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("expires_at", UTCDateTime(), nullable=False),
        sa.Column("revoked_at", UTCDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("secret_sha256", name=op.f("pk_api_token")),
    )
    op.create_table(
        "approval",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("model", AutoString(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("decision", AutoString(), nullable=False),
        sa.Column("keyid", AutoString(), nullable=False),
        sa.Column("reason", AutoString(), nullable=False),
        sa.Column("metadata_version", sa.Integer(), nullable=False),
        sa.Column("at", UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_approval")),
    )
    with op.batch_alter_table("approval", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_approval_model"), ["model"], unique=False)

    op.create_table(
        "artifact",
        sa.Column("model", AutoString(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("profile", AutoString(), nullable=False),
        sa.Column("target", AutoString(), nullable=False),
        sa.Column("sha256", AutoString(), nullable=False),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        sa.Column("precision", AutoString(), nullable=False),
        sa.Column("schema_sha256", AutoString(), nullable=False),
        sa.Column("chunks_sha256", AutoString(), nullable=False),
        sa.Column("reference_hash", AutoString(), nullable=False),
        sa.Column("latency_ms_p95", sa.Float(), nullable=False),
        sa.Column("label_flips", sa.Float(), nullable=False),
        sa.Column("max_abs_error", sa.Float(), nullable=False),
        sa.Column("decision", sa.Text(), nullable=False),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("model", "version", "profile", name=op.f("pk_artifact")),
    )
    with op.batch_alter_table("artifact", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_artifact_reference_hash"), ["reference_hash"], unique=False
        )
        batch_op.create_index(batch_op.f("ix_artifact_sha256"), ["sha256"], unique=False)
        batch_op.create_index(batch_op.f("ix_artifact_target"), ["target"], unique=True)

    op.create_table(
        "audit",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", UTCDateTime(), nullable=False),
        sa.Column("actor", AutoString(), nullable=False),
        sa.Column("act", AutoString(), nullable=False),
        sa.Column("object", AutoString(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("previous_sha256", AutoString(), nullable=False),
        sa.Column("sha256", AutoString(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    op.create_table(
        "decision",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("kind", AutoString(), nullable=False),
        sa.Column("subject", AutoString(), nullable=False),
        sa.Column("verdict", AutoString(), nullable=False),
        sa.Column("sentence", sa.Text(), nullable=False),
        sa.Column("inputs", sa.Text(), nullable=False),
        sa.Column("at", UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_decision")),
    )
    with op.batch_alter_table("decision", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_decision_kind"), ["kind"], unique=False)
        batch_op.create_index(batch_op.f("ix_decision_subject"), ["subject"], unique=False)

    op.create_table(
        "device",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("id", AutoString(), nullable=False),
        sa.Column("profile", AutoString(), nullable=False),
        sa.Column("labels", sa.Text(), nullable=False),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("enrolled_at", UTCDateTime(), nullable=True),
        sa.Column("revoked_at", UTCDateTime(), nullable=True),
        sa.Column("certificate_serial", AutoString(), nullable=False),
        sa.Column("certificate_expires_at", UTCDateTime(), nullable=True),
        sa.Column("is_online", sa.Boolean(), nullable=False),
        sa.Column("last_seen_at", UTCDateTime(), nullable=True),
        sa.Column("boot", AutoString(), nullable=False),
        sa.Column("report_sequence", sa.Integer(), nullable=False),
        sa.Column("reported_at", UTCDateTime(), nullable=True),
        sa.Column("reported", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_device")),
    )
    with op.batch_alter_table("device", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_device_id"), ["id"], unique=True)
        batch_op.create_index(batch_op.f("ix_device_profile"), ["profile"], unique=False)

    op.create_table(
        "device_group",
        sa.Column("name", AutoString(), nullable=False),
        sa.Column("query", AutoString(), nullable=False),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_device_group")),
    )
    op.create_table(
        "drift_alarm",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("model", AutoString(), nullable=False),
        sa.Column("level", AutoString(), nullable=False),
        sa.Column("subject", AutoString(), nullable=False),
        sa.Column("state", AutoString(), nullable=False),
        sa.Column("severity", AutoString(), nullable=False),
        sa.Column("features", sa.Text(), nullable=False),
        sa.Column("sentence", sa.Text(), nullable=False),
        sa.Column("memory", sa.Text(), nullable=False),
        sa.Column("opened_at", UTCDateTime(), nullable=True),
        sa.Column("closed_at", UTCDateTime(), nullable=True),
        sa.Column("acknowledged_at", UTCDateTime(), nullable=True),
        sa.Column("acknowledged_reason", AutoString(), nullable=False),
        sa.Column("changed_at", UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_drift_alarm")),
    )
    with op.batch_alter_table("drift_alarm", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_drift_alarm_model"), ["model"], unique=False)
        batch_op.create_index(batch_op.f("ix_drift_alarm_state"), ["state"], unique=False)

    op.create_table(
        "drift_cell",
        sa.Column("model", AutoString(), nullable=False),
        sa.Column("level", AutoString(), nullable=False),
        sa.Column("subject", AutoString(), nullable=False),
        sa.Column("feature", AutoString(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("horizon", sa.Integer(), nullable=False),
        sa.Column("statistic", sa.Float(), nullable=False),
        sa.Column("p_value", sa.Float(), nullable=False),
        sa.Column("psi", sa.Float(), nullable=False),
        sa.Column("sentence", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("at", UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("model", "level", "subject", "feature", name=op.f("pk_drift_cell")),
    )
    op.create_table(
        "lease",
        sa.Column("name", AutoString(), nullable=False),
        sa.Column("owner", AutoString(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("until_ms", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_lease")),
    )
    op.create_table(
        "model",
        sa.Column("name", AutoString(), nullable=False),
        sa.Column("task", AutoString(), nullable=False),
        sa.Column("problem", AutoString(), nullable=False),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("champion", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_model")),
    )
    op.create_table(
        "rollout",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("model", AutoString(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("slot", AutoString(), nullable=False),
        sa.Column("group", AutoString(), nullable=False),
        sa.Column("state", AutoString(), nullable=False),
        sa.Column("stages", sa.Text(), nullable=False),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("stage", sa.Integer(), nullable=False),
        sa.Column("stage_opened_at", UTCDateTime(), nullable=True),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("started_at", UTCDateTime(), nullable=True),
        sa.Column("finished_at", UTCDateTime(), nullable=True),
        sa.Column("sentence", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rollout")),
    )
    with op.batch_alter_table("rollout", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_rollout_model"), ["model"], unique=False)
        batch_op.create_index(batch_op.f("ix_rollout_state"), ["state"], unique=False)

    op.create_table(
        "assignment",
        sa.Column("device", sa.Integer(), nullable=False),
        sa.Column("counter", sa.Integer(), nullable=False),
        sa.Column("envelope", sa.Text(), nullable=False),
        sa.Column("issued_at", UTCDateTime(), nullable=True),
        sa.Column("expires_at", UTCDateTime(), nullable=True),
        sa.Column("is_stale", sa.Boolean(), nullable=False),
        sa.Column("published_counter", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["device"], ["device.number"], name=op.f("fk_assignment_device_device")
        ),
        sa.PrimaryKeyConstraint("device", name=op.f("pk_assignment")),
    )
    with op.batch_alter_table("assignment", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_assignment_is_stale"), ["is_stale"], unique=False)

    op.create_table(
        "desired",
        sa.Column("device", sa.Integer(), nullable=False),
        sa.Column("slot", AutoString(), nullable=False),
        sa.Column("target", AutoString(), nullable=False),
        sa.Column("rollout", sa.Integer(), nullable=False),
        sa.Column("retry", sa.Integer(), nullable=False),
        sa.Column("probation", sa.Text(), nullable=False),
        sa.Column("changed_at", UTCDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["device"], ["device.number"], name=op.f("fk_desired_device_device")
        ),
        sa.PrimaryKeyConstraint("device", "slot", name=op.f("pk_desired")),
    )
    with op.batch_alter_table("desired", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_desired_target"), ["target"], unique=False)

    op.create_table(
        "join_token",
        sa.Column("secret_sha256", AutoString(), nullable=False),
        sa.Column("device", sa.Integer(), nullable=False),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("expires_at", UTCDateTime(), nullable=False),
        sa.Column("used_at", UTCDateTime(), nullable=True),
        sa.ForeignKeyConstraint(
            ["device"], ["device.number"], name=op.f("fk_join_token_device_device")
        ),
        sa.PrimaryKeyConstraint("secret_sha256", name=op.f("pk_join_token")),
    )
    op.create_table(
        "rollout_device",
        sa.Column("rollout", sa.Integer(), nullable=False),
        sa.Column("device", sa.Integer(), nullable=False),
        sa.Column("stage", sa.Integer(), nullable=False),
        sa.Column("outcome", AutoString(), nullable=False),
        sa.Column("code", AutoString(), nullable=False),
        sa.Column("detail", AutoString(), nullable=False),
        sa.Column("previous_target", AutoString(), nullable=False),
        sa.Column("offered_at", UTCDateTime(), nullable=True),
        sa.Column("changed_at", UTCDateTime(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("was_online", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["device"], ["device.number"], name=op.f("fk_rollout_device_device_device")
        ),
        sa.ForeignKeyConstraint(
            ["rollout"], ["rollout.id"], name=op.f("fk_rollout_device_rollout_rollout")
        ),
        sa.PrimaryKeyConstraint("rollout", "device", name=op.f("pk_rollout_device")),
    )
    with op.batch_alter_table("rollout_device", schema=None) as batch_op:
        batch_op.create_index("ix_rollout_device_device", ["device"], unique=False)
        batch_op.create_index(
            "ix_rollout_device_outcome", ["rollout", "stage", "outcome", "device"], unique=False
        )

    op.create_table(
        "slot",
        sa.Column("device", sa.Integer(), nullable=False),
        sa.Column("slot", AutoString(), nullable=False),
        sa.Column("state", AutoString(), nullable=False),
        sa.Column("running_target", AutoString(), nullable=False),
        sa.Column("running_sha256", AutoString(), nullable=False),
        sa.Column("confirmed_target", AutoString(), nullable=False),
        sa.Column("confirmed_sha256", AutoString(), nullable=False),
        sa.Column("desired_target", AutoString(), nullable=False),
        sa.Column("code", AutoString(), nullable=False),
        sa.Column("detail", AutoString(), nullable=False),
        sa.Column("rollout", sa.Integer(), nullable=False),
        sa.Column("changed_at", UTCDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["device"], ["device.number"], name=op.f("fk_slot_device_device")),
        sa.PrimaryKeyConstraint("device", "slot", name=op.f("pk_slot")),
    )
    with op.batch_alter_table("slot", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_slot_running_target"), ["running_target"], unique=False
        )

    op.create_table(
        "version",
        sa.Column("model", AutoString(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("state", AutoString(), nullable=False),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("metrics", sa.Text(), nullable=False),
        sa.Column("evaluation", sa.Text(), nullable=False),
        sa.Column("forced_reason", AutoString(), nullable=False),
        sa.Column("data_sha256", AutoString(), nullable=False),
        sa.Column("run", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["model"], ["model.name"], name=op.f("fk_version_model_model")),
        sa.PrimaryKeyConstraint("model", "number", name=op.f("pk_version")),
    )
