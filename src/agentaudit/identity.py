"""Who a token's bearer is: OIDC discovery, key sets, and claims turned into an `Actor`.

Everything fails closed: a token is accepted only if a configured issuer's key, fetched from where
that issuer's own discovery document points, signed it with an algorithm that the settings allow.
Addresses, keys and algorithms that a token brings along (`jku`, `jwk`, `x5u`, `alg`) decide
nothing. Fetching happens on a thread of its own, once for all who wait, so that a slow issuer
delays its own users and nobody else.

Sources: OpenID Connect Discovery 1.0; RFC 7517 (keys), 7519 (tokens), 8725 (how they are abused),
9068 (access tokens), 8693 (delegation, the `act` claim).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import http.client
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, TypeGuard
from urllib.parse import SplitResult, urlsplit

import jwt

from agentaudit.errors import IdentityError, IssuerError
from agentaudit.model import Actor
from agentaudit.settings.tables import Issuer
from agentaudit.settings.values import is_loopback, refuse_unsafe_url

MAX_TOKEN_BYTES: Final = 16 * 1024
"""Twice what the largest providers issue; a PostgreSQL password message could hold far more."""

MAX_DOCUMENT_BYTES: Final = 1024 * 1024
FETCH_TIMEOUT_S: Final = 10.0
"""For discovery and keys together: shorter than a client's patience, longer than a bad network."""

REFRESH_AFTER_S: Final = 15 * 60.0
KEYS_LIVE_S: Final = 60 * 60.0
"""A withdrawn key is trusted for at most this long, its issuer being out of reach."""

RETRY_AFTER_S: Final = 5.0
"""Between two fetches from one issuer, so that tokens with invented key ids cannot drive them."""

LEEWAY_S: Final = 60.0
"""How far an issuer's clock and ours may be apart, either way; a token is never taken beyond it.

A fresh token is of this very second, so with less of it a clock that is off ends every login."""

MAX_TIME_S: Final = 253_402_300_800
"""The year 10000. An `exp` beyond it counts milliseconds, by mistake, and would never come."""

MAX_DELEGATORS: Final = 8

_CANONICAL: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_TOKEN_TYPES: Final = frozenset({"jwt", "at+jwt", "application/jwt", "application/at+jwt"})
_KEY_TYPE: Final = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
_OTHER_USES: Final = frozenset({"refresh", "offline", "logout"})


@dataclass(frozen=True, slots=True)
class Bearer:
    """Who brought a token, and which token it was."""

    actor: Actor
    token_id: str
    """What a list of used tokens knows it by: 64 hex digits, from which nothing of it is had back.

    It is of what the issuer said, (`iss`, `jti`) or else header and claims, and never of the
    signature: of an ECDSA signature (r, s) anybody makes another one that is as good, (r, n - s).
    """
    expires_us: int
    """When it expires, in microseconds since 1970; it is taken for `LEEWAY_S` longer."""


