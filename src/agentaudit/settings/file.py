"""Reads `agentaudit.toml`, and says what is wrong with one.

Nothing in the file is ever ignored: an unknown key is an error that names the nearest valid one,
and a key whose feature does not exist yet is an error that says so, unless it is set to the value
that means "off". All problems of a file are reported at once.

Format: docs/settings.md
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from agentaudit.errors import SettingsError
from agentaudit.settings.masks import Mask
from agentaudit.settings.rules import Rule, When
from agentaudit.settings.tables import (
    Anchor,
    Gateway,
    Issuer,
    Limits,
    Listen,
    PostgresTarget,
    Retention,
    Roles,
    SshTarget,
    Webhook,
    Witness,
)
from agentaudit.settings.values import Table
from agentaudit.settings.whole import Settings

_ON = object()
"""No value of a key marked so means "off": its mere presence asks for what is not there."""

# What DESIGN promises and a later release brings. A value that means "off" is accepted, so that
# one file can be explicit; any other is refused by name, because an ignored rule is a hole.
_LATER: Final[Mapping[str, Mapping[str, object]]] = {
    "": {},
    "gateway": {},
    "listen": {
        "http": _ON,
        "proxy_protocol": [],
    },
    "limits": {},
    "roles": {},
    "issuer": {},
    "retention": {},
    "witness": {},
    "anchor": {},
    "webhook": {},
    "rule": {},
    "rule.when": {},
    "mask": {
        "header": [],
    },
    "target": {
        "credential_command": [],
        "enforce_read_only": False,
        "recheck": False,
    },
}
_LATER_VALUES: Final[Mapping[tuple[str, str], tuple[object, ...]]] = {
    ("target", "protocol"): ("aws", "kubernetes", "mcp", "http"),
}
_Location = tuple[str | int, ...]


def load(path: Path) -> Settings:
    """Return the settings in `path`; relative paths in it are taken from the file's own folder.

    Files that it names are not opened here: `agentaudit check` and the gateway do that.

    Raises:
        SettingsError: every problem of the file, one a line, each with file and key.
    """
    path = Path(path)
    try:
        text = path.read_bytes()
    except OSError as error:
        raise SettingsError(
            f"{path}: {error.strerror or 'cannot be read'}",
            hint="agentaudit init writes a file to start from",
        ) from None
    return parse(text, path)


def parse(text: bytes, path: Path) -> Settings:
    """Return the settings that `text` is, as `load` does where `path` holds it.

    Raises:
        SettingsError: as `load`.
    """
    try:
        document = tomllib.loads(text.decode())
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: not UTF-8 at byte {error.start}") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: not TOML: {error}") from None
    problems = _refuse_later(document)
    try:
        settings = Settings.model_validate(document, context={"root": path.absolute().parent})
        settings._path = path.absolute()
    except ValidationError as error:
        # include_input=False: a secret written into the wrong key must not come back in an error.
        problems += [described(each) for each in error.errors(include_input=False)]
        settings = None
    if settings is None or problems:
        raise SettingsError(
            "\n".join(f"{path}: {problem}" for problem in problems),
            hint="docs/settings.md lists every key",
        )
    return settings


def _refuse_later(document: dict[str, Any]) -> list[str]:
    """Return a problem for each key of a later release, and take all of those out of `document`."""
    problems = _refuse_later_keys(document, "", "")
    for section in filter(None, SECTIONS):
        tables: list[tuple[_Location, dict[str, Any]]] = [((), document)]
        for key in section.split("."):
            tables = [each for place, table in tables for each in _tables(table, key, place)]
        for place, table in tables:
            problems += _refuse_later_keys(table, section, f"{_place(place)}.")
    return problems


def _tables(
    table: dict[str, Any], key: str, place: _Location
) -> Iterator[tuple[_Location, dict[str, Any]]]:
    """Yield what is under `key`, a table or a list of tables, each with its place."""
    value = table.get(key)
    if isinstance(value, dict):
        yield (*place, key), value
    elif isinstance(value, list):
        for number, each in enumerate(value):
            if isinstance(each, dict):
                yield (*place, key, number), each


def _refuse_later_keys(table: dict[str, Any], section: str, prefix: str) -> list[str]:
    problems = []
    for key, off in _LATER[section].items():
        if key in table:
            value = table.pop(key)
            if off is _ON or value != off or type(value) is not type(off):
                problems.append(f"{prefix}{key}: not available yet")
    for (owner, key), later in _LATER_VALUES.items():
        if owner == section and isinstance(table.get(key), str) and table[key] in later:
            problems.append(f'{prefix}{key}: "{table.pop(key)}" is not available yet')
    return problems


def _place(location: Sequence[str | int]) -> str:
    """Return a location of the file as a person counts: `target[2].address`."""
    text = ""
    for part in location:
        text += f"[{part + 1}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def described(error: Mapping[str, Any]) -> str:
    """Return what a validation found as a person reads it: where in the file, and what."""
    location = _without_protocol(error["loc"])
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        message = f'unknown key, the nearest valid one is "{_nearest(location)}"'
    elif error["type"] == "missing":
        message = "missing"
    elif message[:1].isupper():
        message = message[:1].lower() + message[1:]
    place = _place(location)
    return f"{place}: {message}" if place else message


SECTIONS: Final[Mapping[str, tuple[type[Table], ...]]] = {
    "": (Settings,),
    "gateway": (Gateway,),
    "listen": (Listen,),
    "limits": (Limits,),
    "roles": (Roles,),
    "issuer": (Issuer,),
    "target": (PostgresTarget, SshTarget),
    "retention": (Retention,),
    "witness": (Witness,),
    "anchor": (Anchor,),
    "webhook": (Webhook,),
    "rule": (Rule,),
    "rule.when": (When,),
    "mask": (Mask,),
}
"""What a table of each name may be: a target is one of its protocol."""


def _without_protocol(location: _Location) -> _Location:
    """Return a location as the file has it: whose target it is says no key of it."""
    return location if location[:1] != ("target",) else (*location[:2], *location[3:])


def _nearest(location: Sequence[str | int]) -> str:
    """Return the valid key most like the last part of `location`: of its own table if it can be."""
    wrong = str(location[-1])
    section = ".".join(part for part in location[:-1] if isinstance(part, str))
    here = keys_of(section)
    near = difflib.get_close_matches(wrong, here, n=1, cutoff=0.7)
    if near:
        return near[0]
    # A key in the wrong table is as common a slip as a misspelt one.
    elsewhere = {
        key: f"{name}.{key}"
        for name in SECTIONS
        if name not in ("", section)
        for key in keys_of(name)
    }
    near = difflib.get_close_matches(wrong, elsewhere, n=1, cutoff=0.7)
    if near:
        return elsewhere[near[0]]
    return difflib.get_close_matches(wrong, here, n=1, cutoff=0)[0]


def keys_of(section: str) -> list[str]:
    """Return the keys that a table may have, those of a later release included."""
    keys = {
        field.alias or name: None
        for table in SECTIONS[section]
        for name, field in table.model_fields.items()
    }
    return [*keys, *_LATER[section]]
