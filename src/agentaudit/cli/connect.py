"""The verb that listens for tools with one fixed connection string, and brings the credentials."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlencode

from agentaudit.cli.asking import add_control, token
from agentaudit.cli.options import Adds, add_json, words
from agentaudit.cli.output import YES, print_json, read_text, say
from agentaudit.errors import QuestionError

if TYPE_CHECKING:
    from agentaudit.client.credentials import Credentials
    from agentaudit.client.login import Token
    from agentaudit.settings.values import Address

TICKET_S: Final = 15.0
"""For a ticket: half of what a gateway gives a client to log in."""

USER: Final = "anybody"
"""Whoever a client says that it is, the token says who it is."""


def add_verbs(add: Adds) -> None:
    one = add(connect)
    one.add_argument("target", metavar="TARGET", type=words)
    one.add_argument(
        "--listen",
        required=True,
        metavar="HOST:PORT|PATH",
        help="a loopback address (port 0 takes a free one), or a folder for a Unix socket",
    )
    one.add_argument(
        "--gateway", required=True, metavar="HOST:PORT", help="where the gateway listens"
    )
    password = one.add_mutually_exclusive_group()
    password.add_argument(
        "--password-file",
        type=Path,
        metavar="FILE",
        help="what clients on loopback say as password (default: a new one each time)",
    )
    password.add_argument(
        "--no-password",
        action="store_true",
        help="let every user of this machine in, with your access",
    )
    one.add_argument(
        "--credential",
        choices=("ticket", "token"),
        help="what the gateway is given (default: a ticket where there is a control API)",
    )
    one.add_argument(
        "--issuer", metavar="URL", help="get tokens there by client credentials, and renew them"
    )
    one.add_argument("--client-id", metavar="ID", help="what it knows this client as")
    one.add_argument(
        "--client-secret-file",
        type=Path,
        metavar="FILE",
        help="the client's secret (default: AGENTAUDIT_CLIENT_SECRET)",
    )
    one.add_argument("--scope", default="openid", help="what to ask it for (default: openid)")
    add_json(one)
    add_control(one)


def connect(arguments: argparse.Namespace) -> int:
    """Listen for tools with one fixed connection string, and let them in to a target."""
    from agentaudit.client import connect as local
    from agentaudit.settings.values import parse_address

    where = local.parse_listen(arguments.listen)
    gateway = local.gateway_at(parse_address(arguments.gateway), arguments.ca_file)
    password, is_told = "", False
    if isinstance(where, Path):
        if arguments.password_file is not None:
            raise QuestionError(
                "a Unix socket asks for no password: the kernel says who comes",
                hint="leave out --password-file",
            )
    elif arguments.password_file is not None:
        password = local.read_password(arguments.password_file)
    elif not arguments.no_password:
        password, is_told = secrets.token_urlsafe(24), True
    listener = local.Listener(
        arguments.target, gateway, _credentials(arguments), say, password=password
    )

    def ready(at: Address | Path) -> None:
        url = _url(at, arguments.target, password if is_told else "")
        if arguments.json:
            print_json({"url": url, "listen": str(at), "password": password if is_told else None})
        else:
            print(url)
        sys.stdout.flush()  # and not when the buffer is full: scripts wait for it

    local.run(listener, where, say, ready)
    return YES


def _credentials(arguments: argparse.Namespace) -> Credentials:
    from agentaudit.client.control import Control
    from agentaudit.client.credentials import Credentials, FetchedTokens, FoundTokens, Tokens

    api = str(arguments.control).rstrip("/")
    if arguments.credential == "ticket" and not api:
        raise QuestionError(
            "tickets are bought from a control API, and none is named",
            hint="give --control, or set AGENTAUDIT_CONTROL",
        )
    fetch = _fetch(arguments)
    tokens: Tokens
    if fetch is not None:
        tokens = FetchedTokens(fetch, say)
    else:
        tokens = FoundTokens(
            lambda: token(arguments.token_file, control=api, audience=arguments.audience)
        )

    def ticket(proof: str) -> str:
        asked = Control(api, proof, ca_file=arguments.ca_file, timeout_s=TICKET_S)
        return asked.ticket(arguments.target).ticket

    if not api or arguments.credential == "token":
        return Credentials(tokens)
    Control(api, "none")  # says now if that is no address
    return Credentials(tokens, ticket)


def _fetch(arguments: argparse.Namespace) -> Callable[[], Token] | None:
    """Return what gets a token by client credentials; None where no issuer is named."""
    from agentaudit.client import login

    if not arguments.issuer:
        if arguments.client_id or arguments.client_secret_file:
            raise QuestionError("--client-id and --client-secret-file are for an --issuer")
        return None
    if arguments.token_file is not None:
        raise QuestionError("--token-file and --issuer: which token is meant?")
    if not arguments.client_id:
        raise QuestionError("--issuer needs --client-id")

    def secret() -> str:
        if arguments.client_secret_file is not None:
            found = read_text(arguments.client_secret_file).strip()
        else:
            found = os.environ.get("AGENTAUDIT_CLIENT_SECRET", "")
        if not found:
            raise QuestionError(
                "there is no client secret",
                hint="give --client-secret-file, or set AGENTAUDIT_CLIENT_SECRET",
            )
        return found

    def fetch() -> Token:
        # With the secret as it is now: whoever changes it writes the file anew.
        client = login.Client(
            issuer=arguments.issuer,
            client_id=arguments.client_id,
            secret=secret(),
            audience=arguments.audience or "",
            scope=arguments.scope,
            ca_file=arguments.ca_file,
        )
        return login.by_credentials(client)

    secret()
    return fetch


def _url(at: Address | Path, target: str, password: str) -> str:
    database = quote(target, safe="")
    if isinstance(at, Path):
        port = at.name.rpartition(".")[2]
        return f"postgresql:///{database}?{urlencode({'host': str(at.parent), 'port': port})}"
    user = f"{USER}:{quote(password, safe='')}" if password else USER
    return f"postgresql://{user}@{at}/{database}"
