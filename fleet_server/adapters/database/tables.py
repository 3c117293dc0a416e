"""The control database's tables, and nothing else.

Table classes never cross the API or the core: repositories turn rows into core values. Enums are
stored as text and checked in the domain; JSON columns hold text that a repository reads.
"""

from datetime import datetime

from sqlalchemy import BigInteger, Index, Text
from sqlmodel import Field, SQLModel

SQLModel.metadata.naming_convention = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

from fleet_server.adapters.database import tables_shadow  # noqa: E402, F401 - a table as these are


class LeaseRow(SQLModel, table=True):
    """One loop that only one process may run; ``generation`` fences stale writers."""

    __tablename__ = "lease"
    name: str = Field(primary_key=True)
    owner: str = ""
    generation: int = 0
    until_ms: int = 0


class DeviceRow(SQLModel, table=True):
    """A device and the newest of what it said."""

    __tablename__ = "device"
    number: int | None = Field(default=None, primary_key=True)
    id: str = Field(unique=True, index=True)
    profile: str = Field(index=True)
    labels: str = Field(default="{}", sa_type=Text)
    labelled_at: datetime | None = Field(default=None, index=True)
    created_at: datetime
    enrolled_at: datetime | None = None
    revoked_at: datetime | None = None
    certificate_serial: str = ""
    certificate_expires_at: datetime | None = None
    is_online: bool = False
    last_seen_at: datetime | None = None
    boot: str = ""
    report_sequence: int = 0
    reported_at: datetime | None = None
    reported: str = Field(default="", sa_type=Text)
    """JSON of the newest Reported message; empty before the first."""
    boots: str = Field(default="", sa_type=Text)
    """JSON of ``core.clone_watch.BootMemory``; empty before the second boot."""
    cut_wanted_at: datetime | None = Field(default=None, index=True)
    """Since when a session that may be open must be ended; None when none must."""
    cloned_at: datetime | None = Field(default=None, index=True)
    clone_evidence: str = Field(default="", sa_type=Text)
    """Why the identity seems to be in use twice; stays until the device joins anew."""


class CertificateRow(SQLModel, table=True):
    """A certificate that was issued to a device; the truth behind the revocation list."""

    __tablename__ = "certificate"
    __table_args__ = (Index("ix_certificate_unlisted", "listed_at", "revoked_at"),)
    serial: str = Field(primary_key=True)
    """Hex, as the certificate's name in the revocation list."""
    device: int = Field(foreign_key="device.number", index=True)
    key_sha256: str = ""
    """Of the public key in DER form; empty when not recorded."""
    issued_at: datetime
    expires_at: datetime
    seen_at: datetime | None = None
    """When the device first said that it uses it."""
    revoked_at: datetime | None = None
    listed_at: datetime | None = None
    """When the revocation list on disk came to name it."""
    pem: str = Field(default="", sa_type=Text)
    """The certificate itself, kept until it is seen, for an answer that was lost."""


class SlotRow(SQLModel, table=True):
    """What one slot of a device truly runs, from its newest report."""

    __tablename__ = "slot"
    device: int = Field(primary_key=True, foreign_key="device.number")
    slot: str = Field(primary_key=True)
    state: str
    running_target: str = Field(default="", index=True)
    running_sha256: str = ""
    confirmed_target: str = ""
    confirmed_sha256: str = ""
    desired_target: str = ""
    code: str = ""
    detail: str = ""
    rollout: int = 0
    changed_at: datetime


class JoinTokenRow(SQLModel, table=True):
    """A single-use enrolment secret, by its hash."""

    __tablename__ = "join_token"
    secret_sha256: str = Field(primary_key=True)
    device: int = Field(foreign_key="device.number")
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None = None


class GroupRow(SQLModel, table=True):
    """A named group: a label query over devices."""

    __tablename__ = "device_group"
    name: str = Field(primary_key=True)
    query: str
    created_at: datetime


class ModelRow(SQLModel, table=True):
    """A model by name."""

    __tablename__ = "model"
    name: str = Field(primary_key=True)
    task: str
    problem: str = ""
    created_at: datetime
    champion: int = 0
    """Version in service, 0 when none; moved only when a rollout completes."""


