"""Whose tokens are believed, and whose keys: against an issuer whose keys the test holds."""

from __future__ import annotations

import asyncio
import base64
import hmac
import http.server
import json
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from agentaudit import identity
from agentaudit.demo.processes import until
from agentaudit.errors import IdentityError, IssuerError
from agentaudit.identity import Bearer, KeySet, Verifier, fetch_keys
from agentaudit.model import Actor
from agentaudit.settings.tables import Issuer
from tests.peers.certificates import Authority
from tests.peers.forgery import es256, jws, opened, ps256, rs256, twin
from tests.peers.issuers import SigningIssuer


class Clock:
    """A clock that stands until a test moves it."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def settings_of(issuer: SigningIssuer, **keys: Any) -> Issuer:
    return Issuer.model_validate({"url": issuer.issuer, "audience": ["agentaudit"]} | keys)


def verify(issuer: SigningIssuer, token: str, **keys: Any) -> Actor:
    async def run() -> Actor:
        verifier = Verifier([settings_of(issuer, **keys)])
        try:
            return await verifier.actor(token)
        finally:
            verifier.close()

    return asyncio.run(run())


def refusal(issuer: SigningIssuer, token: str, **keys: Any) -> str:
    with pytest.raises(IdentityError) as caught:
        verify(issuer, token, **keys)
    assert not token or token not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def standing_issuer() -> Iterator[SigningIssuer]:
    """One issuer for all tests that leave its keys as they are."""
    issuer = SigningIssuer()
    yield issuer
    issuer.close()


# --- what a good token says


def test_a_valid_token_names_user_agent_groups_and_issuer(standing_issuer: SigningIssuer) -> None:
    token = standing_issuer.token("ana", ["data-agents", "dba"], agent="copilot-7")

    actor = verify(standing_issuer, token)

    assert actor == Actor(
        user="ana",
        subject="ana",
        issuer=standing_issuer.issuer,
        agent="copilot-7",
        groups=("data-agents", "dba"),
        chain=("ana",),
    )


def test_an_elliptic_key_will_do_as_well(signing_issuer: SigningIssuer) -> None:
    signing_issuer.rotate(algorithm="ES256")

    assert verify(signing_issuer, signing_issuer.token("ana")).user == "ana"


def test_claims_are_found_where_the_settings_say(standing_issuer: SigningIssuer) -> None:
    claims = {
        "realm_access": {"roles": ["a", "b", "a"]},
        "https://example.com/name": "Ana",
        "robot": "r2",
    }
    token = standing_issuer.token(claims=claims)

    actor = verify(
        standing_issuer,
        token,
        groups_claim="realm_access.roles",
        user_claim="https://example.com/name",
        agent_claim="robot",
    )

    assert (actor.user, actor.agent, actor.groups) == ("Ana", "r2", ("a", "b"))
    assert actor.subject == "ana"


def test_the_client_id_stands_in_for_a_missing_azp_alone(standing_issuer: SigningIssuer) -> None:
    token = standing_issuer.token(claims={"client_id": "c"}, without=["azp"])

    assert verify(standing_issuer, token).agent == "c"
    assert verify(standing_issuer, token, agent_claim="robot").agent == ""
    assert verify(standing_issuer, standing_issuer.token(claims={"azp": 7})).agent == ""


@pytest.mark.parametrize(
    ("claims", "email"),
    [
        ({"email": "a@b.c", "email_verified": True}, "a@b.c"),
        ({"email": "a@b.c", "email_verified": "true"}, "a@b.c"),
        ({"email": "a@b.c", "email_verified": False}, None),
        ({"email": "a@b.c", "email_verified": 1}, None),
        ({"email": "a@b.c"}, None),
        ({"email": 7, "email_verified": True}, None),
    ],
)
def test_an_email_counts_only_if_the_issuer_verified_it(
    standing_issuer: SigningIssuer, claims: Mapping[str, Any], email: str | None
) -> None:
    assert verify(standing_issuer, standing_issuer.token(claims=claims)).email == email


def test_the_chain_of_delegation_runs_from_the_subject_to_the_first_delegator(
    standing_issuer: SigningIssuer,
) -> None:
    # The nesting of RFC 8693, section 4.1, figure 6.
    act = {"sub": "service16", "act": {"sub": "service77"}}

    actor = verify(standing_issuer, standing_issuer.token(claims={"act": act}))

    assert actor.chain == ("ana", "service16", "service77")


@pytest.mark.parametrize("groups", ["data-agents", ["data-agents"]], ids=["as a text", "as a list"])
def test_one_group_may_be_a_text(standing_issuer: SigningIssuer, groups: object) -> None:
    token = standing_issuer.token(claims={"groups": groups})

    assert verify(standing_issuer, token).groups == ("data-agents",)


def test_a_token_without_groups_is_in_none(standing_issuer: SigningIssuer) -> None:
    token = standing_issuer.token(without=["groups"])

    assert verify(standing_issuer, token).groups == ()
    assert verify(standing_issuer, token, groups_claim="sub.x").groups == ()


@pytest.mark.parametrize(
    ("require", "claims"),
    [
        ({"tenant": "t1"}, {"tenant": "t1"}),
        ({"tenant": ["t0", "t1"]}, {"tenant": "t1"}),
        ({"a.b": 1}, {"a": {"b": 1}}),
        ({"scope": "db"}, {"scope": ["db", "mail"]}),
        ({"mfa": True}, {"mfa": True}),
    ],
)
def test_required_claims_that_match_let_a_token_pass(
    standing_issuer: SigningIssuer, require: Mapping[str, Any], claims: Mapping[str, Any]
) -> None:
    assert verify(standing_issuer, standing_issuer.token(claims=claims), require=require)


@pytest.mark.parametrize(
    ("require", "claims"),
    [
        ({"tenant": "t1"}, {}),
        ({"tenant": "t1"}, {"tenant": "t2"}),
        ({"mfa": True}, {"mfa": 1}),
        ({"mfa": True}, {"mfa": "true"}),
        ({"tenant": ["t0"]}, {"tenant": ["t1", "t2"]}),
    ],
)
def test_required_claims_that_differ_refuse_a_token(
    standing_issuer: SigningIssuer, require: Mapping[str, Any], claims: Mapping[str, Any]
) -> None:
    said = refusal(standing_issuer, standing_issuer.token(claims=claims), require=require)

    assert next(iter(require)) in said


# --- what no token may say

NOW = 1_900_000_000


@pytest.mark.parametrize(
    ("token", "said"),
    [
        (lambda i: i.token(claims={"aud": "another"}), "another audience"),
        (lambda i: i.token(claims={"aud": ["x", 7]}), "another audience"),
        (lambda i: i.token(without=["aud"]), "lacks a claim"),
        (lambda i: i.token(without=["exp"]), "lacks a claim"),
        (lambda i: i.token(without=["sub"]), "lacks a claim"),
        (lambda i: i.token(without=["iss"]), "not configured"),
        (lambda i: i.token(claims={"iss": "https://evil.example.com"}), "not configured"),
        (lambda i: parts(b'{"alg":"RS256"}', b'{"iss":["a"]}'), "not configured"),
        (lambda i: i.token(claims={"iss": i.issuer + "/"}), "not configured"),
        (lambda i: i.token(claims={"sub": ""}), "subject is empty"),
        (lambda i: i.token(claims={"sub": 7}), "not valid"),
        (lambda i: i.token(claims={"sub": "\udc80"}), "not JSON"),
        (lambda i: i.token(claims={"exp": 1_000_000_000}), "has expired"),
        (lambda i: i.token(claims={"nbf": 9_000_000_000}), "not valid yet"),
        (lambda i: i.token(claims={"iat": 9_000_000_000}), "not valid yet"),
        (lambda i: i.token(claims={"exp": "9000000000"}), "exp is not a time"),
        (lambda i: i.token(claims={"exp": True}), "exp is not a time"),
        (lambda i: i.token(claims={"exp": float("inf")}), "exp is not a time"),
        (lambda i: i.token(claims={"exp": float("nan")}), "exp is not a time"),
        (lambda i: i.token(claims={"nbf": "now"}), "nbf is not a time"),
        (lambda i: i.token(claims={"exp": 1_900_000_000_000}), "exp is not a time"),
        (lambda i: i.token(claims={"act": {"client": "x"}}), "chain of delegation"),
        (lambda i: i.token(claims={"act": "x"}), "chain of delegation"),
        (lambda i: i.token(claims={"act": nested_actors(9)}), "chain of delegation"),
        (lambda i: i.token(claims={"groups": {"a": 1}}), "not a list of groups"),
        (lambda i: i.token(claims={"groups": ["a", 1]}), "not a list of groups"),
        (
            lambda i: i.token(
                without=["groups"],
                claims={"_claim_names": {"groups": "src1"}, "_claim_sources": {}},
            ),
            "too many",
        ),
        (lambda i: i.token(without=["groups"], claims={"hasgroups": True}), "too many"),
        (lambda i: i.token(claims={"groups": [], "hasgroups": True}), "too many"),
        (lambda i: i.token(claims={"_claim_names": {"groups": "src1"}}), "too many"),
        (lambda i: i.token(headers={"typ": "logout+jwt"}), "of another type"),
        (lambda i: i.token(headers={"crit": ["exp"]}), "extensions"),
        (lambda i: i.token(headers={"kid": "unknown"}), "a key that its issuer does not publish"),
        (lambda i: i.token(algorithm="RS384"), "an algorithm that is not allowed"),
        (lambda i: i.token(key=rsa_key()), "signature is wrong"),
        (lambda i: i.token(key=ec_key()), "a key that its issuer does not publish"),
        (lambda i: unsigned(i), "an algorithm that is not allowed"),
        (lambda i: signed_with_public_key(i), "an algorithm that is not allowed"),
        (lambda i: i.token(claims={"x": "y" * 20_000}), "longer than"),
        (lambda i: "hunter2", "is not a token"),
        (lambda i: "", "is not a token"),
        (lambda i: i.token() + "=", "is not a token"),
        (lambda i: i.token() + "\n", "is not a token"),
        (lambda i: i.token() + ".x", "is not a token"),
        (lambda i: "é" + i.token(), "is not a token"),
        (lambda i: "eyJ.e30.AAAAA", "not canonical"),
        (lambda i: noncanonical(i.token()), "not canonical"),
        (lambda i: parts(b"not json", b"{}"), "not JSON"),
        (lambda i: parts(b"[]", b"{}"), "not a JSON object"),
        (lambda i: parts(b"{}", b"[" * 5_000), "not JSON"),
        (lambda i: parts(b"{}", b"{}".decode().encode("utf-16")), "not JSON"),
        (lambda i: parts(b"{}", b'{"a": "\xed\xb2\x80"}'), "not JSON"),
        (lambda i: parts(b'{"alg": "RS256", "alg": "none"}', b"{}"), "says something twice"),
        (lambda i: bad_header(i), "algorithm"),
    ],
)
def test_a_token_that_proves_nothing_is_refused_and_the_reason_given(
    standing_issuer: SigningIssuer, token: Callable[[SigningIssuer], str], said: str
) -> None:
    assert said in refusal(standing_issuer, token(standing_issuer))


def test_a_key_id_that_is_no_text_is_refused(standing_issuer: SigningIssuer) -> None:
    good = standing_issuer.token()
    header = {"alg": "RS256", "kid": 7}
    token = ".".join([encoded(json.dumps(header).encode()), *good.split(".")[1:]])

    assert "key id" in refusal(standing_issuer, token)


def test_the_user_claim_must_name_somebody(standing_issuer: SigningIssuer) -> None:
    token = standing_issuer.token(claims={"email": ""})

    assert 'claim "email" names no user' in refusal(standing_issuer, token, user_claim="email")
    assert 'claim "name" names no user' in refusal(standing_issuer, token, user_claim="name")


def test_an_email_that_the_issuer_did_not_verify_names_nobody(
    standing_issuer: SigningIssuer,
) -> None:
    def token(**claims: object) -> str:
        return standing_issuer.token(claims={"email": "a@b.c"} | claims)

    said = refusal(standing_issuer, token(email_verified=False), user_claim="email")
    assert "is not verified" in said
    assert verify(standing_issuer, token(email_verified=True), user_claim="email").user == "a@b.c"
    # Most access tokens say nothing of it.
    assert verify(standing_issuer, token(), user_claim="email").user == "a@b.c"
    assert verify(standing_issuer, token(email_verified=False)).user == "ana"


def test_whatever_a_claim_or_a_header_is_there_is_an_actor_or_a_reason(
    standing_issuer: SigningIssuer,
) -> None:
    header, claims = opened(standing_issuer.token())
    key = standing_issuer.keys[standing_issuer.current]
    assert isinstance(key, rsa.RSAPrivateKey)
    names = [*claims, "nbf", "act", "email", "email_verified", "client_id", "_claim_names"]
    names += ["hasgroups", "token_use", "typ", "at_hash", "auth_time", "cnf", "crit", "b64"]
    values: list[Any] = [None, True, 0, -1, 0.5, 2**60, 1e308, float("nan"), "", "x", "\0"]
    values += [[], [None], [["x"]], {}, {"sub": {}}, {"groups": 1}, [{"a": []}]]

    async def run() -> None:
        verifier = Verifier([settings_of(standing_issuer, require={"sub": ["ana", "x"]})])
        for name in {*names, *header}:
            for value in values:
                for changed in ((header | {name: value}, claims), (header, claims | {name: value})):
                    try:
                        bearer = await verifier.bearer(jws(*changed, rs256(key)))
                    except IdentityError:
                        continue
                    assert bearer.actor.subject in ("ana", "x")
                    assert 0 <= bearer.expires_us < 2**63

    asyncio.run(run())


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
def test_a_short_key_is_refused_although_it_is_published(signing_issuer: SigningIssuer) -> None:
    short = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    signing_issuer.keys[signing_issuer.current] = short

    assert "not valid" in refusal(signing_issuer, signing_issuer.token())


@pytest.mark.parametrize("start", ["nbf", "iat"])
def test_expiry_and_start_are_held_against_the_clock_with_a_minute_of_grace(
    standing_issuer: SigningIssuer, start: str
) -> None:
    token = standing_issuer.token(claims={"nbf": 0, "iat": 0, "exp": NOW, start: NOW - 100})

    async def at(now: float) -> Actor:
        verifier = Verifier([settings_of(standing_issuer)], wall_clock=lambda: now)
        return await verifier.actor(token)

    assert identity.LEEWAY_S == 60  # what the docs say, and no more than was asked for
    assert asyncio.run(at(NOW + 59.9)).user == "ana"
    assert asyncio.run(at(NOW - 160.0)).user == "ana"
    with pytest.raises(IdentityError, match="has expired"):
        asyncio.run(at(NOW + 60.0))
    with pytest.raises(IdentityError, match="not valid yet"):
        asyncio.run(at(NOW - 160.1))


# --- which token


def known_as(issuer: SigningIssuer, token: str, **keys: Any) -> Bearer:
    async def run() -> Bearer:
        verifier = Verifier([settings_of(issuer, **keys)])
        try:
            return await verifier.bearer(token)
        finally:
            verifier.close()

    return asyncio.run(run())


@pytest.mark.parametrize("without", [[], ["jti"]], ids=["by its jti", "by what is signed"])
def test_a_token_is_known_whatever_its_signature_is(
    signing_issuer: SigningIssuer, without: list[str]
) -> None:
    signing_issuer.rotate(algorithm="ES256")
    token = signing_issuer.token("ana", without=without, claims={"exp": NOW + 0.5})
    other = twin(token)
    again = jws(*opened(token), es256(signing_issuer.keys[signing_issuer.current]))

    bearer = known_as(signing_issuer, token)

    assert len({token, other, again}) == 3
    assert known_as(signing_issuer, other) == bearer
    if not without:  # json spaces it differently, so what is signed is another text
        assert known_as(signing_issuer, again) == bearer
    assert re.fullmatch("[0-9a-f]{64}", bearer.token_id)
    assert bearer.expires_us == NOW * 1_000_000 + 500_000
    assert bearer.actor == verify(signing_issuer, token)


def test_a_signature_with_salt_makes_no_new_token(signing_issuer: SigningIssuer) -> None:
    # The key's document names RS256 as all that it is for.
    published = dict(fetch_keys(settings_of(signing_issuer)).keys[0])
    del published["alg"]
    key = signing_issuer.keys[signing_issuer.current]
    assert isinstance(key, rsa.RSAPrivateKey)
    header, claims = opened(signing_issuer.token(without=["jti"]))
    tokens = {jws(header | {"alg": "PS256"}, claims, ps256(key)) for _ in range(2)}

    async def run() -> set[str]:
        issuer = settings_of(signing_issuer, algorithms=["PS256"])
        verifier = Verifier([issuer], fetch=lambda _: KeySet((published,)))
        return {(await verifier.bearer(token)).token_id for token in tokens}

    assert len(tokens) == 2
    assert len(asyncio.run(run())) == 1


def test_tokens_are_told_apart_by_issuer_and_jti_or_by_what_is_signed(
    signing_issuer: SigningIssuer, standing_issuer: SigningIssuer
) -> None:
    def token_id(issuer: SigningIssuer, **claims: Any) -> str:
        return known_as(issuer, issuer.token(claims=claims)).token_id

    assert token_id(signing_issuer, jti="1") == token_id(signing_issuer, jti="1", sub="ben")
    assert token_id(signing_issuer, jti="1") != token_id(signing_issuer, jti="2")
    assert token_id(signing_issuer, jti="1") != token_id(standing_issuer, jti="1")
    # Who names all tokens alike names none.
    assert token_id(signing_issuer, jti="") != token_id(signing_issuer, jti="", sub="ben")


def test_a_jti_that_is_another_tokens_text_does_not_pass_for_it(
    signing_issuer: SigningIssuer,
) -> None:
    token = signing_issuer.token(without=["jti"])
    quoting = signing_issuer.token(claims={"jti": token.rpartition(".")[0]})

    assert known_as(signing_issuer, token).token_id != known_as(signing_issuer, quoting).token_id


# --- which use


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        ({"token_use": "id"}, "is an ID token"),
        ({"typ": "ID"}, "is an ID token"),
        ({"at_hash": "77QmUPtjPfzWtF2AnpK9RQ"}, "is an ID token"),
        ({"c_hash": "LDktKdoQak3Pk0cnXxCltA"}, "is an ID token"),
        ({"token_use": "refresh"}, "is not an access token"),
        ({"typ": "Offline"}, "is not an access token"),
    ],
)
def test_what_the_issuer_marks_as_something_else_is_no_access_token(
    standing_issuer: SigningIssuer, claims: Mapping[str, Any], said: str
) -> None:
    assert said in refusal(standing_issuer, standing_issuer.token(claims=claims))


@pytest.mark.parametrize("claims", [{"token_use": "access"}, {"typ": "Bearer"}, {"nonce": "n"}])
def test_what_access_tokens_say_of_themselves_is_no_reason_to_refuse_them(
    standing_issuer: SigningIssuer, claims: Mapping[str, Any]
) -> None:
    assert verify(standing_issuer, standing_issuer.token(claims=claims)).user == "ana"


# --- which key


def test_without_a_key_id_the_only_key_that_fits_is_taken(signing_issuer: SigningIssuer) -> None:
    claims = jwt.decode(signing_issuer.token(), options={"verify_signature": False})
    token = jwt.encode(claims, signing_issuer.keys[signing_issuer.current], "RS256")
    assert "kid" not in jwt.get_unverified_header(token)

    assert verify(signing_issuer, token).user == "ana"

    signing_issuer.rotate(forget=False)
    assert "does not publish" in refusal(signing_issuer, token)


@pytest.mark.parametrize(
    "change",
    [
        {"use": "enc"},
        {"alg": "RS512"},
        {"key_ops": ["sign"]},
        {"key_ops": "verify"},
        {"kty": "oct"},
        {"n": "!"},
        {"n": 7},
        {"e": None},
        {"e": ""},
    ],
)
def test_a_key_that_is_not_for_verifying_is_not_used(
    signing_issuer: SigningIssuer, change: Mapping[str, Any]
) -> None:
    published = fetch_keys(settings_of(signing_issuer)).keys[0]
    keys = KeySet((dict(published) | dict(change),))

    assert keys.find(signing_issuer.current, "RS256") is None


def test_keys_are_counted_by_what_they_can_verify(signing_issuer: SigningIssuer) -> None:
    signing_issuer.rotate(forget=False, algorithm="ES256")
    keys = fetch_keys(settings_of(signing_issuer))

    assert keys.count_for(["RS256", "ES256"]) == 2
    assert keys.count_for(["PS256"]) == 0


# --- fetching


def test_a_key_set_is_fetched_once_for_all_who_wait(signing_issuer: SigningIssuer) -> None:
    async def run() -> None:
        verifier = Verifier([settings_of(signing_issuer)])
        token = signing_issuer.token()
        signing_issuer.hang()
        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(verifier.actor(token))
            await asyncio.sleep(0)
            signing_issuer.resume()
        await verifier.actor(token)

    asyncio.run(run())

    assert signing_issuer.fetched["/keys"] == 1


def test_who_hangs_up_does_not_take_the_fetch_away_from_the_others(
    signing_issuer: SigningIssuer,
) -> None:
    async def run() -> Actor:
        verifier = Verifier([settings_of(signing_issuer)])
        token = signing_issuer.token()
        signing_issuer.hang()
        async with asyncio.TaskGroup() as group:
            first = group.create_task(verifier.actor(token))
            second = group.create_task(verifier.actor(token))
            await asyncio.sleep(0)
            first.cancel()
            await asyncio.wait([first])
            signing_issuer.resume()
            return await second

    assert asyncio.run(run()).user == "ana"


def test_a_new_key_is_fetched_when_a_token_names_it_but_not_more_often_than_allowed(
    signing_issuer: SigningIssuer,
) -> None:
    clock = Clock()

    async def run() -> None:
        verifier = Verifier([settings_of(signing_issuer)], clock=clock)
        await verifier.actor(signing_issuer.token())
        clock.now += identity.RETRY_AFTER_S
        signing_issuer.rotate()
        assert (await verifier.actor(signing_issuer.token())).user == "ana"
        assert signing_issuer.fetched["/keys"] == 2
        for _ in range(5):
            with pytest.raises(IdentityError, match="does not publish"):
                await verifier.actor(signing_issuer.token(headers={"kid": "invented"}))
        assert signing_issuer.fetched["/keys"] == 2

    asyncio.run(run())


def test_old_keys_serve_while_newer_ones_are_fetched_in_the_background(
    signing_issuer: SigningIssuer,
) -> None:
    clock = Clock()

    async def run() -> None:
        verifier = Verifier([settings_of(signing_issuer)], clock=clock)
        token = signing_issuer.token()
        await verifier.actor(token)
        clock.now += identity.REFRESH_AFTER_S
        signing_issuer.hang()
        assert (await verifier.actor(token)).user == "ana"
        signing_issuer.resume()
        loop = asyncio.get_running_loop()

        def is_fetched() -> bool:
            return signing_issuer.fetched["/keys"] == 2

        await loop.run_in_executor(None, until, is_fetched, "the key set is fetched again")

    asyncio.run(run())


def test_a_key_that_may_be_new_is_not_called_unknown_while_nobody_can_be_asked(
    signing_issuer: SigningIssuer,
) -> None:
    clock = Clock()

    async def run() -> None:
        verifier = Verifier([settings_of(signing_issuer)], clock=clock)
        known = signing_issuer.token()
        await verifier.actor(known)
        signing_issuer.rotate()
        signing_issuer.failing = 503
        clock.now += identity.RETRY_AFTER_S
        for _ in range(2):  # the first asks, the second comes too soon to ask again
            with pytest.raises(IssuerError, match="503"):
                await verifier.actor(signing_issuer.token())
        assert (await verifier.actor(known)).user == "ana"

    asyncio.run(run())


def test_a_login_that_began_before_a_reload_is_not_called_wrong(
    signing_issuer: SigningIssuer,
) -> None:
    async def run() -> None:
        verifier = Verifier([settings_of(signing_issuer)], clock=Clock())
        verifier.close()
        with pytest.raises(IssuerError, match="is not asked any more"):
            await verifier.actor(signing_issuer.token())

    asyncio.run(run())


def test_an_issuer_out_of_reach_is_trusted_for_an_hour_and_no_longer(
    signing_issuer: SigningIssuer,
) -> None:
    clock = Clock()

    async def run() -> None:
        verifier = Verifier([settings_of(signing_issuer)], clock=clock)
        token = signing_issuer.token()
        await verifier.actor(token)
        signing_issuer.failing = 503
        clock.now += identity.KEYS_LIVE_S - 1
        assert (await verifier.actor(token)).user == "ana"
        clock.now += 1 + identity.RETRY_AFTER_S
        for _ in range(2):  # the first may still wait for the fetch that the line above began
            with pytest.raises(IssuerError, match="503"):
                await verifier.actor(token)
        tried = signing_issuer.fetched.total()
        # The failure is remembered, so that clients who come again do not hammer the issuer.
        with pytest.raises(IssuerError, match="503"):
            await verifier.actor(token)
        assert signing_issuer.fetched.total() == tried

    asyncio.run(run())


# --- what an issuer may answer


class Answers:
    """An issuer that says anything: `pages` maps paths to bodies, bytes as they are."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.pages: dict[str, Any] = {}
        self.drip = threading.Event()
        owner = self

        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                page = owner.pages.get(self.path)
                if page == "redirect":
                    self.send_response(302)
                    self.send_header("Location", "/elsewhere")
                    self.end_headers()
                    return
                if page == "garbage":
                    self.wfile.write(b"\0\0\0\0\r\n\r\n")
                    return
                if page in ("drip", "drip, then close"):
                    self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n")
                    self.wfile.write(b"\r\n" if page == "drip" else b"Connection: close\r\n\r\n")
                    while not owner.drip.wait(0.01):
                        self.wfile.write(b" ")
                    return
                body = page if isinstance(page, bytes) else json.dumps(page).encode()
                self.send_response(200)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self.url = f"https://localhost:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def publish(self, **changes: Any) -> None:
        self.pages["/.well-known/openid-configuration"] = {
            "issuer": self.url,
            "jwks_uri": f"{self.url}/keys",
        } | changes
        self.pages.setdefault("/keys", {"keys": []})

    def close(self) -> None:
        self.drip.set()
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def answering(context: ssl.SSLContext | None = None) -> Iterator[Answers]:
    answers = Answers(context)
    try:
        yield answers
    finally:
        answers.close()


