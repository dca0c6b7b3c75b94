"""Gets tokens from an OpenID Connect provider: for people by the device grant, for machines.

The device grant asks for a login of now (`prompt`, `max_age`), because who decides must have logged
in within 15 minutes and a browser may remember a login of this morning. RFC 8628 does not name
these parameters; a provider that does not know them has to ignore them (RFC 6749, section 3.1).

No refresh token is kept, and so none is asked for: what is decided wants a fresh login anyway.

Specifications: RFC 8628 (device grant), RFC 6749, section 4.4 (client credentials), RFC 8707
(resource), OpenID Connect Discovery 1.0.
"""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote_plus, urlencode, urlsplit

from agentaudit.client import web
from agentaudit.errors import IdentityError, IssuerError, QuestionError
from agentaudit.settings.values import refuse_unsafe_url

TIMEOUT_S: Final = 20.0
MAX_ANSWER_BYTES: Final = 1 << 20

DEVICE_GRANT: Final = "urn:ietf:params:oauth:grant-type:device_code"
INTERVAL_S: Final = 5.0
"""Between two polls where the provider does not say; RFC 8628, section 3.2."""

LONGEST_INTERVAL_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Client:
    """Who asks a provider for tokens: `secret` is empty of a public client."""

    issuer: str
    client_id: str
    secret: str = field(default="", repr=False)
    audience: str = ""
    scope: str = "openid"
    ca_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a person is told to do: open `url` and enter `code`, or open `whole_url`, which has it.

    A provider says so: whoever prints it escapes it.
    """

    url: str
    code: str
    whole_url: str


@dataclass(frozen=True, slots=True)
class Token:
    """An access token; times are seconds since 1970, 0 where it does not say.

    Where that does not say when its bearer has logged in, and the ID token that came with it does
    and is for the audience that was asked for, it is the ID token. `user` and `login_at` are what
    it says of itself, which only a gateway checks.
    """

    access_token: str = field(repr=False)
    expires_at: int
    user: str
    login_at: int


class Refused(IdentityError):
    """Whoever was asked said no, or the code has expired."""


def by_device(
    client: Client,
    say: Callable[[Prompt], None],
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Token:
    """Let a person log in with a browser, anywhere, and return the token that they get.

    Raises:
        Refused: they did not.
        IssuerError: the provider cannot be reached, has no such grant, or answers nonsense.
    """
    provider = _Provider(client)
    where = provider.endpoint("device_authorization_endpoint", "the device grant (RFC 8628)")
    form = provider.form(scope=client.scope, prompt="login", max_age="0")
    told = provider.post(where, form)
    if "error" in told:
        raise provider.refusal(told)
    code = _text(told, "device_code", client)
    prompt = _prompt(told, client)
    interval_s = min(_seconds(told, "interval", INTERVAL_S), LONGEST_INTERVAL_S)
    give_up_at = clock() + _seconds(told, "expires_in", 600.0)
    say(prompt)
    token_endpoint = provider.endpoint("token_endpoint", "tokens")
    while True:
        sleep(interval_s)
        if clock() >= give_up_at:
            raise Refused("the code has expired, and nobody logged in", hint="log in again")
        try:
            answer = provider.post(
                token_endpoint,
                provider.form(grant_type=DEVICE_GRANT, device_code=code),
            )
        except IssuerError:
            # RFC 8628, section 3.5: a client that gets no answer asks less often.
            interval_s = min(2 * interval_s, LONGEST_INTERVAL_S)
            if clock() + interval_s >= give_up_at:
                raise
            continue
        error = answer.get("error")
        if error == "slow_down":
            interval_s = min(interval_s + 5.0, LONGEST_INTERVAL_S)
        elif error == "access_denied":
            raise Refused("the login was refused", hint="whoever was asked said no")
        elif error == "expired_token":
            raise Refused("the code has expired, and nobody logged in", hint="log in again")
        elif error is None:
            return _token(answer, client)
        elif error != "authorization_pending":
            raise provider.refusal(answer)


def by_credentials(client: Client) -> Token:
    """Return a token for the client itself, which is a machine.

    Raises:
        IdentityError: the provider does not know it, or its secret is wrong.
        IssuerError: the provider cannot be reached, or answers nonsense.
    """
    provider = _Provider(client)
    answer = provider.post(
        provider.endpoint("token_endpoint", "tokens"),
        provider.form(grant_type="client_credentials", scope=client.scope),
    )
    if "error" in answer:
        raise provider.refusal(answer)
    return _token(answer, client)


class _Provider:
    """A provider as its discovery document describes it."""

    def __init__(self, client: Client) -> None:
        try:
            refuse_unsafe_url(client.issuer)
        except ValueError as error:
            raise QuestionError(f"issuer {client.issuer}: {error}") from None
        self._client = client
        # OpenID Connect Discovery 1.0, section 4: appended, and never a second slash.
        url = f"{client.issuer.rstrip('/')}/.well-known/openid-configuration"
        self._document = self._ask("GET", url, {}, None)
        if self._document.get("issuer") != client.issuer:
            found = str(self._document.get("issuer"))[:200]
            raise IssuerError(
                f"issuer {client.issuer}: its discovery document is of issuer {found!r}",
                hint="give the issuer, to the letter, as the provider calls itself",
            )

    def endpoint(self, name: str, what: str) -> str:
        """Return the address of an endpoint, to which secrets may go."""
        url = self._document.get(name)
        if url is None:
            raise IssuerError(f"issuer {self._client.issuer}: it does not offer {what}")
        try:
            if not isinstance(url, str):
                raise ValueError("not a text")
            refuse_unsafe_url(url)
            if self._client.issuer.startswith("https:") and not url.startswith("https:"):
                raise ValueError("leads from https to plain http")
        except ValueError as error:
            raise IssuerError(f"issuer {self._client.issuer}: {name}: {error}") from None
        return url

    def form(self, **members: str) -> dict[str, str]:
        """Return what a request to the provider says, and what for."""
        audience = self._client.audience
        if audience:
            # One name for it is a standard's, which wants an absolute URI; the other is what
            # providers had before there was one, and others ignore.
            members["audience"] = audience
            if urlsplit(audience).scheme and not urlsplit(audience).fragment:
                members["resource"] = audience
        return {name: value for name, value in members.items() if value}

    def post(self, url: str, form: Mapping[str, str]) -> dict[str, Any]:
        """Return the answer to `form`, which may be an error in RFC 6749's form."""
        client = self._client
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        body = {**form, "client_id": client.client_id}
        if client.secret:
            known = self._document.get("token_endpoint_auth_methods_supported")
            methods = known if isinstance(known, list) else ["client_secret_basic"]
            if "client_secret_basic" in methods or "client_secret_post" not in methods:
                # RFC 6749, section 2.3.1: both are form-encoded before they are joined.
                pair = f"{quote_plus(client.client_id)}:{quote_plus(client.secret)}"
                headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
                del body["client_id"]
            else:
                body["client_secret"] = client.secret
        return self._ask("POST", url, headers, urlencode(body).encode())

    def refusal(self, answer: Mapping[str, Any]) -> IdentityError:
        said = str(answer.get("error_description") or answer["error"])[:500]
        return IdentityError(
            f"issuer {self._client.issuer}: {said}",
            hint="its administrator says what this client may ask for",
        )

    def _ask(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> dict[str, Any]:
        where = f"issuer {self._client.issuer}"
        try:
            answer = web.ask(
                method,
                url,
                headers=headers,
                body=body,
                ca_file=self._client.ca_file,
                timeout_s=TIMEOUT_S,
                most_bytes=MAX_ANSWER_BYTES,
            )
        except web.NoAnswer as error:
            raise IssuerError(f"{where}: {error}") from None
        value = answer.value
        if not isinstance(value, dict):
            raise IssuerError(f"{where}: HTTP status {answer.status}, and no JSON object")
        # Errors of these endpoints are 400 or 401, with a member `error`.
        if answer.status != 200 and (answer.status >= 500 or "error" not in value):
            raise IssuerError(f"{where}: HTTP status {answer.status}")
        return value


def _prompt(told: Mapping[str, Any], client: Client) -> Prompt:
    url = _text(told, "verification_uri", client)
    whole = told.get("verification_uri_complete")
    for each in (url, whole):
        if isinstance(each, str) and urlsplit(each).scheme not in ("http", "https"):
            raise IssuerError(f"issuer {client.issuer}: it sends people to no address of the web")
    return Prompt(url, _text(told, "user_code", client), whole if isinstance(whole, str) else "")


def _token(answer: Mapping[str, Any], client: Client) -> Token:
    token = _text(answer, "access_token", client)
    if str(answer.get("token_type")).lower() != "bearer":
        raise IssuerError(f"issuer {client.issuer}: its token is no bearer token")
    claims = _claims(token)
    expires_in = answer.get("expires_in")
    stated = answer.get("id_token")
    if isinstance(stated, str) and "auth_time" not in claims:
        of_login = _claims(stated)
        if "auth_time" in of_login and of_login.get("aud") in (client.audience, [client.audience]):
            token, claims, expires_in = stated, of_login, None
    if isinstance(expires_in, int | float) and expires_in > 0:
        expires_at = int(time.time() + expires_in)
    else:
        expires_at = _number(claims, "exp")
    user = claims.get("sub")
    return Token(
        token, expires_at, user if isinstance(user, str) else "", _number(claims, "auth_time")
    )


def _claims(token: str) -> dict[str, Any]:
    """Return what a JWT says, unchecked; nothing of what is none."""
    part = token.split(".")[1] if token.count(".") == 2 else ""
    try:
        claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


def _number(claims: Mapping[str, Any], name: str) -> int:
    value = claims.get(name)
    return int(value) if isinstance(value, int | float) and 0 < value < 1 << 40 else 0


def _text(told: Mapping[str, Any], name: str, client: Client) -> str:
    value = told.get(name)
    if not isinstance(value, str) or not value:
        raise IssuerError(f"issuer {client.issuer}: its answer has no {name}")
    return value


def _seconds(told: Mapping[str, Any], name: str, otherwise: float) -> float:
    value = told.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
        return otherwise
    return float(value)
