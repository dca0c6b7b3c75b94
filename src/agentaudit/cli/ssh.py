"""The verb that gets an SSH certificate, and says how to use it."""

from __future__ import annotations

import argparse
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from agentaudit.cli.asking import add_control, control, control_url
from agentaudit.cli.options import Adds, add_json, words
from agentaudit.cli.output import CANNOT_TELL, NO, YES, complain, print_json
from agentaudit.errors import RefusedError

if TYPE_CHECKING:
    from agentaudit.client.ssh import Certified
    from agentaudit.settings.values import Address


def add_verbs(add: Adds) -> None:
    one = add(ssh_cert)
    one.add_argument(
        "targets",
        nargs="*",
        type=words,
        metavar="TARGET",
        help="hosts that it is for (default: all that you may connect to)",
    )
    one.add_argument(
        "--key",
        type=Path,
        metavar="FILE",
        help="a public key of yours, as ~/.ssh/id_ed25519.pub (default: a new one each time)",
    )
    one.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where files go (default: beside the key, or a folder of agentaudit's)",
    )
    one.add_argument(
        "--gateway",
        default="",
        metavar="HOST:PORT",
        help="where the gateway listens for SSH (default: the control API's host, its port)",
    )
    add_json(one)
    add_control(one)


def ssh_cert(arguments: argparse.Namespace) -> int:
    """Get an SSH certificate, for a quarter of an hour at most."""
    from agentaudit.analysis.printable import printable
    from agentaudit.client.ssh import certify
    from agentaudit.settings.values import Address, parse_address

    given = parse_address(arguments.gateway) if arguments.gateway else None
    try:
        found = certify(
            control(arguments), arguments.targets, key=arguments.key, folder=arguments.out
        )
    except RefusedError as error:
        complain(str(error), error.hint)
        return NO if error.is_final else CANNOT_TELL
    host = urlsplit(control_url(arguments)).hostname or ""
    lines = _lines(found, given or Address(host, found.certificate.port))
    got = found.certificate
    if arguments.json:
        print_json(
            {
                "key_file": str(found.key_file),
                "certificate_file": str(found.certificate_file),
                "serial": got.serial,
                "key_id": got.key_id,
                "targets": list(got.targets),
                "expires_at": got.expires_at,
                "commands": lines,
            }
        )
        return YES
    for line in lines:
        print(printable(line))
    until = f"{datetime.fromtimestamp(got.expires_at / 1e6, UTC):%H:%M:%SZ}"
    print(f"good for any number of sessions until {until}", file=sys.stderr)
    if given is None and not got.port:
        print("the gateway does not say its port: give --gateway HOST:PORT", file=sys.stderr)
    return YES


def _lines(found: Certified, gateway: Address) -> list[str]:
    """Return what to type, for each target."""
    argv = ["ssh", "-i", str(found.key_file), "-o", f"CertificateFile={found.certificate_file}"]
    argv += ["-o", "IdentitiesOnly=yes"]
    if gateway.port:
        argv += ["-p", str(gateway.port)]
    return [shlex.join([*argv, f"{name}@{gateway.host}"]) for name in found.certificate.targets]