@pytest.fixture
def answers() -> Iterator[Answers]:
    with answering() as made:
        yield made


def issuer_at(url: str, **keys: Any) -> Issuer:
    return Issuer.model_validate({"url": url, "audience": ["agentaudit"]} | keys)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"issuer": "https://other.example.com"}, "of issuer 'https://other.example.com'"),
        ({"issuer": None}, "of issuer 'None'"),
        ({"jwks_uri": None}, "jwks_uri: missing"),
        ({"jwks_uri": "file:///etc/passwd"}, "jwks_uri: expected an https address"),
        ({"jwks_uri": "http://example.com/keys"}, "plain http is for loopback only"),
    ],
)
def test_a_discovery_document_must_be_of_the_issuer_and_lead_somewhere_safe(
    answers: Answers, changes: Mapping[str, Any], said: str
) -> None:
    answers.publish(**changes)

    with pytest.raises(IssuerError) as caught:
        fetch_keys(issuer_at(answers.url))

    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ({"keys": {}}, "holds no list of keys"),
        ({"keys": ["x"]}, "holds no list of keys"),
        ([], "not a JSON object"),
        (b"<html>", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"keys": []}' + b" " * (1024 * 1024), "more than 1048576 bytes"),
        ("redirect", "HTTP status 302"),
        ("garbage", "BadStatusLine"),
    ],
)
def test_an_answer_that_is_no_key_set_is_refused(answers: Answers, page: Any, said: str) -> None:
    answers.publish()
    answers.pages["/keys"] = page

    with pytest.raises(IssuerError) as caught:
        fetch_keys(issuer_at(answers.url))

    assert said in str(caught.value)