class VersionRow(SQLModel, table=True):
    """An immutable training result."""

    __tablename__ = "version"
    model: str = Field(primary_key=True, foreign_key="model.name")
    number: int = Field(primary_key=True)
    state: str = "registered"
    """registered, approved, rejected."""
    created_at: datetime
    spec: str = Field(default="", sa_type=Text)
    metrics: str = Field(default="{}", sa_type=Text)
    """JSON {name: value} of the source model on held-out rows."""
    evaluation: str = Field(default="{}", sa_type=Text)
    """JSON: confusion matrix, rows, gates and whatever the training run recorded."""
    forced_reason: str = ""
    data_sha256: str = ""
    run: str = Field(default="{}", sa_type=Text)


class ArtifactRow(SQLModel, table=True):
    """One version built for one profile; the package's bytes are in the object store."""

    __tablename__ = "artifact"
    model: str = Field(primary_key=True)
    version: int = Field(primary_key=True)
    profile: str = Field(primary_key=True)
    target: str = Field(unique=True, index=True)
    sha256: str = Field(index=True)
    size_bytes: int
    precision: str
    schema_sha256: str
    chunks_sha256: str
    reference_hash: str = Field(index=True)
    """First 8 bytes of sha256 of reference.json, hex."""
    latency_ms_p95: float
    label_flips: float
    max_abs_error: float
    decision: str = Field(default="", sa_type=Text)
    created_at: datetime


class ApprovalRow(SQLModel, table=True):
    """That an approver's signature over a version's packages was stored or refused."""

    __tablename__ = "approval"
    id: int | None = Field(default=None, primary_key=True)
    model: str = Field(index=True)
    version: int
    decision: str
    keyid: str = ""
    reason: str = ""
    metadata_version: int = 0
    at: datetime


class DesiredRow(SQLModel, table=True):
    """What one slot of a device shall run: the truth behind its assignment."""

    __tablename__ = "desired"
    device: int = Field(primary_key=True, foreign_key="device.number")
    slot: str = Field(primary_key=True)
    target: str = Field(index=True)
    rollout: int = 0
    retry: int = 0
    probation: str = Field(default="{}", sa_type=Text)
    shadow: str = Field(default="", sa_type=Text, sa_column_kwargs={"server_default": ""})
    """JSON of how the candidate is compared before; empty when it is not."""
    changed_at: datetime


class AssignmentRow(SQLModel, table=True):
    """The newest assignment of a device.

    ``is_stale`` is set in the transaction that changes a desired row; the signer makes a new
    envelope with the next counter, the publisher sends what is not yet published.
    """

    __tablename__ = "assignment"
    device: int = Field(primary_key=True, foreign_key="device.number")
    counter: int = 0
    envelope: str = Field(default="", sa_type=Text)
    issued_at: datetime | None = None
    expires_at: datetime | None = None
    is_stale: bool = Field(default=True, index=True)
    published_counter: int = Field(default=0)


class RolloutRow(SQLModel, table=True):
    """A staged rollout of one version to one slot of a group."""

    __tablename__ = "rollout"
    id: int | None = Field(default=None, primary_key=True)
    model: str = Field(index=True)
    version: int
    slot: str
    group: str
    state: str = Field(index=True)
    stages: str = Field(sa_type=Text)
    policy: str = Field(sa_type=Text)
    stage: int = 0
    stage_opened_at: datetime | None = None
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    sentence: str = Field(default="", sa_type=Text)
    revision: int = 0


class RolloutDeviceRow(SQLModel, table=True):
    """One device of a rollout: the truth about its outcome."""

    __tablename__ = "rollout_device"
    __table_args__ = (
        Index("ix_rollout_device_outcome", "rollout", "stage", "outcome", "device"),
        Index("ix_rollout_device_device", "device"),
    )
    rollout: int = Field(primary_key=True, foreign_key="rollout.id")
    device: int = Field(primary_key=True, foreign_key="device.number")
    stage: int
    outcome: str
    code: str = ""
    detail: str = ""
    previous_target: str = ""
    target: str = Field(default="", sa_column_kwargs={"server_default": ""})
    """What it was offered last; empty before."""
    offered_at: datetime | None = None
    changed_at: datetime
    tries: int = 0
    was_online: bool = False
    """Online when offered: silence afterwards counts as a failure."""


