"""Tables of sampled raw rows: what waits for its file, the files, labels of single rows."""

from datetime import datetime

from sqlalchemy import BigInteger
from sqlmodel import Field, SQLModel

from fleet_server.adapters.database.tables import DeviceRow

DEVICE = f"{DeviceRow.__tablename__}.number"


class SampleMarkRow(SQLModel, table=True):
    """How far the sampled rows of one start of a device's agent have been taken."""

    __tablename__ = "sample_mark"
    device: int = Field(primary_key=True, foreign_key=DEVICE)
    boot: str = Field(primary_key=True)
    highest: int = Field(sa_type=BigInteger)
    seen_at: datetime


class SampleBatchRow(SQLModel, table=True):
    """A batch of sampled rows as it came, until it is part of a file."""

    __tablename__ = "sample_batch"
    id: int | None = Field(default=None, primary_key=True)
    model: str = Field(index=True)
    version: int
    sha256: str
    """Of the package that answered."""
    device: int = Field(foreign_key=DEVICE)
    rows: int
    payload: bytes
    received_at: datetime = Field(index=True)


class SampleFileRow(SQLModel, table=True):
    """A Parquet file of sampled rows; what no row names does not count."""

    __tablename__ = "sample_file"
    id: int | None = Field(default=None, primary_key=True)
    model: str = Field(index=True)
    version: int
    path: str = Field(unique=True)
    """Below the folder of samples."""
    rows: int
    size_bytes: int = Field(sa_type=BigInteger)
    sha256: str
    first_at: datetime
    last_at: datetime = Field(index=True)


class SampleLabelRow(SQLModel, table=True):
    """What turned out to be true of a sampled row, of each of several targets or labels."""

    __tablename__ = "sample_label"
    device: int = Field(primary_key=True, foreign_key=DEVICE)
    prediction_id: str = Field(primary_key=True)
    row: int = Field(primary_key=True)
    part: str = Field(default="", primary_key=True, sa_column_kwargs={"server_default": ""})
    """Name of the target or label; empty where an answer is one."""
    model: str = Field(index=True)
    version: int
    label: float
    received_at: datetime = Field(index=True)