@pytest.mark.parametrize("address", ["https://a..b/keys", "{url}/kéys", "{url}/my keys"])
def test_keys_at_an_address_that_nobody_can_ask_are_the_issuers_fault(
    answers: Answers, address: str
) -> None:
    answers.publish(jwks_uri=address.format(url=answers.url))

    with pytest.raises(IssuerError):
        fetch_keys(issuer_at(answers.url))


@pytest.mark.parametrize("path", ["/.well-known/openid-configuration", "/keys"])
@pytest.mark.parametrize("page", ["drip", "drip, then close"])
def test_an_issuer_that_drips_is_given_up_in_time(answers: Answers, page: str, path: str) -> None:
    answers.publish()
    answers.pages[path] = page

    with pytest.raises(IssuerError, match="no answer in time"):
        fetch_keys(issuer_at(answers.url), timeout=0.3)


def test_an_issuer_that_takes_all_the_time_gets_no_second_request(answers: Answers) -> None:
    answers.publish()

    with pytest.raises(IssuerError, match="no answer in time"):
        fetch_keys(issuer_at(answers.url), timeout=0)


def test_an_issuer_that_is_not_there_says_connection_refused() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"

        with pytest.raises(IssuerError, match="connection refused"):
            fetch_keys(issuer_at(url))


