"""Logins: the device grant and client credentials, at a real provider and at broken ones.

The real one (nanoidp) has both; what a provider does wrong, or slowly, a small server does.
"""

from __future__ import annotations

import base64
import json
import re
import stat
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from agentaudit.cli import main
from agentaudit.client import login, tokens
from agentaudit.demo.provider import IdentityProvider
from agentaudit.errors import IdentityError, IssuerError, SettingsError
from tests.client.served import Answer, Asked, Says, Served, served
from tests.peers.certificates import Authority
from tests.peers.issuers import SigningIssuer
from tests.test_docs import verbs

PENDING = Says({"error": "authorization_pending"}, 400)
SLOWER = Says({"error": "slow_down"}, 400)


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tokens in a folder of the test's own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("AGENTAUDIT_CONTROL", raising=False)
    monkeypatch.delenv("AGENTAUDIT_CLIENT_SECRET", raising=False)


# --- a real provider ------------------------------------------------------------------------------


def test_a_person_logs_in_with_a_browser_elsewhere(issuer: IdentityProvider) -> None:
    issuer.token("dora", ["dba"])  # makes her an account
    public = {"client_id": "agentaudit-cli", "token_endpoint_auth_method": "none"}
    issuer._call("POST", "/api/runtime/clients", public)
    process = subprocess.Popen(
        [sys.executable, "-m", "agentaudit.cli", "login", "--issuer", issuer.issuer,
         "--client-id", "agentaudit-cli", "--audience", "https://review.example.com", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stderr is not None
    url, code, whole = (process.stderr.readline().split()[-1] for _ in range(3))
    assert url == f"{issuer.issuer}/device"
    assert whole == f"{url}?user_code={code}"
    form = {"user_code": code, "username": "dora", "password": issuer._password}
    body = urllib.parse.urlencode(form | {"action": "authorize"}).encode()
    urllib.request.urlopen(url, body, timeout=30).close()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    told = json.loads(out)
    assert (told["user"], told["audience"]) == ("dora", "https://review.example.com")
    # nanoidp says in its ID tokens alone when somebody logged in.
    assert "does not say when you logged in" in err

    kept = tokens.newest(control="https://any.example.com")
    assert kept is not None
    claims = json.loads(base64.urlsafe_b64decode(kept.token.split(".")[1] + "=="))
    assert (claims["sub"], claims["aud"]) == ("dora", "https://review.example.com")
    assert claims["groups"] == ["dba"]
    assert kept.token not in out + err
    assert kept.expires_at == pytest.approx(time.time() + 3600, abs=120)


def test_a_person_who_says_no_ends_it_with_1(issuer: IdentityProvider) -> None:
    public = {"client_id": "agentaudit-no", "token_endpoint_auth_method": "none"}
    issuer._call("POST", "/api/runtime/clients", public)

    def refuse(prompt: login.Prompt) -> None:
        form = urllib.parse.urlencode({"user_code": prompt.code, "action": "deny"}).encode()
        urllib.request.urlopen(prompt.url, form, timeout=30).close()

    client = login.Client(issuer.issuer, "agentaudit-no")
    with pytest.raises(login.Refused, match="was refused"):
        login.by_device(client, refuse, sleep=lambda _: None)


def test_a_machine_logs_in_with_a_secret_from_a_file(
    issuer: IdentityProvider, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    issuer.token("ana", agent="night-job")  # makes it known
    secret = tmp_path / "secret"
    secret.write_text(issuer._password + "\n")
    words = ["login", "--issuer", issuer.issuer, "--client-id", "night-job", "--client-credentials"]
    assert main([*words, "--client-secret-file", str(secret)]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{tokens.file()}\n"
    kept = tokens.newest(control="https://any.example.com")
    assert kept is not None
    claims = json.loads(base64.urlsafe_b64decode(kept.token.split(".")[1] + "=="))
    assert claims["client_id"] == "night-job"
    secret.write_text("wrong")
    assert main([*words, "--client-secret-file", str(secret)]) == 2
    assert "wrong" not in capsys.readouterr().err
    assert main(words) == 2
    assert "there is no secret" in capsys.readouterr().err


# --- providers that are slow, broken or hostile ---------------------------------------------------


class Provider:
    """A provider whose device grant answers `polls`, one after the other; tells what was asked."""

    def __init__(self, server: Served, *polls: Answer, **changes: Any) -> None:
        self.server = server
        document = {
            "issuer": server.url,
            "token_endpoint": f"{server.url}/token",
            "device_authorization_endpoint": f"{server.url}/device_authorization",
        } | changes
        self.device = {
            "device_code": "d3vice",
            "user_code": "WDJB-MJHT",
            "verification_uri": f"{server.url}/device",
            "expires_in": 900,
            "interval": 3,
        }
        server.at("GET /.well-known/openid-configuration", Says(document))
        server.at("POST /device_authorization", lambda _: Says(self.device))
        server.at("POST /token", *polls)
        self.slept: list[float] = []
        self.prompts: list[login.Prompt] = []

    def log_in(self, **client: Any) -> login.Token:
        known = {"issuer": self.server.url, "client_id": "cli"} | client
        return login.by_device(
            login.Client(**known),
            self.prompts.append,
            sleep=self.slept.append,
            clock=lambda: sum(self.slept),
        )

    def forms(self, path: str) -> list[dict[str, str]]:
        return [
            dict(urllib.parse.parse_qsl(asked.body.decode()))
            for asked in self.server.asked
            if asked.path == path
        ]


def bearer(**changes: Any) -> Says:
    return Says({"access_token": "t0ken", "token_type": "Bearer", "expires_in": 300} | changes)


def test_it_polls_as_often_as_it_is_told_and_slower_when_told_so() -> None:
    with served() as server:
        provider = Provider(server, PENDING, SLOWER, PENDING, SLOWER, bearer())
        token = provider.log_in()
    assert token.access_token == "t0ken"
    assert provider.slept == [3, 3, 8, 8, 13]  # RFC 8628, section 3.5: 5 seconds more each time
    assert {form["grant_type"] for form in provider.forms("/token")} == {login.DEVICE_GRANT}
    assert {form["device_code"] for form in provider.forms("/token")} == {"d3vice"}


def test_it_asks_for_a_login_of_now_and_for_the_audience() -> None:
    with served() as server:
        provider = Provider(server, bearer())
        provider.log_in(audience="https://review.test/x", scope="openid groups")
        provider.log_in(audience="agentaudit-review")
    first, second = provider.forms("/device_authorization")
    assert (first["prompt"], first["max_age"], first["scope"]) == ("login", "0", "openid groups")
    assert first["audience"] == first["resource"] == "https://review.test/x"
    assert "resource" not in second  # RFC 8707, section 2: an absolute URI
    assert second["audience"] == "agentaudit-review"


def test_where_the_provider_does_not_say_it_waits_five_seconds() -> None:
    with served() as server:
        provider = Provider(server, bearer())
        del provider.device["interval"]
        provider.log_in()
    assert provider.slept == [5]


@pytest.mark.parametrize("ends", [PENDING, Says({"error": "expired_token"}, 400)])
def test_a_code_expires(ends: Says) -> None:
    with served() as server:
        provider = Provider(server, ends)
        provider.device["expires_in"] = 10
        with pytest.raises(login.Refused, match="has expired"):
            provider.log_in()
    assert sum(provider.slept) <= 13


def test_no_answer_makes_it_ask_less_often_until_the_code_is_over() -> None:
    with served() as server:
        provider = Provider(server, Says(b"", 502), Says(b"<html>"), bearer())
        provider.log_in()
        assert provider.slept == [3, 6, 12]
        provider = Provider(server, Says(b"", 502))
        provider.device["expires_in"] = 100
        with pytest.raises(IssuerError, match="502"):
            provider.log_in()
    assert sum(provider.slept) < 100


@pytest.mark.parametrize(
    "poll",
    [
        Says({"error": "invalid_grant", "error_description": "no such code"}, 400),
        Says({"error": "unauthorized_client"}, 401),
        bearer(token_type="DPoP"),
        bearer(access_token=""),
        bearer(access_token=["t"]),
    ],
)
def test_what_is_no_bearer_token_is_none(poll: Says) -> None:
    with served() as server, pytest.raises((IdentityError, IssuerError)):
        Provider(server, poll).log_in()


@pytest.mark.parametrize(
    "changes",
    [
        {"issuer": "https://another.example.com"},
        {"token_endpoint": "http://elsewhere.example.com/token"},
        {"token_endpoint": 1},
        {"device_authorization_endpoint": None},
    ],
)
def test_a_provider_that_is_not_what_it_should_be_gets_no_secret(changes: dict[str, Any]) -> None:
    with served() as server, pytest.raises(IssuerError):
        Provider(server, bearer(), **changes).log_in(secret="s3cret")
    assert not any(b"s3cret" in asked.body for asked in server.asked if asked.path == "/token")


def test_https_leads_to_no_plain_http(authority: Authority) -> None:
    with served() as plain, served(certificate=authority.server()) as server:
        provider = Provider(server, bearer(), token_endpoint=f"{plain.url}/token")
        with pytest.raises(IssuerError, match="from https to plain http"):
            provider.log_in(ca_file=authority.file)
        Provider(server, bearer()).log_in(ca_file=authority.file)
    assert plain.asked == []


def test_people_are_sent_to_the_web_alone_and_their_terminal_is_told_nothing_else(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(login, "INTERVAL_S", 0.01)
    with served() as server:
        provider = Provider(server, bearer())
        provider.device["verification_uri"] = "javascript:alert(1)"
        with pytest.raises(IssuerError):
            provider.log_in()
        provider.device["verification_uri"] = "https://x.test/\x1b[2J"
        provider.device["user_code"] = "\x1b]0;AB\u202e"
        provider.device["interval"] = 0.01
        assert main(["login", "--issuer", server.url, "--client-id", "cli"]) == 0
    printed = capsys.readouterr().err
    assert r"and enter \x1b]0;AB\u202e" in printed
    assert "\x1b" not in printed


@pytest.mark.parametrize("methods", [None, ["client_secret_post"], ["client_secret_basic"]])
def test_a_secret_goes_as_the_provider_wants_it(methods: list[str] | None) -> None:
    changes = {} if methods is None else {"token_endpoint_auth_methods_supported": methods}
    with served() as server:
        Provider(server, bearer(), **changes)
        login.by_credentials(login.Client(server.url, "a b", "s:ö/1"))
        asked = server.asked[-1]
    form = dict(urllib.parse.parse_qsl(asked.body.decode()))
    if methods == ["client_secret_post"]:
        assert (form["client_id"], form["client_secret"]) == ("a b", "s:ö/1")
        assert "Authorization" not in asked.headers
    else:
        # RFC 6749, section 2.3.1 and appendix B.
        pair = base64.b64decode(asked.headers["Authorization"].removeprefix("Basic "))
        assert pair == b"a+b:s%3A%C3%B6%2F1"
        assert "client_secret" not in form


# --- what is kept ---------------------------------------------------------------------------------


def kept(audience: str = "a", got_at: int = 0, **changes: Any) -> tokens.Kept:
    now = int(time.time())
    row = {"issuer": "https://idp.test", "audience": audience, "client_id": "cli"}
    return tokens.Kept(
        **(row | {"token": "t", "got_at": now + got_at, "expires_at": now + 600} | changes)
    )


def test_tokens_are_for_their_user_alone_and_the_last_of_a_kind_is_kept() -> None:
    path = tokens.keep(kept(token="old"))
    tokens.keep(kept(token="new", got_at=1))
    tokens.keep(kept("b", token="other", got_at=-9))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(row["token"] for row in json.loads(path.read_bytes())) == ["new", "other"]
    newest = tokens.newest(control="https://gw.test")
    assert newest is not None
    assert newest.token == "new"
    chosen = tokens.newest(control="https://gw.test", audience="b")
    assert chosen is not None
    assert chosen.token == "other"
    assert "new" not in repr(newest)


def test_a_token_that_is_over_is_used_no_more_and_goes_with_the_next_one() -> None:
    path = tokens.keep(kept(expires_at=int(time.time()) + 5))
    assert tokens.newest(control="https://gw.test") is None
    tokens.keep(kept("b"))
    assert [row["audience"] for row in json.loads(path.read_bytes())] == ["b"]


def test_what_others_could_read_or_nobody_can_is_not_used() -> None:
    path = tokens.keep(kept())
    path.chmod(0o640)
    with pytest.raises(SettingsError, match="others may have read it"):
        tokens.newest(control="https://gw.test")
    path.chmod(0o600)
    path.write_text("[{}]")
    with pytest.raises(SettingsError, match="damaged"):
        tokens.newest(control="https://gw.test")


def test_logins_at_the_same_time_lose_no_token() -> None:
    threads = [threading.Thread(target=tokens.keep, args=(kept(str(n)),)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(json.loads(tokens.file().read_bytes())) == 8


def test_a_login_says_how_long_one_may_decide(
    signing_issuer: SigningIssuer, capsys: pytest.CaptureFixture[str]
) -> None:
    now = int(time.time())
    for auth_time, said in ((now, "it may decide until"), (now - 1000, "too long ago")):
        token = signing_issuer.token("dora", claims={"auth_time": auth_time})

        def answer(_: Asked, token: str = token) -> Says:
            return bearer(access_token=token)

        with served() as server:
            Provider(server, answer).device["interval"] = 0.01
            server.at(
                "POST /device_authorization",
                Says(
                    {"device_code": "d", "user_code": "u", "interval": 0.01}
                    | {"verification_uri": "https://x.test"}
                ),
            )
            assert main(["login", "--issuer", server.url, "--client-id", "cli"]) == 0
        err = capsys.readouterr().err
        assert said in err
        assert "logged in as dora" in err
        assert token not in err


def test_of_an_access_token_that_says_nothing_of_the_login_its_id_token_stands_in(
    signing_issuer: SigningIssuer,
) -> None:
    def tokens(audience: Any, **claims: Any) -> Says:
        stated = {"aud": audience, "auth_time": 1, "exp": 2_000_000_000}
        return bearer(
            access_token=signing_issuer.token("dora", claims=claims),
            id_token=signing_issuer.token("dora", claims=stated),
        )

    with served() as server:
        for answer, is_stated in (
            (tokens("review"), True),
            (tokens(["review"]), True),
            (tokens(["review", "other"]), False),
            (tokens("other"), False),
            (tokens("review", auth_time=2), False),
        ):
            token = Provider(server, answer).log_in(audience="review")
            claims = login._claims(token.access_token)
            assert (claims["aud"] != signing_issuer.audience) is is_stated
            assert (token.expires_at == 2_000_000_000) is is_stated


def test_neither_a_secret_nor_a_token_is_an_argument() -> None:
    named = {
        option
        for verb in verbs().values()
        for action in verb._actions
        for option in action.option_strings
        if re.search("secret|token|password", option) and action.nargs != 0
    }
    files = {"--client-secret-file", "--token-file", "--approver-token-file", "--password-file"}
    assert named == files
