"""What a reviewer must know of a shell command beside its class, and what paths show of it.

As those of SQL, findings decide nothing: rules read `contains` alone.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from typing import Final

from agentaudit.paths import normal_path

FINDINGS: Final = {
    "contains <operation>": "runs that too, which rules look at as well",
    "deletes": "removes files, or what is in them",
    "deletes recursively": "removes a folder with all that is in it",
    "overwrites": "replaces what may be in a file",
    "writes device": "writes to a disk or another device, past the files on it",
    "ends processes": "sends signals, or stops a service or the machine",
    "sends data": "hands what it reads to another machine",
    "contacts host": "opens a connection to another machine, or asks one for a name",
    "opens socket": "bash's `/dev/tcp`, or a program that only connects and listens",
    "tunnels": "forwards ports",
    "other host": "runs commands on another machine, which are not recorded there",
    "reads secret": "a file that is known to hold keys, passwords or tokens",
    "shows environment": "prints all variables, secrets among them",
    "startup file": "writes what a shell, the machine or a program runs by itself later",
    "login file": "writes who may log in, or with which rights",
    "schedules": "`cron`, `at`, timers",
    "stays behind": "goes on when the session is over",
    "stores code": "a function, an alias or a trap, which runs later",
    "takes privilege": "`sudo`, `su` and their like",
    "changes rights": "mode, owner, attributes or capabilities of files",
    "set user id": "lets a program run with its owner's rights",
    "manages users": "users, groups and passwords of the machine",
    "manages services": "`systemctl` and its like",
    "manages packages": "installs or removes software",
    "manages containers": "starts, changes or enters them: whoever may, is root",
    "changes kernel": "modules, parameters, mounts, name spaces",
    "changes network": "addresses, routes, firewall",
    "changes variable <name>": "one that decides which programs run, or what they do",
    "hides history": "keeps commands out of the shell's history",
    "runs code": "of another language, which is not read",
    "runs script": "a shell script of which this session recorded the text",
    "runs file": "a program or script by its path, whose content is not known",
    "runs decoded": "what is unpacked or decoded just before",
    "runs download": "what another machine answers",
    "runs input": "what it reads, of which the text is not known",
    "runs text": "a text as commands that is known only when it runs",
    "name not literal": "which program runs is known only then",
    "option not literal": "a word may be an option that makes a harmless program do something else",
    "path not literal": "what is written or removed is known only when it runs",
    "unknown option": "one that is not known to be harmless",
    "unknown program <name>": "may do anything",
    "in doubt": "names may mean something else since a command before",
    "opens pager": "waits for keys at a terminal, and runs commands at some",
    "not read": "shells may take it in different ways, or it is too long or too deep",
}
"""The vocabulary, with what each means; `<…>` stands for a name."""

Found = Iterator[str]

_SINKS: Final = re.compile(r"/dev/(null|stdout|stderr|tty|full|fd/[0-9]+)")
_SOCKETS: Final = re.compile(r"/dev/(tcp|udp)/([^/]*)")

_SYSTEM: Final = re.compile(
    r"/(bin|boot|dev|etc|lib[^/]*|proc|root|run|sbin|sys|usr|efi"
    r"|var/(spool/(cron|at)|lib|cache|run|log)|opt|snap|System|Library)(/|$)"
)
"""Of the machine, not of whoever works on it."""

_SECRETS: Final = re.compile(
    r"""
    /etc/(shadow|gshadow|sudoers|krb5\.keytab|ssh/ssh_host_\w+_key)(-|$|\.d/)
    | (^|/)\.(ssh/(id_\w+|identity)|aws/credentials|netrc|pgpass|my\.cnf|git-credentials|npmrc
        |pypirc
        |docker/config\.json|kube/config|config/gcloud|azure/|gnupg/|vault-token|env(\.\w+)?$|bash_history
        |zsh_history|psql_history)
    | /proc/[^/]+/environ
    | \.(pem|key|p12|pfx|jks|keytab|kdbx)$
    | /(run|var/run)/secrets/
    """,
    re.VERBOSE,
)

_STARTUP: Final = re.compile(
    r"""
    (^|/)\.(bashrc|bash_profile|bash_login|bash_logout|bash_aliases|profile|zshrc|zshenv|zprofile|zlogin
      |zlogout|cshrc|tcshrc|login|kshrc|inputrc|vimrc|vim/|emacs|gitconfig|config/|ssh/(rc|config|environment)
      |pam_environment|xinitrc|xprofile|psqlrc|pythonrc|local/(bin|lib)/|gdbinit|screenrc|tmux\.conf
      |git/(config|hooks)|npmrc|envrc|direnvrc)
    | ^/etc/(profile|bash|zsh|environment|rc|init|systemd/|cron|ld\.so|inittab|pam\.d|security/
      |crontab|anacrontab
      |update-motd\.d|X11/|xdg/|modules|sysctl|apt/apt\.conf|NetworkManager/dispatcher|network/if-|udev/|logrotate)
    | ^/(usr/)?lib/systemd/ | ^/var/spool/(cron|at)
    """,
    re.VERBOSE,
)
_LOGIN: Final = re.compile(
    r"(^|/)\.(ssh/authorized_keys2?|rhosts|shosts|k5login)$"
    r"|^/etc/(passwd|shadow|group|gshadow|sudoers|ssh/|pam\.d/|security/|hosts\.(allow|deny|equiv)|subuid)"
)


def is_sink(path: str) -> bool:
    """Whether what is written there changes nothing."""
    return _SINKS.fullmatch(path) is not None


def socket_host(path: str) -> str | None:
    """Return the host to which bash connects for a redirection, or None."""
    match = _SOCKETS.match(path)
    return match.group(2) if match else None


def is_of_the_system(path: str) -> bool:
    """Whether what is there belongs to the machine; of a pattern, whether it may match such."""
    if not path.startswith("/"):
        return False
    top = path.split("/")[1]
    return not top or any(each in top for each in "*?[{") or _SYSTEM.match(path) is not None


def of_written(path: str) -> Found:
    """Yield what it shows that a path is written, moved, or removed."""
    path = _plain(path)
    if socket_host(path) is not None:
        yield "opens socket"
        yield "sends data"
    elif path.startswith("/dev/"):
        yield "writes device"
    if _LOGIN.search(path):
        yield "login file"
    if _STARTUP.search(path):
        yield "startup file"


def of_read(path: str) -> Found:
    """Yield what it shows that a path is read."""
    path = _plain(path)
    if socket_host(path) is not None:
        yield "opens socket"
    if _SECRETS.search(path):
        yield "reads secret"


def _plain(path: str) -> str:
    """Return the path that the last of the roots in one begins."""
    return normal_path(path) if path.startswith("/proc/") else path


def joined(folder: str, path: str) -> str:
    """Return what a path is, seen from the folder; empty stands for where a login begins."""
    if path == "~" or path.startswith("~/"):
        return posixpath.normpath(path)
    whole = posixpath.normpath(posixpath.join(folder, path))
    return whole[1:] if whole.startswith("//") else whole
