"""What `agentaudit check` does: try all that the settings name, and say what is wrong and where.

Each finding is a value, not an error: one target that is down must not hide a second one. The
logins are the gateway's own code, so what works here works there.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from agentaudit import _native
from agentaudit.archive.anchors import request_token
from agentaudit.archive.clocks import SystemClock
from agentaudit.archive.keys import Place, load_key
from agentaudit.archive.note import Cosigner
from agentaudit.archive.outside import AnchorPeer, post, reason_of
from agentaudit.errors import AgentauditError, ArchiveError, IssuerError, SettingsError
from agentaudit.gateway import backend
from agentaudit.gateway.connections import Poller
from agentaudit.gateway.serving import (
    host_access,
    prepare,
    read_host_key,
    ssh_authority,
    target_access,
)
from agentaudit.gateway.wire import reason
from agentaudit.identity import fetch_keys
from agentaudit.protocols import postgres_messages as messages
from agentaudit.settings.tables import Anchor, Issuer, PostgresTarget, SshTarget, Target, Witness
from agentaudit.settings.whole import Settings

LOGIN_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was tried: whether it will do, what was seen, and what to do about it."""

    name: str
    ok: bool
    message: str
    hint: str = ""


def check(settings: Settings) -> list[Check]:
    """Return what came of trying the settings; blocks, for up to half a minute an address."""
    findings = [_archive(settings), _sealing(), _workers(settings), *_keys(settings)]
    findings += [_retention(settings), _rules(settings), *_holds(settings)]
    findings += _uncounted(settings)
    if settings.needs_state:
        findings.append(_state(settings))
    findings += _listener(settings)
    findings += [_witness(witness) for witness in settings.witness]
    findings += [_anchor(anchor) for anchor in settings.anchor]
    findings += [_issuer(issuer) for issuer in settings.issuer]
    if not settings.issuer:
        findings.append(
            Check("issuer", False, "none is set: nobody can connect", "add an [[issuer]]")
        )
    findings += asyncio.run(_targets(settings))
    if settings.listen.ssh is not None:
        findings.append(_host_key(settings))
    if settings.gateway.ssh_ca_key_file is not None:
        findings.append(_ssh_authority(settings))
    if not settings.target:
        findings.append(
            Check(
                "target", False, "none is set: there is nothing to connect to", "add a [[target]]"
            )
        )
    return findings


def _host_key(settings: Settings) -> Check:
    from agentaudit.gateway.ssh_target import host_key

    name = "gateway.ssh_host_key_file"
    try:
        key = host_key(settings, read_host_key(settings))
    except AgentauditError as error:
        return Check(name, False, str(error), error.hint)
    return Check(name, True, f"clients know it by {key.get_fingerprint()}")


def _ssh_authority(settings: Settings) -> Check:
    name = "gateway.ssh_ca_key_file"
    try:
        authority = ssh_authority(settings)
    except AgentauditError as error:
        return Check(name, False, str(error), error.hint)
    assert authority is not None
    return Check(name, True, f"signs certificates as {authority.fingerprint}")


def _archive(settings: Settings) -> Check:
    folder = settings.gateway.archive
    name = f"archive {folder}"
    nearest = folder
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        return Check(name, False, f"{nearest} cannot be written", "the gateway's user must own it")
    status = os.statvfs(nearest)
    free = status.f_bavail * status.f_frsize
    gib = f"{free / (1 << 30):.1f} GiB free"
    if free < settings.limits.disk_stop:
        return Check(name, False, f"{gib}, less than limits.disk_stop", "free space first")
    if free < settings.limits.disk_warn:
        return Check(name, True, f"{gib}, less than limits.disk_warn", "free space soon")
    return Check(name, True, gib)


def _sealing() -> Check:
    if _native.why_slow:
        message = f"by loops in Python, slowly: the compiled ones {_native.why_slow}"
        return Check("sealing", True, message, "install with a C compiler")
    return Check("sealing", True, "by compiled loops")


def _workers(settings: Settings) -> Check:
    names = settings.gateway.names
    processors = len(os.sched_getaffinity(0))
    if len(names) == 1:
        return Check("workers", True, f"1, on {processors} processors")
    message = f"{len(names)}, {names[0]} to {names[-1]}, on {processors} processors"
    hint = "more workers than processors share them" if len(names) > processors else ""
    return Check("workers", True, message, hint)


