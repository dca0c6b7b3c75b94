"""SCRAM against the vector of RFC 7677, and against a server of somebody else's."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest
import scramp
from hypothesis import given, settings
from hypothesis import strategies as st

from agentaudit.protocols import scram

# RFC 7677, section 3; the password there is "pencil".
RFC_SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
RFC_MESSAGES = (
    b"n=user,r=rOprNGfwEbeRWgbNEkqO,"
    b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,"
    b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
)
RFC_PROOF = base64.b64decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
RFC_SERVER_SIGNATURE = base64.b64decode("6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")


def test_the_keys_of_a_password_are_those_of_the_rfc() -> None:
    keys = scram.derive_keys("pencil", RFC_SALT, 4096)

    stored = hashlib.sha256(keys.client_key).digest()
    signature = hmac.digest(stored, RFC_MESSAGES, "sha256")
    proof = bytes(a ^ b for a, b in zip(keys.client_key, signature, strict=True))
    assert proof == RFC_PROOF
    assert hmac.digest(keys.server_key, RFC_MESSAGES, "sha256") == RFC_SERVER_SIGNATURE


def test_keys_show_nothing_of_themselves() -> None:
    assert repr(scram.derive_keys("pencil", RFC_SALT, 4096)) == "ScramKeys()"


passwords = st.text(
    st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"]), min_size=1, max_size=20
)


def exchange(
    password: str, known: str, binding: tuple[str, bytes] | None, mechanism: str
) -> tuple[scram.ScramClient, str]:
    """Log in with `password` at a server that knows `known`; return what it said last."""
    rules = scramp.ScramMechanism(mechanism)
    info = rules.make_auth_info(known, iteration_count=4096, salt=RFC_SALT)
    server = rules.make_server(lambda user: info, channel_binding=binding)
    client = scram.ScramClient(mechanism, binding)
    # The name is nobody's concern in PostgreSQL, and this server wants one.
    client._first = client._first.replace("n=,", "n=x,")
    server.set_client_first(client.first().decode())
    salt, count = client.challenge(server.get_server_first().encode())
    assert (salt, count) == (RFC_SALT, 4096)
    final = client.final(scram.derive_keys(password, salt, count))
    server.set_client_final(final.decode())
    return client, server.get_server_final()


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"])
@pytest.mark.parametrize("password", ["pencil", "I\u00adX", "\u00a0x", "\u2168", "\u00aa", "p=,n"])
def test_another_implementations_server_lets_the_client_in(mechanism: str, password: str) -> None:
    binding = ("tls-server-end-point", b"\1" * 32) if mechanism.endswith("PLUS") else None

    client, last = exchange(password, password, binding, mechanism)

    client.verify(last.encode())


def test_passwords_are_prepared_as_the_rfc_for_that_has_it() -> None:
    """RFC 4013, section 3: its examples, and what may not be in a prepared string as it is."""
    assert scram._prepared("I\u00adX") == b"IX"
    assert scram._prepared("user") == b"user"
    assert scram._prepared("USER") == b"USER"
    assert scram._prepared("\u00aa") == b"a"
    assert scram._prepared("\u2168") == b"IX"
    assert scram._prepared("\u0007") == b"\x07"
    assert scram._prepared("\u06271") == "\u06271".encode()
    assert scram._prepared("\u0627\u0031\u0628") == "\u0627\u0031\u0628".encode()


@given(passwords)
@settings(max_examples=50, deadline=None)
def test_a_wrong_password_is_refused_and_the_server_is_not_believed(password: str) -> None:
    with pytest.raises(scramp.ScramException):
        exchange(password, password + "x", None, "SCRAM-SHA-256")


@pytest.mark.parametrize(
    ("first", "said"),
    [
        (b"", "malformed"),
        (b"r=NONCEmore,s=c2FsdA==", "malformed"),
        (b"m=ext,r=NONCEmore,s=c2FsdA==,i=4096", "malformed"),
        (b"r=NONCEmore,s=c2FsdA==,i=4096,x=y", "malformed"),
        (b"r=NONCEmore,s=c2FsdA==,i=-1", "malformed"),
        (b"r=NONCEmore,s=c2FsdA==,i=0", "malformed"),
        (b"r=NONCE\xff,s=c2FsdA==,i=4096", "malformed"),
        (b"r=NONCE,s=c2FsdA==,i=4096", "not for this login"),
        (b"r=OTHERmore,s=c2FsdA==,i=4096", "not for this login"),
        (b"r=NONCEmore,s=c2FsdA,i=4096", "not base64"),
        (b"r=NONCEmore,s=c2FsdA==,i=4095", "4095 iterations"),
        (b"r=NONCEmore,s=c2FsdA==,i=10000001", "10000001 iterations"),
    ],
)
def test_a_challenge_that_is_not_one_is_named_without_quoting_it(first: bytes, said: str) -> None:
    client = scram.ScramClient("SCRAM-SHA-256", nonce="NONCE")

    with pytest.raises(scram.ScramError, match=said) as caught:
        client.challenge(first)
    assert "more" not in str(caught.value)


@pytest.mark.parametrize(
    "last", [b"", b"v=", b"v=AAAA", b"v=!", b"e=invalid-proof", b"x=" + b"A" * 44]
)
def test_a_server_that_proves_nothing_is_not_believed(last: bytes) -> None:
    client = scram.ScramClient("SCRAM-SHA-256", nonce="NONCE")
    salt, count = client.challenge(b"r=NONCEmore,s=c2FsdA==,i=4096")
    client.final(scram.derive_keys("pencil", salt, count))

    with pytest.raises(scram.ScramError):
        client.verify(last)


@given(st.binary(max_size=80))
def test_garbage_is_an_error_of_the_exchange_and_nothing_else(data: bytes) -> None:
    client = scram.ScramClient("SCRAM-SHA-256", nonce="NONCE")
    for step in (client.challenge, client.verify):
        with pytest.raises(scram.ScramError):
            step(data)
