"""How verbs ask a gateway's control API: where it is, and what proves who asks.

A token is never an argument: every user of a machine can read those of every process (`ps`), and
shells keep them in their history. It comes from a file, from the environment, which only the
user's own processes can read, or from what `login` has kept.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from agentaudit.errors import QuestionError

if TYPE_CHECKING:
    from agentaudit.client.control import Control


def add_control(one: argparse.ArgumentParser) -> None:
    """Add the options of a verb that asks a control API."""
    refuse_abbreviations(one)
    one.add_argument(
        "--control",
        default=os.environ.get("AGENTAUDIT_CONTROL", ""),
        metavar="URL",
        help="the control API of a gateway (default: AGENTAUDIT_CONTROL)",
    )
    one.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="what proves who you are (default: AGENTAUDIT_TOKEN, then what login has kept)",
    )
    one.add_argument(
        "--audience", metavar="NAME", help="of the tokens of login, that for this (default: newest)"
    )
    add_ca_file(one)


def refuse_abbreviations(one: argparse.ArgumentParser) -> None:
    """Let no `--token` stand for `--token-file`: it would say which file is not there, a token."""
    one.allow_abbrev = False


def add_ca_file(one: argparse.ArgumentParser) -> None:
    one.add_argument(
        "--ca-file",
        type=Path,
        metavar="FILE",
        help="certificates, PEM, instead of the system's authorities",
    )


def control(arguments: argparse.Namespace) -> Control:
    """Return the control API that the arguments name, with a token.

    Raises:
        QuestionError: they name none, or there is no token.
    """
    from agentaudit.client.control import Control

    url = control_url(arguments)
    found = token(arguments.token_file, control=url, audience=arguments.audience)
    return Control(url, found, ca_file=arguments.ca_file)


def control_url(arguments: argparse.Namespace) -> str:
    """Return the address that the arguments name, or the environment."""
    if not arguments.control:
        raise QuestionError(
            "no control API is named", hint="give --control, or set AGENTAUDIT_CONTROL"
        )
    return str(arguments.control).rstrip("/")


def token(token_file: Path | None, *, control: str, audience: str | None = None) -> str:
    """Return what proves to the API `control` who asks: of the file, where one is given.

    Raises:
        QuestionError: there is none.
    """
    from agentaudit.client import tokens

    return tokens.given(token_file, control=control, audience=audience)
