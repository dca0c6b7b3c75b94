"""`[[mask]]`: what is hidden before anything is recorded, by which action, and for whom.

What a detector's name or a JSON path means is not decided here: `agentaudit.masking` says it.
"""

from __future__ import annotations

import os
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from agentaudit.errors import SettingsError
from agentaudit.settings.secrets import decoded, read_limited, run_limited
from agentaudit.settings.values import LocatedPath, PatternText, ResourceText, Table, Word

RESERVED_MASKS: Final = frozenset({"credentials", "undecided"})
"""What a masked span names where no rule of the settings has hidden it."""

MIN_PSEUDONYM_KEY: Final = 32
"""Bytes: what is shorter can be guessed by whoever knows a value and sees its pseudonym."""


def _column(value: str) -> str:
    if any("*" in part and part != "*" for part in value.split(".")):
        raise ValueError('"*" stands for a whole part of a name, not for some of its letters')
    if value.endswith("*"):
        raise ValueError("a mask names a column, and not all of them")
    return value


def _several(value: object) -> object:
    return (value,) if isinstance(value, str) else value


class Mask(Table):
    """`[[mask]]`: what is hidden before it is recorded, and maybe from the client too."""

    name: Annotated[str, Field(pattern=r"^[^\x00-\x1f]{1,100}$")]
    target: Annotated[tuple[Word, ...], Field(min_length=1)] | None = None
    columns: tuple[Annotated[ResourceText, AfterValidator(_column)], ...] = ()
    detect: tuple[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")], ...] = ()
    pattern: Annotated[tuple[PatternText, ...], BeforeValidator(_several)] = ()
    json_path: Annotated[
        tuple[Annotated[str, Field(min_length=2, max_length=1000)], ...], BeforeValidator(_several)
    ] = ()
    action: Literal["redact", "partial", "pseudonym", "drop"] = "redact"
    apply: Annotated[tuple[Literal["archive", "client"], ...], Field(min_length=1)] = ("archive",)
    key_file: LocatedPath | None = None
    key_env: str | None = None
    key_command: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _is_whole(self) -> Mask:
        if self.name in RESERVED_MASKS:
            raise ValueError(f'"{self.name}" is what is hidden in any case')
        if not (self.columns or self.detect or self.pattern or self.json_path):
            raise ValueError("it hides nothing: give columns, detect, pattern or json_path")
        if "archive" not in self.apply:
            raise ValueError('apply must have "archive": what the client may not see, nobody may')
        keys = [self.key_file is not None, self.key_env is not None, bool(self.key_command)]
        if sum(keys) != (self.action == "pseudonym"):
            raise ValueError(
                "one of key_file, key_env and key_command is needed"
                if self.action == "pseudonym" and not any(keys)
                else 'key_file, key_env and key_command are for action = "pseudonym", one of them'
            )
        if any(not pattern for pattern in self.pattern):
            raise ValueError("an empty pattern is everywhere")
        return self

    def document(self) -> dict[str, Any]:
        """Return the mask as the policy document has it: without its key."""
        said: dict[str, Any] = {
            "action": self.action,
            "apply": sorted(set(self.apply)),
            "name": self.name,
        }
        for key, values in (
            ("columns", self.columns),
            ("detect", self.detect),
            ("json_paths", self.json_path),
            ("patterns", self.pattern),
            ("targets", self.target),
        ):
            if values:
                said[key] = list(values)
        return said

    def read_key(self) -> bytes | None:
        """Return the key of its pseudonyms, None where it makes none; blocks.

        Raises:
            SettingsError: the reference leads nowhere, or to what will not do.
        """
        if self.action != "pseudonym":
            return None
        where = f'mask "{self.name}"'
        if self.key_file is not None:
            raw = read_limited(self.key_file, f"{where}: key_file")
        elif self.key_env is not None:
            raw = os.environ.get(self.key_env, "").encode()
            if not raw:
                raise SettingsError(f"{where}: the environment has no {self.key_env}")
        else:
            raw = run_limited(self.key_command, where, "key_command")
        key = decoded(raw, where, "key").encode()
        if len(key) < MIN_PSEUDONYM_KEY:
            raise SettingsError(
                f"{where}: the key is shorter than {MIN_PSEUDONYM_KEY} bytes",
                hint="openssl rand -hex 32 makes one",
            )
        return key