def _keys(settings: Settings) -> list[Check]:
    """Say of each log whether its key is there; of a gateway without workers there is one."""
    own = settings.gateway
    findings = []
    for gateway in own.names:
        place = Place(archive=own.archive, gateway=gateway, origin=own.origin, keys=own.keys)
        name = f"keys {own.keys}"
        try:
            load_key(place)
        except AgentauditError as error:
            findings.append(Check(name, False, str(error), error.hint))
        else:
            message = f"of the log {place.log_origin}, as the settings say"
            findings.append(Check(name, True, message))
    return findings


def _retention(settings: Settings) -> Check:
    """Say of each target how long it is kept: what nobody set must not surprise."""
    if not settings.retention:
        return Check("retention", True, "no policy: everything is kept for ever")
    classes = {retention.name: retention for retention in settings.retention}
    told = []
    for target in settings.target:
        kept = classes.get(target.retention or "")
        if kept is None:
            told.append(f"{target.name} kept for ever")
        elif kept.payload_keep is None:
            told.append(f"{target.name} kept for {_days(kept.keep)}")
        else:
            told.append(
                f"{target.name} kept for {_days(kept.keep)}, payloads {_days(kept.payload_keep)}"
            )
    return Check("retention", True, "; ".join([*told, "what has no target is kept for ever"]))


def _rules(settings: Settings) -> Check:
    """Say of each target what happens to what no rule is about."""
    defaults = {"allow": "allowed", "deny": "denied, but for reads", "hold": "held, but for reads"}
    told = [f"{target.name}: the rest is {defaults[target.default]}" for target in settings.target]
    count = len(settings.rule)
    return Check("rules", True, "; ".join([f"{count} rule{'' if count == 1 else 's'}", *told]))


def _holds(settings: Settings) -> list[Check]:
    """Say what nobody could ever decide on."""
    nobody = [f'rule "{r.name}"' for r in settings.rule if r.action == "hold" and not r.approvers]
    for target in settings.target:
        if target.default == "hold" and not target.approvers:
            nobody.append(f'target "{target.name}" (default)')
        if target.access == "request" and not target.approvers:
            nobody.append(f'target "{target.name}" (access)')
    findings = [
        Check("approvers", False, f"{where}: nobody may decide, so it is denied", "set approvers")
        for where in nobody
    ]
    if settings.needs_state and settings.listen.control is None:
        message = "people are asked here, and listen.control is not set"
        hint = "decisions can be made by another gateway that shares the state"
        findings.append(Check("control", True, message, hint))
    return findings


def _uncounted(settings: Settings) -> list[Check]:
    """Say which rules count rows where nobody can."""
    return [
        Check(
            "rows_over",
            False,
            f'rule "{rule.name}": on target "{target.name}" nobody counts, so all is over',
            "set inspect_user there",
        )
        for rule in settings.rule
        for target in settings.target
        if rule.when.rows_over is not None
        and (rule.when.target is None or target.name in rule.when.target)
        and not (isinstance(target, PostgresTarget) and target.inspect_user)
    ]


def _state(settings: Settings) -> Check:
    from agentaudit.gateway.state import State  # takes longer to load than all else here

    base = Path() if settings.path is None else settings.path.parent
    try:
        State.open(settings.gateway.state, base=base).close()
    except AgentauditError as error:
        return Check("state", False, str(error), error.hint)
    return Check("state", True, "opened, and of this release")


def _days(duration: timedelta) -> str:
    days, rest = divmod(duration, timedelta(days=1))
    return f"{days} d" if not rest else str(duration)


def _listener(settings: Settings) -> list[Check]:
    address = settings.listen.postgres
    name = f"listen postgres {address}"
    if address is None:
        return [Check("listen", False, "no address is set: nobody can connect", "set one")]
    try:
        prepare(settings.model_copy(update={"target": ()})).verifier.close()
    except SettingsError as error:
        return [Check(name, False, str(error), error.hint)]
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                message = "in use: by this gateway, if it runs already"
                return [Check(name, True, message)]
            return [Check(name, False, reason(error))]
    encrypted = settings.gateway.tls_cert_file is not None
    return [
        Check(name, True, "free, with TLS" if encrypted else "free, without TLS: loopback only")
    ]


def _witness(witness: Witness) -> Check:
    name = f"witness {witness.url}"
    url = f"{witness.url.rstrip('/')}/add-checkpoint"
    ca_file = None if witness.ca_file is None else str(witness.ca_file)
    try:
        Cosigner.parse(witness.key)
        # No request of the protocol, so that nothing is asked of it: it says so, and is there.
        status = post(url, b"", "text/plain; charset=utf-8", ca_file).status
    except ArchiveError as error:
        return Check(name, False, str(error), error.hint)
    except OSError as error:
        return Check(name, False, reason_of(error), "recording goes on without it, uncovered")
    if status != 400:
        return Check(name, False, f"it answers {status}", "is that its submission prefix?")
    return Check(name, True, "there; whether it knows this log shows when it is asked")