@dataclass(frozen=True, slots=True)
class KeySet:
    """An issuer's public keys as fetched at one moment."""

    keys: tuple[Mapping[str, Any], ...]
    _made: dict[tuple[int, str], jwt.PyJWK] = field(default_factory=dict)

    def find(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        """Return the key that `kid` names and that may sign with `algorithm`, or None.

        Without a `kid` the only key that fits is taken; of several, none.
        """
        fitting = [
            index
            for index, key in enumerate(self.keys)
            if (kid is None or key.get("kid") == kid) and _may_verify(key, algorithm)
        ]
        if len(fitting) != 1:
            return None
        place = (fitting[0], algorithm)
        if place not in self._made:
            try:
                self._made[place] = jwt.PyJWK(dict(self.keys[fitting[0]]), algorithm=algorithm)
            except (jwt.PyJWTError, ValueError, TypeError, KeyError):
                return None  # the library lets some of what a broken key leads to through
        return self._made[place]

    def count_for(self, algorithms: Sequence[str]) -> int:
        """Return how many keys may verify signatures of at least one of `algorithms`."""
        return sum(any(_may_verify(key, each) for each in algorithms) for key in self.keys)


def _may_verify(key: Mapping[str, Any], algorithm: str) -> bool:
    operations = key.get("key_ops")
    return (
        key.get("kty") == _KEY_TYPE[algorithm[:2]]
        and key.get("use", "sig") == "sig"
        and key.get("alg", algorithm) == algorithm
        and (operations is None or (isinstance(operations, list) and "verify" in operations))
    )


def configuration_url(issuer: Issuer) -> str:
    """Return where `issuer` describes itself: OpenID Connect Discovery 1.0, section 4."""
    return issuer.url.rstrip("/") + "/.well-known/openid-configuration"


def fetch_keys(issuer: Issuer, *, timeout: float = FETCH_TIMEOUT_S) -> KeySet:
    """Return the keys that `issuer` publishes now; blocks for at most about `timeout` seconds.

    Raises:
        IssuerError: it cannot be reached, or answers something unusable.
    """
    give_up_at = time.monotonic() + timeout
    context = None
    if issuer.url.startswith("https:"):
        try:
            context = ssl.create_default_context(cafile=issuer.ca_file)
        except OSError as error:
            raise IssuerError(
                f"issuer {issuer.url}: ca_file {issuer.ca_file}: {error.strerror or error}"
            ) from None
    document = _fetch_json(configuration_url(issuer), issuer, context, give_up_at)
    if document.get("issuer") != issuer.url:
        found = str(document.get("issuer"))[:200]
        raise IssuerError(
            f"issuer {issuer.url}: its discovery document is of issuer {found!r}",
            hint="the url in the settings must be, to the letter, what the provider calls itself",
        )
    keys_address = document.get("jwks_uri")
    try:
        if not isinstance(keys_address, str):
            raise ValueError("missing")
        refuse_unsafe_url(keys_address)
        secure = keys_address.startswith("https:")
        if context is None and secure:
            context = ssl.create_default_context(cafile=issuer.ca_file)
        if issuer.url.startswith("https:") and not secure:
            raise ValueError("leads from https to plain http")
    except ValueError as error:
        raise IssuerError(f"issuer {issuer.url}: jwks_uri: {error}") from None
    keys = _fetch_json(keys_address, issuer, context, give_up_at).get("keys")
    if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
        raise IssuerError(f"issuer {issuer.url}: {keys_address} holds no list of keys")
    return KeySet(tuple(keys))


def _fetch_json(
    address: str, issuer: Issuer, context: ssl.SSLContext | None, give_up_at: float
) -> dict[str, Any]:
    """Return the JSON object at `address`; neither redirects nor proxies are followed."""
    where = f"issuer {issuer.url}: {address}"
    parts = urlsplit(address)
    remaining = give_up_at - time.monotonic()
    if remaining <= 0:
        raise IssuerError(f"{where}: no answer in time")
    connection = _connection(parts, context, remaining)
    # The socket's own timeout counts from the last byte: a server that drips would never end it.
    has_hung_up = threading.Event()
    watchdog = threading.Timer(remaining, _hang_up)
    watchdog.daemon = True
    try:
        connection.connect()
        # `http.client` forgets the socket once it knows that nothing else will come on it.
        watchdog.args = (connection.sock, has_hung_up)
        watchdog.start()
        path = parts.path or "/"
        connection.request("GET", path, headers={"Accept": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            raise IssuerError(f"{where}: HTTP status {response.status}")
        body = response.read(MAX_DOCUMENT_BYTES + 1)
    except (OSError, ValueError, http.client.HTTPException) as error:
        # ValueError: a host or a path that cannot be put into a request.
        is_late = has_hung_up.is_set() or isinstance(error, TimeoutError)
        problem = "no answer in time" if is_late else _reason(error)
        raise IssuerError(f"{where}: {problem}") from None
    finally:
        watchdog.cancel()
        connection.close()
    if has_hung_up.is_set():
        raise IssuerError(f"{where}: no answer in time")
    if len(body) > MAX_DOCUMENT_BYTES:
        raise IssuerError(f"{where}: more than {MAX_DOCUMENT_BYTES} bytes")
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise IssuerError(f"{where}: not JSON") from None
    if not isinstance(document, dict):
        raise IssuerError(f"{where}: not a JSON object")
    return document


def _connection(
    parts: SplitResult, context: ssl.SSLContext | None, timeout: float
) -> http.client.HTTPConnection:
    host = parts.hostname or ""
    if parts.scheme == "https":
        return http.client.HTTPSConnection(host, parts.port, timeout=timeout, context=context)
    if not is_loopback(host):
        raise ValueError(f"plain http to {host}")
    return http.client.HTTPConnection(host, parts.port, timeout=timeout)


def _hang_up(connected: socket.socket, has_hung_up: threading.Event) -> None:
    has_hung_up.set()
    try:
        connected.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it ended by itself in the same moment


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return f"TLS: {getattr(error, 'verify_message', '') or error.reason or 'failed'}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return type(error).__name__


class _Source:
    """One issuer, its keys as last fetched, and the fetch that may be under way."""

    def __init__(
        self,
        settings: Issuer,
        executor: ThreadPoolExecutor,
        fetch: Callable[[Issuer], KeySet],
        clock: Callable[[], float],
    ) -> None:
        self.settings = settings
        self._executor = executor
        self._fetch = fetch
        self._clock = clock
        self._keys: KeySet | None = None
        self._fetched_at = 0.0
        self._tried_at = float("-inf")
        self._under_way: asyncio.Future[KeySet] | None = None
        self._failure: IssuerError | None = None

    async def key(self, kid: str | None, algorithm: str) -> jwt.PyJWK:
        """Return the key to verify with.

        Raises:
            IssuerError: no keys, and none to be had now.
            IdentityError: the issuer has no such key.
        """
        age = self._clock() - self._fetched_at
        if self._keys is not None and age < KEYS_LIVE_S:
            if age >= REFRESH_AFTER_S:
                self._start()
            key = self._keys.find(kid, algorithm)
            if key is not None:
                return key
        # Either there are no keys, or a new one has been published since they were fetched.
        fetch = self._start()
        if fetch is not None:
            # Shielded: who hangs up must not take the fetch away from the others that wait for it.
            self._keys = await asyncio.shield(fetch)
        elif self._failure is not None:
            # It may publish the key by now: what cannot be asked is not the token's fault.
            raise self._failure
        elif self._keys is None or age >= KEYS_LIVE_S:
            raise IssuerError(f"issuer {self.settings.url}: no keys")
        key = self._keys.find(kid, algorithm)
        if key is None:
            raise IdentityError("the token is signed with a key that its issuer does not publish")
        return key

    def _start(self) -> asyncio.Future[KeySet] | None:
        """Return the fetch under way, a new one, or None if there can be none now."""
        if self._under_way is None:
            if self._clock() - self._tried_at < RETRY_AFTER_S:
                return None
            self._tried_at = self._clock()
            loop = asyncio.get_running_loop()
            try:
                self._under_way = loop.run_in_executor(self._executor, self._fetch, self.settings)
            except RuntimeError:
                # Closed: other settings are in force since this login began.
                self._failure = IssuerError(f"issuer {self.settings.url}: is not asked any more")
                return None
            self._under_way.add_done_callback(self._finish)
        return self._under_way

    def _finish(self, fetch: asyncio.Future[KeySet]) -> None:
        self._under_way = None
        if fetch.cancelled():
            return
        error = fetch.exception()
        if error is None:
            self._keys = fetch.result()
            self._fetched_at = self._clock()
            self._failure = None
        elif isinstance(error, IssuerError):
            self._failure = error


class Verifier:
    """Turns tokens into actors, for all configured issuers; belongs to one event loop."""

    def __init__(
        self,
        issuers: Sequence[Issuer],
        *,
        fetch: Callable[[Issuer], KeySet] = fetch_keys,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._executor = ThreadPoolExecutor(max_workers=4, thread_name_prefix="issuer")
        self._sources = {
            issuer.url: _Source(issuer, self._executor, fetch, clock) for issuer in issuers
        }
        self._wall_clock = wall_clock

    def close(self) -> None:
        """Fetch no more; what is under way still serves those who wait for it."""
        self._executor.shutdown(wait=False)

    async def actor(
        self, token: str, *, audience: str | None = None, login_age_s: float | None = None
    ) -> Actor:
        """Return who `token` says its bearer is: `bearer`, where it is not asked which token."""
        bearer = await self.bearer(token, audience=audience, login_age_s=login_age_s)
        return bearer.actor

    async def bearer(
        self, token: str, *, audience: str | None = None, login_age_s: float | None = None
    ) -> Bearer:
        """Return who `token` says its bearer is, and what the token is known by.

        An access token is needed; where it is asked how long ago its bearer logged in, an ID token
        will do as well, which is a statement of just that.

        `audience` is what it must be for, in place of what its issuer's settings say, and
        `login_age_s` how long ago its bearer may have logged in: a token that says nothing of the
        login (`auth_time`) does not show that, however new it is.

        Raises:
            IdentityError: the token proves nothing; the message says why and never holds it.
            IssuerError: its issuer's keys cannot be had.
        """
        header, claims = _peek(token)
        issuer = claims.get("iss")
        source = self._sources.get(issuer) if isinstance(issuer, str) else None
        if source is None:
            raise IdentityError("the token is from an issuer that is not configured here")
        algorithm = _algorithm(header, source.settings)
        kid = header.get("kid")
        if kid is not None and not isinstance(kid, str):
            raise IdentityError("the token's key id is not a text")
        key = await source.key(kid, algorithm)
        audiences = source.settings.audience if audience is None else (audience,)
        verified = _verify(token, key, algorithm, source.settings, audiences)
        now = self._wall_clock()
        _refuse_untimely(verified, now)
        _refuse_other_use(verified, takes_id_token=login_age_s is not None)
        if login_age_s is not None:
            _refuse_old_login(verified, now, login_age_s)
        _refuse_unmatched(verified, source.settings.require)
        return Bearer(
            _actor(verified, source.settings),
            _token_id(token, verified),
            int(verified["exp"] * 1_000_000),
        )


def _peek(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return header and claims, unverified, of a token in canonical encoding."""
    if len(token) > MAX_TOKEN_BYTES:
        raise IdentityError(f"the token is longer than {MAX_TOKEN_BYTES} bytes")
    # Two encodings of one signature would pass for two tokens wherever used ones are remembered.
    if not _CANONICAL.fullmatch(token):
        raise IdentityError("the password is not a token (expected three base64url parts)")
    header, claims, _ = (_decode_part(part) for part in token.split("."))
    return _object(header), _object(claims)


def _decode_part(part: str) -> bytes:
    try:
        raw = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except ValueError:
        raise IdentityError("the token is not canonical base64url") from None
    if base64.urlsafe_b64encode(raw).rstrip(b"=") != part.encode():
        raise IdentityError("the token is not canonical base64url")
    return raw


def _object(raw: bytes) -> dict[str, Any]:
    try:
        # Decoded here: from bytes, json would take UTF-16 and UTF-32 too.
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_distinct)
        # Half of a surrogate pair is no text; the archive could not tell one from another.
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError):
        raise IdentityError("the token's header or claims are not JSON") from None
    if not isinstance(value, dict):
        raise IdentityError("the token's header or claims are not a JSON object")
    return value


def _distinct(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return `members`; RFC 7519, section 4: names are unique, or readers disagree on values."""
    found = dict(members)
    if len(found) != len(members):
        raise IdentityError("the token says something twice (two JSON members of one name)")
    return found


def _algorithm(header: Mapping[str, Any], issuer: Issuer) -> str:
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in issuer.algorithms:
        raise IdentityError("the token is signed with an algorithm that is not allowed here")
    if "crit" in header:
        raise IdentityError("the token demands extensions that are not known here")
    kind = header.get("typ", "JWT")
    # RFC 8725, section 3.11: a logout token or a signed event is not a proof of who connects.
    if not isinstance(kind, str) or kind.lower() not in _TOKEN_TYPES:
        raise IdentityError("the token is of another type than a JWT or an access token")
    return algorithm


_REASONS: Final[Sequence[tuple[type[jwt.PyJWTError], str]]] = (
    (jwt.InvalidSignatureError, "the token's signature is wrong"),
    (jwt.InvalidAudienceError, "the token is for another audience"),
    (jwt.MissingRequiredClaimError, "the token lacks a claim: iss, sub, aud and exp are needed"),
    (jwt.InvalidIssuerError, "the token is from another issuer"),
)


def _verify(
    token: str, key: jwt.PyJWK, algorithm: str, issuer: Issuer, audiences: Sequence[str]
) -> dict[str, Any]:
    try:
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            audience=audiences,
            issuer=issuer.url,
            options={
                "require": ["iss", "sub", "aud", "exp"],
                "enforce_minimum_key_length": True,
                # Times are held against the clock below: this library takes "1e9" and True too.
                "verify_exp": False,
                "verify_nbf": False,
                "verify_iat": False,
            },
        )
    except jwt.PyJWTError as error:
        for kind, reason in _REASONS:
            if isinstance(error, kind):
                raise IdentityError(reason) from None
        # Texts of the library may quote the token.
        raise IdentityError("the token is not valid") from None
    return claims


def _refuse_untimely(claims: Mapping[str, Any], now: float) -> None:
    times: dict[str, float] = {}
    for name in ("exp", "nbf", "iat"):
        value = claims.get(name)
        if value is None and name != "exp":
            continue
        if not _is_time(value):
            raise IdentityError(f"the token's {name} is not a time")
        times[name] = value
    if times["exp"] <= now - LEEWAY_S:
        raise IdentityError("the token has expired")
    if max(times.get("nbf", 0), times.get("iat", 0)) > now + LEEWAY_S:
        raise IdentityError("the token is not valid yet")


def _is_time(value: object) -> TypeGuard[float]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 <= value < MAX_TIME_S  # so neither NaN nor Infinity, which Python's JSON lets in


def _refuse_other_use(claims: Mapping[str, Any], *, takes_id_token: bool) -> None:
    """Refuse what its issuer marks as something else than an access token.

    Few issuers say so in the header's `typ` (RFC 9068). Amazon Cognito and nanoidp have a claim
    `token_use`, Keycloak a claim `typ`; and the hashes of what was issued along with it are in
    an ID token alone (OpenID Connect Core 1.0, section 3.1.3.6 and 3.3.2.11).
    """
    uses = {str(claims.get(name)).lower() for name in ("token_use", "typ")}
    if uses & _OTHER_USES:
        raise IdentityError("the token is not an access token", hint="send the access token")
    is_id_token = "id" in uses or "at_hash" in claims or "c_hash" in claims
    if is_id_token and not takes_id_token:
        raise IdentityError("the token is an ID token", hint="send the access token")


def _token_id(token: str, claims: Mapping[str, Any]) -> str:
    """Return what tells this token from others, whatever its signature is."""
    jti = claims.get("jti")
    # An issuer that sets an empty one, and so always the same, does not name its tokens.
    said = ["jti", claims["iss"], jti] if jti else ["signing input", token.rpartition(".")[0]]
    return hashlib.sha256(json.dumps(["agentaudit token", *said]).encode("ascii")).hexdigest()


def _refuse_old_login(claims: Mapping[str, Any], now: float, login_age_s: float) -> None:
    """Refuse who logged in longer ago; OpenID Connect Core 1.0, section 2, `auth_time`."""
    value = claims.get("auth_time")
    if not _is_time(value):
        raise IdentityError(
            "the token does not say when its bearer logged in (auth_time)",
            hint="ask the provider for it: max_age in the request, or a setting of the client",
        )
    # No grace for what is old: who has to log in again loses nothing by it.
    if not now - login_age_s <= value <= now + LEEWAY_S:
        raise IdentityError(
            f"the login was more than {login_age_s / 60:.0f} minutes ago", hint="log in again"
        )


def _claim(claims: Mapping[str, Any], path: str) -> Any:
    """Return the claim at `path`, or None.

    A claim of exactly that name wins over a dotted path: some providers demand names that are
    addresses, like `https://example.com/groups`.
    """
    if path in claims:
        return claims[path]
    value: Any = claims
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _refuse_unmatched(claims: Mapping[str, Any], require: Mapping[str, Any]) -> None:
    for path, wanted in require.items():
        found = _claim(claims, path)
        accepted = wanted if isinstance(wanted, tuple) else (wanted,)
        said = found if isinstance(found, list) else [found]
        # type() too: JSON's true is not the number 1, though Python holds them equal.
        if not any(
            value == want and type(value) is type(want) for value in said for want in accepted
        ):
            raise IdentityError(f'the token\'s claim "{path}" is not what is required here')


def _groups(claims: Mapping[str, Any], path: str) -> tuple[str, ...]:
    found = _claim(claims, path)
    # Microsoft Entra leaves the list out beyond 200 groups and points elsewhere instead. Where some
    # are named nevertheless the list is not whole, and a rule may be about those that are missing.
    elsewhere = claims.get("_claim_names")
    if (claims.get("hasgroups") and not found) or (
        isinstance(elsewhere, dict) and path in elsewhere
    ):
        raise IdentityError(
            "the token does not name its bearer's groups, because they are too many",
            hint="let the issuer put only the groups of this application into the token",
        )
    if found is None:
        return ()
    groups = [found] if isinstance(found, str) else found
    if not isinstance(groups, list) or not all(isinstance(group, str) for group in groups):
        raise IdentityError(f'the token\'s claim "{path}" is not a list of groups')
    return tuple(dict.fromkeys(groups))


def _chain(claims: Mapping[str, Any]) -> tuple[str, ...]:
    subjects = [claims["sub"]]
    acting = claims.get("act")
    while acting is not None:
        subject = acting.get("sub") if isinstance(acting, dict) else None
        if not isinstance(subject, str) or len(subjects) > MAX_DELEGATORS:
            raise IdentityError("the token's chain of delegation (act) is broken or too long")
        subjects.append(subject)
        acting = acting.get("act")
    return tuple(subjects)


def _actor(claims: Mapping[str, Any], issuer: Issuer) -> Actor:
    if not claims["sub"] or not claims["sub"].isprintable():
        raise IdentityError("the token's subject is empty, or is no text that can be shown")
    user = _claim(claims, issuer.user_claim)
    if not isinstance(user, str) or not user:
        raise IdentityError(f'the token\'s claim "{issuer.user_claim}" names no user')
    agent = _claim(claims, issuer.agent_claim)
    if agent is None and issuer.agent_claim == "azp":
        agent = claims.get("client_id")
    email = claims.get("email")
    verified = claims.get("email_verified")
    is_verified = verified is True or verified == "true"
    if issuer.user_claim == "email" and verified is not None and not is_verified:
        # Where people may enter an address of their own, this one could be anybody's.
        raise IdentityError("the token's email, which names the user here, is not verified")
    return Actor(
        user=user,
        subject=claims["sub"],
        issuer=issuer.url,
        agent=agent if isinstance(agent, str) else "",
        email=email if is_verified and isinstance(email, str) else None,
        groups=_groups(claims, issuer.groups_claim),
        chain=_chain(claims),
    )
