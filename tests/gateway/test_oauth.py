"""OAUTHBEARER at the gateway, with libpq 18 and its hook, and with clients that do not know it."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psycopg
import pytest

from agentaudit.protocols import postgres_messages as wire
from tests.gateway.hosted import Hosted, hosted
from tests.gateway.raw import Raw, error_fields, startup
from tests.gateway.recorded import read
from tests.peers.certificates import Authority
from tests.peers.issuers import SigningIssuer
from tests.peers.oauth import OAuthTokens
from tests.peers.postgres import PostgresPeer

DISMISSAL = wire.sasl_response(b"\1")


@pytest.fixture
def gateway(
    tmp_path: Path, postgres18: PostgresPeer, signing_issuer: SigningIssuer, authority: Authority
) -> Iterator[Hosted]:
    certificate = authority.server()
    with hosted(
        tmp_path,
        postgres18.target(),
        issuer=signing_issuer,
        listen={"postgres_oauth": True},
        issuer_keys={"oauth_scope": "openid orders"},
        tls_cert_file=str(certificate.certificate_file),
        tls_key_file=str(certificate.key_file),
    ) as running:
        yield running


def dsn(gateway: Hosted, issuer: str, **extra: object) -> str:
    parts = {"oauth_issuer": issuer, "oauth_client_id": "psql", "require_auth": "oauth"} | extra
    return gateway.dsn("orders", "", **parts)


def configuration(issuer: SigningIssuer) -> str:
    return f"{issuer.issuer}/.well-known/openid-configuration"


@pytest.mark.parametrize("sslmode", ["disable", "require"])
@pytest.mark.parametrize("knows_issuer", [True, False], ids=["at once", "after asking"])
def test_libpq_18_logs_in_with_its_token(
    gateway: Hosted,
    signing_issuer: SigningIssuer,
    oauth_tokens: OAuthTokens,
    knows_issuer: bool,
    sslmode: str,
) -> None:
    oauth_tokens.token = signing_issuer.token("ana")
    # With the address of the discovery document it needs no first connection to ask for it.
    issuer = configuration(signing_issuer) if knows_issuer else signing_issuer.issuer

    with psycopg.connect(dsn(gateway, issuer, sslmode=sslmode)) as connection:
        assert connection.execute("SELECT current_user").fetchone() == ("scram",)

    scope = None if knows_issuer else "openid orders"
    assert oauth_tokens.asked == [(configuration(signing_issuer), scope)]
    gateway.close()
    recorded = read(gateway.archive)
    assert recorded.session(user="ana")["close_reason"] == "client"
    # That a client asks for the issuer is no refused token.
    assert [row["user"] for row in recorded.sessions if row["protocol"] == "postgres"] == ["ana"]
    counts = [text for text in recorded.refusals() if "asked for the issuer: 1" in text]
    assert len(counts) == (0 if knows_issuer else 1)


def test_libpq_18_is_told_why_its_token_will_not_do(
    gateway: Hosted, signing_issuer: SigningIssuer, oauth_tokens: OAuthTokens
) -> None:
    oauth_tokens.token = signing_issuer.token("ana", claims={"exp": 1_000_000_000})

    with pytest.raises(psycopg.OperationalError, match="has expired") as caught:
        psycopg.connect(dsn(gateway, configuration(signing_issuer), sslmode="require"))

    gateway.close()
    recorded = read(gateway.archive)
    session = recorded.session(close_reason="refused")
    assert str(session["session_id"]) in str(caught.value)
    assert oauth_tokens.token.encode() not in b"".join(
        path.read_bytes() for path in gateway.archive.rglob("*") if path.is_file()
    )


def test_a_client_that_says_so_has_a_password(
    gateway: Hosted, signing_issuer: SigningIssuer
) -> None:
    token = signing_issuer.token("ana")
    options = "-c work_mem=7MB -c agentaudit.login=password"
    with psycopg.connect(gateway.dsn("orders", token, options=options)) as connection:
        assert connection.execute("SHOW work_mem").fetchone() == ("7MB",)

    async def work() -> int:
        connection = await asyncpg.connect(
            host=gateway.host,
            port=gateway.port,
            database="orders",
            user="agent",
            password=token,
            server_settings={"agentaudit.login": "password"},
        )
        value: int = await connection.fetchval("SELECT 42")
        await connection.close()
        return value

    assert asyncio.run(work()) == 42


def test_a_client_that_knows_no_oauth_is_told_by_its_own_library(
    gateway: Hosted, signing_issuer: SigningIssuer
) -> None:
    """What libpq 18 does with a password alone: it has no second method to fall back to."""
    with pytest.raises(psycopg.OperationalError, match="oauth_issuer and oauth_client_id"):
        psycopg.connect(gateway.dsn("orders", signing_issuer.token("ana")))


@pytest.mark.parametrize(
    ("parameters", "offered"),
    [({"agentaudit.login": "kerberos"}, True), ({"agentaudit.login": "oauth"}, False)],
)
def test_a_login_that_is_not_offered_is_refused_by_name(
    tmp_path: Path,
    postgres18: PostgresPeer,
    signing_issuer: SigningIssuer,
    parameters: dict[str, str],
    offered: bool,
) -> None:
    with (
        hosted(
            tmp_path,
            postgres18.target(),
            issuer=signing_issuer,
            listen={"postgres_oauth": offered},
        ) as gateway,
        Raw(gateway) as client,
    ):
        error = error_fields(client.say(startup(**parameters)).hear_until_closed())
    assert error["C"] == "22023"
    assert "agentaudit.login" in error["M"]


def test_the_offer_names_one_mechanism_and_the_challenge_where_tokens_are(
    gateway: Hosted, signing_issuer: SigningIssuer
) -> None:
    with Raw(gateway) as client:
        kind, offer = client.say(startup()).hear_one()
        assert (kind, offer) == (b"R", b"\0\0\0\nOAUTHBEARER\0\0")
        client.say(wire.sasl_initial_response("OAUTHBEARER", b"n,,\1auth=\1\1"))
        kind, said = client.hear_one()
        assert (kind, said[:4]) == (b"R", b"\0\0\0\x0b")
        assert json.loads(said[4:]) == {
            "status": "invalid_token",
            "openid-configuration": configuration(signing_issuer),
            "scope": "openid orders",
        }
        error = error_fields(client.say(DISMISSAL).hear_until_closed())
    assert (error["C"], error["S"]) == ("28P01", "FATAL")


def test_the_first_message_may_come_after_the_choice_of_the_mechanism(
    gateway: Hosted, signing_issuer: SigningIssuer
) -> None:
    token = signing_issuer.token("ana").encode()
    with Raw(gateway) as client:
        client.say(startup()).hear_one()
        client.say(wire.frame(b"p", b"OAUTHBEARER\0" + struct.pack("!i", -1)))
        assert client.hear_one() == (b"R", b"\0\0\0\x0b")
        client.say(wire.sasl_response(b"n,,\1auth=Bearer " + token + b"\1\1"))
        assert client.hear_one() == (b"R", b"\0\0\0\0")


@pytest.mark.parametrize(
    "said",
    [
        wire.sasl_initial_response("SCRAM-SHA-256", b"n,,n=,r=x"),
        wire.sasl_initial_response("OAUTHBEARER", b"p=x,,\1auth=Bearer x\1\1"),
        wire.sasl_initial_response("OAUTHBEARER", b"garbage"),
        wire.password_message("hunter2"),
        wire.frame(b"Q", b"SELECT 1\0"),
        wire.sasl_initial_response("OAUTHBEARER", b"n,,\1auth=Bearer hunter2\1\1")
        + wire.sasl_response(b"\1\1"),
    ],
    ids=["SCRAM", "binding", "garbage", "a password", "a query", "no dismissal"],
)
def test_a_client_that_breaks_the_exchange_is_told_so(gateway: Hosted, said: bytes) -> None:
    with Raw(gateway) as client:
        error = error_fields(client.say(startup() + said).hear_until_closed())
    assert error["C"] == "08P01"
    assert "hunter2" not in str(error)