def server_context(authority: Authority, name: str = "localhost") -> ssl.SSLContext:
    certificate = authority.server(name)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.certificate_file, certificate.key_file)
    return context


def test_an_issuer_over_https_is_verified_with_the_ca_file(
    authority: Authority, foreign_authority: Authority, tmp_path: Path
) -> None:
    with answering(server_context(authority)) as answers:
        answers.publish()
        good = issuer_at(answers.url, ca_file=str(authority.file))

        assert fetch_keys(good).keys == ()

        for ca_file, said in (
            ("", "TLS: "),
            (str(foreign_authority.file), "TLS: "),
            (str(tmp_path / "none.pem"), "ca_file"),
        ):
            with pytest.raises(IssuerError) as caught:
                fetch_keys(issuer_at(answers.url, ca_file=ca_file))
            assert said in str(caught.value)


def test_the_certificate_must_be_for_the_issuer(authority: Authority) -> None:
    with answering(server_context(authority, "elsewhere.example.com")) as answers:
        answers.publish()

        with pytest.raises(IssuerError, match="TLS: "):
            fetch_keys(issuer_at(answers.url, ca_file=str(authority.file)))


def test_keys_never_move_from_https_to_plain_http(authority: Authority, answers: Answers) -> None:
    answers.pages["/keys"] = {"keys": []}
    with answering(server_context(authority)) as secure:
        secure.publish(jwks_uri=f"{answers.url}/keys")

        with pytest.raises(IssuerError, match="from https to plain http"):
            fetch_keys(issuer_at(secure.url, ca_file=str(authority.file)))


