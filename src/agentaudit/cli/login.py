"""The verb that gets a token: for people by a browser, for machines by a secret."""

from __future__ import annotations

import argparse
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agentaudit.cli.asking import add_ca_file, refuse_abbreviations
from agentaudit.cli.options import Adds, add_json
from agentaudit.cli.output import NO, YES, complain, print_json, read_text
from agentaudit.errors import QuestionError

if TYPE_CHECKING:
    from agentaudit.client.login import Prompt, Token

DECIDES_S: Final = 15 * 60
"""How old a login may be with which one decides; docs/access.md."""


def add_verbs(add: Adds) -> None:
    one = add(login)
    refuse_abbreviations(one)
    one.add_argument("--issuer", required=True, metavar="URL", help="the OpenID Connect provider")
    one.add_argument("--client-id", required=True, metavar="ID", help="what it knows this tool as")
    one.add_argument(
        "--audience",
        default="",
        metavar="NAME",
        help="what the token is for: [roles] audience to decide, an issuer's to connect",
    )
    one.add_argument("--scope", default="openid", help="what to ask for (default: openid)")
    one.add_argument(
        "--client-credentials",
        action="store_true",
        help="for a machine, which has a secret and nobody to ask",
    )
    one.add_argument(
        "--client-secret-file",
        type=Path,
        metavar="FILE",
        help="the client's secret, if it has one (default: AGENTAUDIT_CLIENT_SECRET)",
    )
    one.add_argument(
        "--control",
        default=os.environ.get("AGENTAUDIT_CONTROL", ""),
        metavar="URL",
        help="the only control API that is to get it (default: AGENTAUDIT_CONTROL, else any)",
    )
    add_ca_file(one)
    add_json(one)


def login(arguments: argparse.Namespace) -> int:
    """Get a token from an identity provider, and keep it for other verbs."""
    from agentaudit.client import login as provider
    from agentaudit.client import tokens

    secret = os.environ.get("AGENTAUDIT_CLIENT_SECRET", "")
    if arguments.client_secret_file is not None:
        secret = read_text(arguments.client_secret_file).strip()
    if arguments.client_credentials and not secret:
        raise QuestionError(
            "login --client-credentials: there is no secret",
            hint="give --client-secret-file, or set AGENTAUDIT_CLIENT_SECRET",
        )
    client = provider.Client(
        issuer=arguments.issuer,
        client_id=arguments.client_id,
        secret=secret,
        audience=arguments.audience,
        scope=arguments.scope,
        ca_file=arguments.ca_file,
    )
    try:
        if arguments.client_credentials:
            token = provider.by_credentials(client)
        else:
            token = provider.by_device(client, _say)
    except provider.Refused as error:
        complain(str(error), error.hint)
        return NO
    kept = tokens.Kept(
        issuer=client.issuer,
        audience=client.audience,
        client_id=client.client_id,
        token=token.access_token,
        got_at=int(time.time()),
        expires_at=token.expires_at,
        user=token.user,
        login_at=token.login_at,
        control=arguments.control.rstrip("/"),
    )
    path = tokens.keep(kept)
    if arguments.json:
        names = ("issuer", "audience", "client_id", "user", "expires_at", "login_at", "control")
        print_json({name: getattr(kept, name) for name in names} | {"file": str(path)})
    else:
        print(path)
    _say_what_for(token, is_person=not arguments.client_credentials)
    return YES


def _say(prompt: Prompt) -> None:
    from agentaudit.analysis.printable import printable

    print(f"open {printable(prompt.url)}", file=sys.stderr)
    print(f"and enter {printable(prompt.code)}", file=sys.stderr)
    if prompt.whole_url:
        print(f"or open {printable(prompt.whole_url)}", file=sys.stderr)
    sys.stderr.flush()


def _say_what_for(token: Token, *, is_person: bool) -> None:
    from agentaudit.analysis.printable import printable

    until = f" until {_clock(token.expires_at)}" if token.expires_at else ""
    print(f"logged in as {printable(token.user or 'somebody')}{until}", file=sys.stderr)
    if not is_person:
        return
    decides_until = token.login_at + DECIDES_S
    if not token.login_at:
        print(
            "note: this token does not say when you logged in (auth_time), so it decides nothing",
            file=sys.stderr,
        )
    elif decides_until > time.time():
        print(f"it may decide until {_clock(decides_until)}", file=sys.stderr)
    else:
        print("note: you logged in too long ago to decide; log out there first", file=sys.stderr)


def _clock(time_s: int) -> str:
    return f"{datetime.fromtimestamp(time_s, UTC):%Y-%m-%d %H:%M:%SZ}"
