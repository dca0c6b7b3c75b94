"""The `agentaudit.toml` that `agentaudit init` writes, to start from.

It loads as it is, and explains itself; nobody can connect before it has an issuer and a target.
"""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from agentaudit.errors import SettingsError
from agentaudit.settings.file import described
from agentaudit.settings.tables import Gateway

_DEFAULT: Final = """\
# agentaudit: every key is explained in docs/settings.md.
# Relative paths start at this file's folder. Durations: 30s, 50m, 12h, 30d. Sizes: 256MiB.

[gateway]
name = "{name}"                       # [a-z0-9-]; part of every path, so choose it for good
# Unique in the world: witnesses know this log as origin/name.
origin = "{origin}"
workers = 1                        # processes on one port, each with a log and keys of its own
archive = "archive"                # everything that is recorded
keys = "keys"                      # what signs the log; keep a copy of keys/{name}.vkey elsewhere
# strict: on disk before it is forwarded · writes: plain reads go earlier · relaxed: within 50 ms
durability = "strict"
segment_events = 1_000_000         # a segment is sealed at the first of these three
segment_bytes = "256MiB"
segment_age = "24h"
drain_timeout = "30s"              # how long sessions may go on after SIGTERM
# tls_cert_file = "tls/cert.pem"   # without these two only loopback may be listened on
# tls_key_file = "tls/key.pem"
# ssh_host_key_file = "secrets/ssh" # ssh-keygen -t ed25519 -N '' -f secrets/ssh makes one
# ssh_ca_key_file = "secrets/ssh-ca" # signs certificates of SSH clients: agentaudit ssh-cert

[listen]
postgres = "127.0.0.1:6432"
# ssh = "0.0.0.0:2222"             # for SSH clients; needs ssh_host_key_file

[limits]
disk_warn = "10GiB"                # less free space than this is logged
disk_stop = "1GiB"                 # less than this stops all traffic
journal_max = "4GiB"               # traffic waits while more than this is not sealed yet
session_bytes = "50GiB"            # a session that moved more is ended
actor_connections = 200            # of one user at a time
preauth_connections = 200          # that have not shown a valid token yet
max_session = "12h"

# Who may say who somebody is: nobody can connect before there is an issuer.
# [[issuer]]
# url = "https://idp.example.com"  # exactly as the token's "iss" has it
# audience = ["agentaudit"]
# groups_claim = "groups"          # dotted path allowed
# user_claim = "sub"
# agent_claim = "azp"              # else client_id
# require = {{}}                     # further claims that must match
# ca_file = ""                     # instead of the system's certificate authorities
# algorithms = ["RS256", "ES256"]

# What clients ask for by dbname: psql "host=… port=6432 dbname=orders user=x password=$TOKEN"
# [[target]]
# name = "orders"
# protocol = "postgres"
# address = "db.internal:5432"
# database = "orders"
# user = "orders_rw"
# password_file = "secrets/orders" # or password_env = "…", or password_command = ["…"]
# tls = "verify-full"              # disable, require, verify-full
# tls_ca_file = "tls/db-ca.pem"
# require_auth = ["scram-sha-256"]
# groups = ["data-agents"]         # who may connect at all; nobody if absent
# default = "allow"                # deny: what no rule matches and is no plain read is denied
# tags = {{ env = "prod" }}          # what rules may ask for
# replication = "refuse"           # pass: base backups and streams of changes are let through
# payload_limit = "1MiB"           # keep the beginning of a longer response, and the hash of all
# retention = "standard"           # a class below; kept for ever if absent

# A host: ssh -p 2222 host-1@gateway, or host-1/deploy@gateway; the password is a ticket.
# [[target]]
# name = "host-1"
# protocol = "ssh"
# address = "10.0.0.7:22"
# host_keys = ["ssh-ed25519 AAAA…"] # from its /etc/ssh/ssh_host_ed25519_key.pub
# user = "agents"
# key_file = "secrets/host-1"      # or user_ca_key_file, or a password, as above
# logins = ["deploy"]              # other users of it that may be asked for
# exec_only = true                 # commands and files, no shell
# env = ["LANG", "LC_*"]           # variables that a client may set
# groups = ["data-agents"]

# What agents may do: the first rule that matches decides, and else the target's default.
# [[rule]]
# name = "no schema changes"
# when = {{ target = ["orders"], class = ["schema", "admin", "unknown"] }}
# action = "deny"                  # or allow

# What nobody is to find in the archive: hidden before it is written.
[[mask]]
name = "secrets"
detect = ["secrets"]               # keys, tokens, passwords; also "personal", or by name
action = "redact"                  # partial (last four), pseudonym (needs key_file), drop
apply = ["archive"]                # add "client" to hide it from the agent too

# [[mask]]
# name = "customer identifiers"
# columns = ["*.customers.ssn", "email"]
# action = "pseudonym"             # equal values stay equal
# key_file = "secrets/pseudonyms"  # openssl rand -hex 32 makes one

# How long sessions are kept, counted from their end.
# [[retention]]
# name = "standard"
# keep = "400d"
# payload_keep = "90d"             # results and other bytes go earlier; statements stay
# notice = "7d"                    # a shorter policy that replaces this one waits so long

# Who else says what this log held and when: run by others, or it proves little.
# [[witness]]
# url = "https://witness.example.org/"
# key = "witness.example.org/w1+…" # its verifier key, from its owner

# Time stamps (RFC 3161) over the log's state.
# [[anchor]]
# url = "http://timestamp.example.org/"
# interval = "1h"
# ca_file = "tls/tsa-ca.pem"       # what its time stamps must lead to
"""


def write_default(directory: Path, *, name: str = "gw1", origin: str = "") -> list[Path]:
    """Write a commented `agentaudit.toml` that starts as it is; return the file and its folders.

    Makes `directory` with `archive` (0750), `keys` and `secrets` (0700) inside. Without `origin`
    the host's name is taken. The log's keys are made by whoever owns their format.

    Raises:
        SettingsError: there is such a file already, or `name` or `origin` will not do; nothing is
            written then.
    """
    path = Path(directory) / "agentaudit.toml"
    origin = origin or _host_name()
    try:
        Gateway.model_validate(
            {"name": name, "origin": origin}, context={"root": path.parent.absolute()}
        )
    except ValidationError as error:
        raise SettingsError(
            "\n".join(f"gateway.{described(each)}" for each in error.errors(include_input=False)),
            hint="both become part of every signature; docs/settings.md says what they may be",
        ) from None
    text = _DEFAULT.format(name=name, origin=origin)
    folders = [path.parent / "archive", path.parent / "keys", path.parent / "secrets"]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
        for folder, mode in zip(folders, (0o750, 0o700, 0o700), strict=True):
            folder.mkdir(mode=mode, exist_ok=True)
    except FileExistsError:
        raise SettingsError(
            f"{path}: exists already", hint="choose another folder, or remove the file first"
        ) from None
    except OSError as error:
        raise SettingsError(f"{path.parent}: {error.strerror or 'cannot be written'}") from None
    return [path, *folders]


def _host_name() -> str:
    name = re.sub(r"[^a-z0-9.-]+", "-", socket.gethostname().lower()).strip(".-")
    return name or "localhost"
