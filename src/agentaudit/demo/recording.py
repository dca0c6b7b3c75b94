"""Makes an archive from real traffic: the shop, the provider, the gateway, and the agent's day."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agentaudit.demo import agent, shop
from agentaudit.demo.database import Logged, Postgres, embedded_postgres
from agentaudit.demo.gateways import Gateway
from agentaudit.demo.processes import temporary_folder
from agentaudit.demo.provider import IdentityProvider

GATEWAY_NAME = "gw1"
TARGET = "orders"
_DATABASE_USER = "orders_rw"


@dataclass(frozen=True, slots=True)
class Recording:
    """A sealed archive, who may say so, and what the database's own log says was executed."""

    archive: Path
    verifier_key: str
    executions: tuple[Logged, ...]


def record(directory: Path, *, origin: str, pace: float, tell: Callable[[str], None]) -> Recording:
    """Record the agent's sessions into `directory`, seal the archive and stop everything again.

    `pace` scales the agent's pauses, in which nothing happens: 0 for none, 1 for some 20 seconds.
    `tell` is called with a line for each thing done.

    Raises:
        PeerError: a process did not start or end, or a statement went other than scripted.
    """
    password = secrets.token_urlsafe(24)
    with (
        temporary_folder("agentaudit-demo-") as scratch,
        Postgres(binaries=embedded_postgres()) as database,
        IdentityProvider(scratch / "issuer") as provider,
    ):
        _prepare(database, password)
        tell("PostgreSQL and an OpenID Connect provider are up")
        secret = scratch / "password"
        secret.touch(mode=0o600)
        secret.write_text(password, encoding="utf-8")
        settings = {
            "gateway": {"name": GATEWAY_NAME, "origin": origin, "durability": "strict"},
            "listen": {"postgres": "127.0.0.1:0"},
            "issuer": [{"url": provider.issuer, "audience": [provider.audience]}],
            "target": [
                {
                    "name": TARGET,
                    "protocol": "postgres",
                    "address": f"{database.host}:{database.port}",
                    "database": TARGET,
                    "user": _DATABASE_USER,
                    "password_file": str(secret),
                    "tls": "disable",
                    "groups": ["data-agents"],
                }
            ],
        }
        with Gateway(directory, settings) as gateway:
            tell(f"the gateway {GATEWAY_NAME} listens on {gateway.host}:{gateway.port}")

            def dsn(login: agent.Login) -> str:
                token = provider.token(login.user, login.groups, agent=login.agent)
                return gateway.dsn(TARGET, token)

            def think(seconds: float) -> None:
                time.sleep(pace * seconds)

            agent.nightly_report(dsn(agent.REPORTER))
            tell(f"{agent.REPORTER.agent} ran the nightly report in psql")
            agent.refund_duplicates(dsn(agent.COPILOT), think=think)
            tell(f"{agent.COPILOT.agent} found double charges and refunded them")
            agent.be_refused(dsn(agent.OUTSIDER))
            tell(f"{agent.OUTSIDER.agent} was refused: its user is in no group of {TARGET}")
            agent.answer_tickets(dsn(agent.COPILOT), think=think)
            tell(f"{agent.COPILOT.agent} read the open tickets, and obeyed one of them")
            gateway.wait_until_idle()
        tell("the gateway drained and sealed the archive")
        executions = tuple(
            one for one in database.logged() if (one.user, one.database) == (_DATABASE_USER, TARGET)
        )
    return Recording(
        archive=gateway.archive, verifier_key=gateway.verifier_key, executions=executions
    )


def _prepare(database: Postgres, password: str) -> None:
    database.execute(
        f"CREATE ROLE {_DATABASE_USER} LOGIN PASSWORD '{password}'",
        f"CREATE DATABASE {TARGET} OWNER {_DATABASE_USER}",
    )
    shop.fill(database.superuser_dsn(TARGET))
    database.execute(
        f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {_DATABASE_USER}", database=TARGET
    )
