"""The table of what comparing candidates found; kin of ``tables.py``, which brings it along."""

from datetime import datetime

from sqlalchemy import BigInteger, Text
from sqlmodel import Field, SQLModel


class ShadowRow(SQLModel, table=True):
    """What comparing a candidate found in one slot of a device, from its newest report of it."""

    __tablename__ = "shadow"
    device: int = Field(primary_key=True, foreign_key="device.number")
    slot: str = Field(primary_key=True)
    sha256: str = Field(primary_key=True)
    """Of the candidate."""
    target: str = ""
    rollout: int = Field(default=0, index=True)
    state: str
    note: str = ""
    seconds: int = Field(default=0, sa_type=BigInteger)
    requests: int = Field(default=0, sa_type=BigInteger)
    rows: int = Field(default=0, sa_type=BigInteger)
    differs: int = Field(default=0, sa_type=BigInteger)
    non_finite: int = Field(default=0, sa_type=BigInteger)
    errors: int = Field(default=0, sa_type=BigInteger)
    skipped: int = Field(default=0, sa_type=BigInteger)
    dropped: int = Field(default=0, sa_type=BigInteger)
    cpu_ms: int = Field(default=0, sa_type=BigInteger)
    bins: str = Field(default="{}", sa_type=Text)
    """JSON {name: counts}: difference, latency, candidate_latency."""
    changed_at: datetime