def test_keys_may_move_from_plain_http_on_loopback_to_https(
    authority: Authority, answers: Answers
) -> None:
    with answering(server_context(authority)) as secure:
        secure.publish()
        answers.publish(jwks_uri=f"{secure.url}/keys")

        assert fetch_keys(issuer_at(answers.url, ca_file=str(authority.file))).keys == ()


# --- tokens that only an attacker makes


def encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def parts(header: bytes, claims: bytes) -> str:
    return f"{encoded(header)}.{encoded(claims)}.{encoded(b'signature')}"


def bad_header(issuer: SigningIssuer) -> str:
    claims = json.dumps({"iss": issuer.issuer}).encode()
    return parts(b'{"alg": ["RS256"]}', claims)


def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def nested_actors(depth: int) -> dict[str, Any]:
    act: dict[str, Any] = {"sub": "x"}
    for _ in range(depth):
        act = {"sub": "x", "act": act}
    return act


def unsigned(issuer: SigningIssuer) -> str:
    _, claims, _ = issuer.token().split(".")
    header = encoded(b'{"alg":"none","typ":"JWT"}')
    return f"{header}.{claims}.{encoded(b'x')}"


def signed_with_public_key(issuer: SigningIssuer) -> str:
    """The classic confusion: HMAC with the RSA public key, which everybody has (RFC 8725, 2.1)."""
    public = issuer.keys[issuer.current].public_key()
    secret = public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    header = encoded(json.dumps({"alg": "HS256", "kid": issuer.current}).encode())
    signed = f"{header}.{issuer.token().split('.')[1]}"
    return f"{signed}.{encoded(hmac.digest(secret, signed.encode(), 'sha256'))}"