def _anchor(anchor: Anchor) -> Check:
    name = f"anchor {anchor.url}"
    ca_file = None if anchor.ca_file is None else str(anchor.ca_file)
    peer = AnchorPeer(url=anchor.url, interval_s=0.0, ca_file=ca_file)
    try:
        request_token(peer, b"agentaudit check\n")
    except ModuleNotFoundError as error:
        hint = "pip install 'agentaudit[timestamps]'"
        return Check(name, False, f"needs the module {error.name}", hint)
    except ArchiveError as error:
        return Check(name, False, str(error), error.hint)
    except OSError as error:
        return Check(name, False, reason_of(error))
    held = "unverified: there is no ca_file" if ca_file is None else "verified with its ca_file"
    return Check(name, True, f"a time stamp came, {held}")


def _issuer(issuer: Issuer) -> Check:
    name = f"issuer {issuer.url}"
    try:
        keys = fetch_keys(issuer)
    except IssuerError as error:
        return Check(name, False, str(error), error.hint)
    usable = keys.count_for(issuer.algorithms)
    if not usable:
        wanted = ", ".join(issuer.algorithms)
        return Check(
            name, False, f"none of its {len(keys.keys)} keys is for {wanted}", "set algorithms"
        )
    return Check(name, True, f"{usable} keys to verify tokens with")


async def _targets(settings: Settings) -> list[Check]:
    with closing(Poller()) as poller:
        return [
            found
            for target in settings.target
            for found in (
                [await _host(target)]
                if isinstance(target, SshTarget)
                else [await _database(poller, target), *await _inspector(poller, target)]
            )
        ]


async def _database(poller: Poller, target: PostgresTarget) -> Check:
    found, _ = await _login(poller, target, f"target {target.name}")
    return _with_groups(found, target)


async def _host(target: SshTarget) -> Check:
    from agentaudit.gateway.ssh_authority import for_host
    from agentaudit.gateway.ssh_target import log_in

    name = f"target {target.name}"
    try:
        access = await asyncio.get_running_loop().run_in_executor(None, host_access, target)
        at_host = None
        if access.authority is not None:
            at_host = for_host(
                access.authority, target.user, "agentaudit-check", SystemClock().now_us()
            )
        connection = await log_in(access, target.user, lambda _: None, at_host=at_host)
    except AgentauditError as error:
        return Check(name, False, f"{target.address}: {error}", error.hint)
    version = connection.get_extra_info("server_version", "of an unknown version")
    connection.abort()
    return _with_groups(Check(name, True, f"{version}, logged in as {target.user}"), target)


def _with_groups(found: Check, target: Target) -> Check:
    if found.ok and not target.groups:
        return Check(found.name, False, f"{found.message}, but nobody may connect", "set groups")
    return found


async def _inspector(poller: Poller, target: PostgresTarget) -> list[Check]:
    inspecting = target.inspecting()
    if inspecting is None:
        return []
    found, reported = await _login(poller, inspecting, f"target {target.name}, inspect_user")
    if found.ok and reported.get("is_superuser") != "off":
        message = f"{found.message}, a superuser: and agents choose what it plans"
        return [Check(found.name, False, message, "give it a role that reads the tables alone")]
    return [found]


async def _login(
    poller: Poller, target: PostgresTarget, name: str
) -> tuple[Check, Mapping[str, str]]:
    """Say whether the gateway can log in, and what the server reports then."""
    try:
        access = await asyncio.get_running_loop().run_in_executor(None, target_access, target)
        async with asyncio.timeout(LOGIN_TIMEOUT_S):
            server = await backend.log_in(poller, access, {"application_name": "agentaudit check"})
    except TimeoutError:
        return Check(name, False, f"{target.address}: no answer in time"), {}
    except AgentauditError as error:
        return Check(name, False, str(error), error.hint), {}
    version = server.parameters.get("server_version", "of an unknown version")
    encrypted = "with TLS" if server.wire.is_encrypted else "without TLS"
    server.wire.send(messages.terminate())
    server.wire.close()
    message = f"PostgreSQL {version}, logged in as {target.user} {encrypted}"
    return Check(name, True, message), server.parameters
