"""The tables of the gateway's state, as its newest migration leaves them.

They are plain enough to be the same in SQLite and PostgreSQL: times are microseconds since 1970,
lists and documents are JSON in a text column (whose NULs are escaped, so that PostgreSQL takes them
too), and what must never be twice is a key. A change here needs a file in `migrations/versions`;
a test compares the two.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    Uuid,
    text,
)

SCHEMA: Final = "0002"
"""The newest file in `migrations/versions`, known without asking Alembic."""

metadata: Final = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False)


def _time(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False)


revision: Final = Table(
    "revision",
    metadata,
    # The only row, 1. All who write lock it first and add one: writers take turns in PostgreSQL as
    # they do in SQLite, so that what is right alone is right among many.
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("value", BigInteger, nullable=False),
    CheckConstraint("id = 1", name="single"),
)

requests: Final = Table(
    "requests",
    metadata,
    Column("id", Uuid, primary_key=True),
    _text("kind"),
    _text("gateway"),
    _text("issuer"),
    _text("subject"),
    _text("requester"),
    _text("target"),
    _text("rule"),
    _text("approvers"),
    Column("approvals", Integer, nullable=False),
    _text("cls"),
    _text("shown"),
    _text("digest"),
    _text("reason"),
    Column("session_id", Uuid),
    Column("command_no", BigInteger, nullable=False),
    _time("duration_us"),
    _time("starts_us"),
    _time("requested_us"),
    _time("expires_us"),
    _text("state"),
    _time("decided_us"),
    Column("is_recorded", Boolean, nullable=False),
    CheckConstraint("kind IN ('hold', 'access')", name="kind"),
    CheckConstraint(
        "state IN ('pending', 'approved', 'denied', 'expired', 'cancelled')", name="state"
    ),
    Index("ix_requests_requester", "issuer", "subject", "state"),
    Index("ix_requests_state", "state", "requested_us"),
    Index("ix_requests_gateway", "gateway", "is_recorded"),
)

votes: Final = Table(
    "votes",
    metadata,
    Column("request_id", Uuid, ForeignKey("requests.id", ondelete="CASCADE"), primary_key=True),
    Column("issuer", Text, primary_key=True),
    Column("subject", Text, primary_key=True),
    _text("approver"),
    _text("verdict"),
    _text("reason"),
    _time("at_us"),
    CheckConstraint("verdict IN ('approve', 'deny')", name="verdict"),
)

deliveries: Final = Table(
    "deliveries",
    metadata,
    Column("request_id", Uuid, ForeignKey("requests.id", ondelete="CASCADE"), primary_key=True),
    Column("webhook", Text, primary_key=True),
    Column("event", Text, primary_key=True),
    _time("delivered_us"),
)

grants: Final = Table(
    "grants",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("request_id", Uuid, ForeignKey("requests.id"), nullable=False, unique=True),
    _text("issuer"),
    _text("subject"),
    _text("actor"),
    _text("target"),
    _text("classes"),
    _text("resources"),
    _time("starts_us"),
    _time("ends_us"),
    _time("revoked_us"),
    _text("revoked_by"),
    Column("is_recorded", Boolean, nullable=False),
    Index("ix_grants_actor", "issuer", "subject", "target"),
)

windows: Final = Table(
    "windows",
    metadata,
    Column("id", Uuid, primary_key=True),
    _text("issuer"),
    _text("subject"),
    _text("token"),
    _time("token_expires_us"),
    _text("target"),
    Column("grant_id", Uuid, ForeignKey("grants.id")),
    _time("opened_us"),
    _time("ends_us"),
    _time("linger_us"),
    # When the last connection left; 0 while there is one.
    _time("idle_since_us"),
    _time("ended_us"),
    _text("end_reason"),
    Index("ix_windows_token", "token", "target"),
    Index("ix_windows_grant", "grant_id"),
    # One token has one window on a target at a time, whoever forgets to look.
    Index(
        "uq_windows_open",
        "issuer",
        "token",
        "target",
        unique=True,
        sqlite_where=text("ended_us = 0"),
        postgresql_where=text("ended_us = 0"),
    ),
)

window_connections: Final = Table(
    "window_connections",
    metadata,
    Column("window_id", Uuid, ForeignKey("windows.id", ondelete="CASCADE"), primary_key=True),
    Column("gateway", Text, primary_key=True),
    Column("connections", Integer, nullable=False),
    CheckConstraint("connections > 0", name="connections"),
    Index("ix_window_connections_gateway", "gateway"),
)

tickets: Final = Table(
    "tickets",
    metadata,
    Column("secret_hash", LargeBinary, primary_key=True),
    _text("issuer"),
    _text("subject"),
    _text("actor"),
    _text("token"),
    _time("token_expires_us"),
    _text("target"),
    _time("expires_us"),
    Index("ix_tickets_actor", "issuer", "subject"),
    Index("ix_tickets_expires", "expires_us"),
)

certificates: Final = Table(
    "certificates",
    metadata,
    Column("serial", BigInteger, primary_key=True, autoincrement=False),
    Column("digest", LargeBinary, nullable=False),
    _text("issuer"),
    _text("subject"),
    _text("actor"),
    _text("token"),
    _time("token_expires_us"),
    _text("targets"),
    _time("expires_us"),
    Index("ix_certificates_actor", "issuer", "subject"),
    Index("ix_certificates_expires", "expires_us"),
)

blocks: Final = Table(
    "blocks",
    metadata,
    Column("id", Uuid, primary_key=True),
    _text("issuer"),
    _text("subject"),
    _text("user"),
    _text("by"),
    _text("reason"),
    _time("at_us"),
    _time("lifted_us"),
    _text("lifted_by"),
)

live: Final = Table(
    "live",
    metadata,
    Column("session_id", Uuid, primary_key=True),
    _text("gateway"),
    _text("actor"),
    _text("target"),
    _text("protocol"),
    _text("client_addr"),
    _time("opened_us"),
    Column("window_id", Uuid),
    # The order to end it, which goes with the row once that is done; 0 without one.
    _time("ending_us"),
    _text("ending_by"),
    _text("ending_reason"),
    Index("ix_live_gateway", "gateway"),
)

notes: Final = Table(
    "notes",
    metadata,
    Column("id", Uuid, primary_key=True),
    _text("gateway"),
    _text("document"),
    Index("ix_notes_gateway", "gateway"),
)
