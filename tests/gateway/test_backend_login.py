"""The gateway's own login at real servers, in each way that a server may ask for it."""

from __future__ import annotations

import secrets
import struct
from pathlib import Path
from typing import Any

import psycopg
import pytest

from agentaudit.demo.processes import until
from tests.gateway.hosted import Hosted, hosted
from tests.gateway.recorded import read
from tests.peers.certificates import Authority
from tests.peers.issuers import SigningIssuer
from tests.peers.postgres import PostgresPeer
from tests.peers.pump import PumpFactory


def backend_user(gateway: Hosted, token: str, target: str = "orders") -> Any:
    with psycopg.connect(gateway.dsn(target, token)) as connection:
        return connection.execute(
            "SELECT current_user, ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        ).fetchone()


def why_not(gateway: Hosted, token: str, target: str) -> str:
    with pytest.raises(psycopg.OperationalError) as caught:
        psycopg.connect(gateway.dsn(target, token))
    return str(caught.value)


def test_every_method_works_with_and_without_tls(
    tmp_path: Path, postgres15: PostgresPeer, authority: Authority, signing_issuer: SigningIssuer
) -> None:
    certificate = postgres15.certificate
    assert certificate is not None
    ca = {"tls_ca_file": str(authority.file)}
    targets = [
        postgres15.target(f"{user}-{tls}", user=user, tls=tls, **(ca if tls != "disable" else {}))
        for user in ("scram", "md5", "cleartext")
        for tls in ("disable", "require", "verify-full")
    ]
    targets.append(
        postgres15.target(
            "cert-verify-full",
            user="cert",
            tls="verify-full",
            tls_cert_file=str(certificate.certificate_file),
            tls_key_file=str(certificate.key_file),
            require_auth=["none"],
            **ca,
        )
    )
    with hosted(tmp_path, *targets, issuer=signing_issuer) as gateway:
        token = signing_issuer.token("ana")
        for target in targets:
            user, _, tls = target["name"].partition("-")
            assert backend_user(gateway, token, target["name"]) == (user, tls != "disable")


def mechanism(up: bytes) -> str:
    """Return the SASL mechanism that the first `p` message of a login names."""
    (length,) = struct.unpack_from("!I", up)
    return up[length + 5 :].partition(b"\0")[0].decode()


def test_channel_binding_is_used_where_tls_offers_it_and_can_be_demanded(
    tmp_path: Path,
    postgres15: PostgresPeer,
    authority: Authority,
    signing_issuer: SigningIssuer,
    pump: PumpFactory,
) -> None:
    clear = pump(postgres15.host, postgres15.port)
    bound = {"require_auth": ["scram-sha-256-plus"]}
    tls = {"tls": "verify-full", "tls_ca_file": str(authority.file)}
    with hosted(
        tmp_path,
        postgres15.target("clear", address=f"{clear.host}:{clear.port}"),
        postgres15.target("bound", **bound, **tls),
        postgres15.target("bound-in-clear", **bound),
        issuer=signing_issuer,
    ) as gateway:
        token = signing_issuer.token("ana")

        assert backend_user(gateway, token, "clear") == ("scram", False)
        # The server itself verifies the binding: a wrong one fails the login.
        assert backend_user(gateway, token, "bound") == ("scram", True)
        assert "require_auth allows scram-sha-256-plus" in why_not(gateway, token, "bound-in-clear")
        clear.wait_until_closed()
        assert mechanism(bytes(clear.wires[0].up)) == "SCRAM-SHA-256"


@pytest.mark.parametrize(
    ("user", "allowed"),
    [("md5", "scram-sha-256"), ("cleartext", "scram-sha-256"), ("cleartext", "md5")],
)
def test_a_server_that_asks_for_less_than_is_required_gets_nothing(
    tmp_path: Path,
    postgres18: PostgresPeer,
    signing_issuer: SigningIssuer,
    pump: PumpFactory,
    user: str,
    allowed: str,
) -> None:
    relay = pump(postgres18.host, postgres18.port)
    target = postgres18.target(
        user=user, require_auth=[allowed], address=f"{relay.host}:{relay.port}"
    )
    with hosted(tmp_path, target, issuer=signing_issuer) as gateway:
        assert f"require_auth allows {allowed}" in why_not(
            gateway, signing_issuer.token("ana"), "orders"
        )
    relay.wait_until_closed()
    (length,) = struct.unpack_from("!I", relay.wires[0].up)
    assert len(relay.wires[0].up) == length  # the start-up packet, and not one byte behind it


def test_a_password_goes_in_clear_to_loopback_alone(
    tmp_path: Path, postgres15: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    # "127.1" is loopback to the resolver and a foreign name to us, which nothing else can be here.
    address = f"127.1:{postgres15.port}"
    with hosted(
        tmp_path,
        postgres15.target("clear", user="cleartext", address=address),
        postgres15.target("tls", user="cleartext", address=address, tls="require"),
        issuer=signing_issuer,
    ) as gateway:
        token = signing_issuer.token("ana")

        assert "password in clear, without TLS" in why_not(gateway, token, "clear")
        assert backend_user(gateway, token, "tls") == ("cleartext", True)


def test_a_server_that_cannot_prove_who_it_is_gets_no_login(
    tmp_path: Path,
    postgres15: PostgresPeer,
    postgres18: PostgresPeer,
    authority: Authority,
    foreign_authority: Authority,
    signing_issuer: SigningIssuer,
) -> None:
    own, foreign = (
        {"tls_ca_file": str(authority.file)},
        {"tls_ca_file": str(foreign_authority.file)},
    )
    other_name = f"127.1:{postgres15.port}"
    with hosted(
        tmp_path,
        postgres15.target("foreign", tls="verify-full", **foreign),
        postgres15.target("system", tls="verify-full"),
        postgres15.target("other-name", tls="verify-full", address=other_name, **own),
        postgres15.target("chain-only", tls="require", address=other_name, **own),
        postgres15.target("chain-foreign", tls="require", **foreign),
        postgres18.target("no-tls", tls="require"),
        issuer=signing_issuer,
    ) as gateway:
        token = signing_issuer.token("ana")

        for target in ("foreign", "system", "other-name", "chain-foreign"):
            assert "TLS: " in why_not(gateway, token, target), target
        assert "does not offer TLS" in why_not(gateway, token, "no-tls")
        assert backend_user(gateway, token, "chain-only") == ("scram", True)


def remembered(gateway: Hosted, target: str = "orders") -> dict[Any, Any]:
    """Return what the gateway keeps of its password for `target`."""
    return dict(
        gateway.call(lambda g: g.sessions.serving.targets[target].scram_keys)  # a copy, made here
    )


def test_the_slow_half_of_scram_is_done_once_for_a_password_and_its_salt(
    tmp_path: Path, own_postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    server = own_postgres18
    with hosted(tmp_path, server.target(), issuer=signing_issuer) as gateway:
        token = signing_issuer.token("ana")
        assert remembered(gateway) == {}
        assert backend_user(gateway, token)[0] == "scram"
        (first,) = remembered(gateway).items()
        assert backend_user(gateway, token)[0] == "scram"
        assert list(remembered(gateway).items()) == [first]
        assert repr(first[1]) == "ScramKeys()"

        # The same password under another salt: what was remembered helps nothing and harms nothing.
        for rounds in range(6):
            server.execute(f"ALTER ROLE scram PASSWORD '{server.passwords['scram']}'")
            assert backend_user(gateway, token)[0] == "scram"
            assert len(remembered(gateway)) == min(rounds + 2, 4)
        server.execute("ALTER ROLE scram PASSWORD 'another'")
        assert "refuses the gateway's login" in why_not(gateway, token, "orders")
        assert len(remembered(gateway)) == 4


def test_what_is_remembered_of_a_password_goes_with_the_settings_that_named_it(
    tmp_path: Path, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    with hosted(tmp_path, postgres18.target(), issuer=signing_issuer) as gateway:
        assert backend_user(gateway, signing_issuer.token("ana"))[0] == "scram"
        assert len(remembered(gateway)) == 1

        gateway.call(lambda g: g.reload())

        until(lambda: remembered(gateway) == {}, "the settings are read again")


def test_a_server_asks_for_a_password_that_the_settings_do_not_name(
    tmp_path: Path, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    target = postgres18.target()
    del target["password"]
    with hosted(tmp_path, target, issuer=signing_issuer) as gateway:
        assert "the settings name none" in why_not(gateway, signing_issuer.token(), "orders")


def test_no_secret_reaches_archive_journal_keys_or_log(
    gateway: Any, postgres15: PostgresPeer, pump: PumpFactory, issuer: Any
) -> None:
    relay = pump(postgres15.host, postgres15.port)
    address = f"{relay.host}:{relay.port}"
    gw = gateway(
        postgres15.target("scram", address=address),
        postgres15.target("md5", user="md5", address=address),
        postgres15.target("cleartext", user="cleartext", address=address),
    )
    token = issuer.token("ana", ["data-agents"], at_least_bytes=2000)
    marker = secrets.token_hex(8)
    for target in ("scram", "md5", "cleartext"):
        with psycopg.connect(gw.dsn(target, token, application_name=token)) as connection:
            connection.execute(f"SELECT '{marker}'")
    # Where people put tokens by mistake.
    for misplaced in ({"user": token}, {"options": f"-c x={token}"}):
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(gw.dsn("nowhere", token, **misplaced))
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(gw.dsn(token, token))
    # A token in a statement is content and recorded as such: that is not what this is about.
    gw.wait_until_idle()

    exchanges = [bytes(one.up) for one in relay.wires] + [bytes(one.down) for one in relay.wires]
    scram = {
        part
        for data in exchanges
        for text in data.split(b"\0")
        if b"r=" in text
        for part in text.rpartition(b"r=")[2].replace(b"p=", b",").split(b",")
        if len(part) >= 20
    }
    assert len(scram) >= 3  # nonces and the proof
    md5 = {d[d.index(b"md5") :][:35] for d in exchanges if b"md5" in d and b"p\0\0\0\x28md5" in d}
    assert len(md5) == 1
    _, claims, signature = token.split(".")
    wanted = {*scram, *md5, token.encode(), claims.encode(), signature.encode()}
    wanted |= {password.encode() for password in postgres15.passwords.values()}
    secret_files = set(gw.directory.glob("*.password")) | {gw.config}

    def found() -> dict[str, list[str]]:
        hits: dict[str, list[str]] = {}
        for path in gw.directory.rglob("*"):
            if path.is_file() and path not in secret_files:
                data = path.read_bytes()
                hits |= {str(path): [w.decode()[:12] for w in wanted if w in data]}
        return {path: words for path, words in hits.items() if words}

    journals = list(gw.archive.rglob("*.journal"))
    assert any(marker.encode() in path.read_bytes() for path in journals)
    assert found() == {}
    gw.terminate()
    until(lambda: not list(gw.archive.rglob("*.journal")), "the journal is sealed")
    assert found() == {}
    # Parquet is compressed, so what grep cannot see is looked at as rows too.
    recorded = read(gw.archive)
    rows = str([recorded.sessions, recorded.commands, recorded.events]).encode()
    rows += b"".join(recorded.payload(event) for event in recorded.events)
    assert marker.encode() in rows
    assert [word for word in wanted if word in rows] == []