class DecisionRow(SQLModel, table=True):
    """A verdict with its inputs and its sentence; can be replayed."""

    __tablename__ = "decision"
    id: int | None = Field(default=None, primary_key=True)
    kind: str = Field(index=True)
    subject: str = Field(index=True)
    verdict: str
    sentence: str = Field(sa_type=Text)
    inputs: str = Field(sa_type=Text)
    at: datetime


class DriftCellRow(SQLModel, table=True):
    """Newest drift judgement of one feature at one level."""

    __tablename__ = "drift_cell"
    model: str = Field(primary_key=True)
    level: str = Field(primary_key=True)
    """device, group or fleet."""
    subject: str = Field(primary_key=True)
    feature: str = Field(primary_key=True)
    rows: int
    horizon: int
    statistic: float
    p_value: float
    psi: float
    sentence: str = Field(default="", sa_type=Text)
    detail: str = Field(default="{}", sa_type=Text)
    at: datetime


class DriftAlarmRow(SQLModel, table=True):
    """A drift alarm over its life."""

    __tablename__ = "drift_alarm"
    id: int | None = Field(default=None, primary_key=True)
    model: str = Field(index=True)
    level: str
    subject: str
    state: str = Field(index=True)
    severity: str
    features: str = Field(sa_type=Text)
    """JSON list, worst first."""
    sentence: str = Field(sa_type=Text)
    memory: str = Field(default="{}", sa_type=Text)
    """JSON: what the hysteresis carries from one judgement to the next."""
    opened_at: datetime | None = None
    closed_at: datetime | None = None
    acknowledged_at: datetime | None = None
    acknowledged_reason: str = ""
    changed_at: datetime


class LabelMarkRow(SQLModel, table=True):
    """How far the labels of one start of a device's agent have been counted."""

    __tablename__ = "label_mark"
    device: int = Field(primary_key=True, foreign_key="device.number")
    boot: str = Field(primary_key=True)
    highest: int = Field(sa_type=BigInteger)
    seen_at: datetime


class LabelCountRow(SQLModel, table=True):
    """Late labels of one device and hour, of one predicted and one true class.

    Both are indices of classes; of a regression both are -1 and the sums say how far it was off.
    Each of several targets or labels of an answer is counted by itself.
    """

    __tablename__ = "label_count"
    model: str = Field(primary_key=True)
    version: int = Field(primary_key=True)
    device: int = Field(primary_key=True, foreign_key="device.number")
    hour_at: datetime = Field(primary_key=True, index=True)
    predicted: int = Field(primary_key=True)
    label: int = Field(primary_key=True)
    part: str = Field(default="", primary_key=True, sa_column_kwargs={"server_default": ""})
    """Name of the target or label; empty where an answer is one."""
    rows: int = Field(default=0, sa_type=BigInteger)
    error_sum: float = 0.0
    absolute_sum: float = 0.0
    squared_sum: float = 0.0


class AuditRow(SQLModel, table=True):
    """Who did what; each row carries the hash of the one before."""

    __tablename__ = "audit"
    id: int | None = Field(default=None, primary_key=True)
    at: datetime
    actor: str = Field(index=True)
    act: str = Field(index=True)
    object: str
    reason: str = Field(default="", sa_type=Text)
    detail: str = Field(default="{}", sa_type=Text)
    previous_sha256: str
    sha256: str


class PersonRow(SQLModel, table=True):
    """A person who may use the API and the dashboard."""

    __tablename__ = "person"
    name: str = Field(primary_key=True)
    role: str
    password_argon2: str
    """Argon2id in its encoded form, which names its parameters."""
    created_at: datetime
    disabled_at: datetime | None = None
    last_login_at: datetime | None = None
    login_failures: int = 0
    """Wrong passwords since the last right one."""
    locked_until: datetime | None = None


class ApiTokenRow(SQLModel, table=True):
    """A bearer token of the API, by its hash."""

    __tablename__ = "api_token"
    secret_sha256: str = Field(primary_key=True)
    id: str = Field(unique=True, index=True)
    """What people call it: the first 12 characters of its hash."""
    kind: str
    """service (no person behind it), token, session."""
    name: str = Field(index=True)
    """Person's name, or the service's."""
    label: str = ""
    role: str
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None
    """Coarse: written at most once a minute."""