def noncanonical(token: str) -> str:
    """The same signature with other unused bits at its end: a second spelling of one token."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = alphabet.index(token[-1])
    return token[:-1] + alphabet[last ^ 1]


# --- who decides


def test_a_decision_needs_its_own_audience_and_a_login_of_late(
    standing_issuer: SigningIssuer,
) -> None:
    now = 1_900_000_000

    def decide(claims: Mapping[str, Any], *, age_s: float | None = 900.0) -> str:
        async def run() -> str:
            verifier = Verifier([settings_of(standing_issuer)], wall_clock=lambda: now)
            try:
                actor = await verifier.actor(token, audience="review", login_age_s=age_s)
            except IdentityError as error:
                return str(error)
            finally:
                verifier.close()
            return actor.user

        times = {"iat": now, "nbf": now, "exp": now + 60}
        token = standing_issuer.token(claims={"aud": "review", **times, **claims})
        return asyncio.run(run())

    assert decide({"auth_time": now - 900}) == "ana"
    assert decide({}, age_s=None) == "ana"
    assert "for another audience" in decide({"aud": "agentaudit", "auth_time": now})
    # A token can be new where the login is old: a refresh makes it so.
    assert "more than 15 minutes ago" in decide({"auth_time": now - 911})
    assert "more than 15 minutes ago" in decide({"auth_time": now + 61})
    assert decide({"auth_time": now + 59}) == "ana"
    # An ID token says who logged in, and is not what an agent connects with.
    assert decide({"auth_time": now, "token_use": "id", "at_hash": "x"}) == "ana"
    assert "an ID token" in decide({"token_use": "id"}, age_s=None)
    assert "not an access token" in decide({"auth_time": now, "token_use": "refresh"})
    for nothing in ({}, {"auth_time": True}, {"auth_time": "now"}, {"auth_time": -1}):
        assert "does not say when its bearer logged in" in decide(nothing)
