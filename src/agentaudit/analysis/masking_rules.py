"""Sets of masks to try: of a settings file, of a text, or of what a notebook has made.

They are read as the gateway reads them, but need no gateway around them, no target, and no key:
where a pseudonym has none, one of this process stands in for it. A key is read from where it lies,
never by running a command, because rules that are tried may be somebody else's.
"""

from __future__ import annotations

import difflib
import json
import re
import secrets
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from agentaudit.errors import QuestionError, SettingsError
from agentaudit.masking.marks import MIN_KEY_BYTES, PseudonymKey
from agentaudit.masking.masks import Masks
from agentaudit.masking.plugins import plugged_in
from agentaudit.settings.masks import Mask

MAX_TEXT_BYTES: Final = 1 << 20
_NO_KEY: Final = "AGENTAUDIT_NO_KEY"
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_OF_DOCUMENTS: Final = {"json_paths": "json_path", "patterns": "pattern", "targets": "target"}
"""How the policy document calls what the settings call otherwise."""


@cache
def _key() -> PseudonymKey:
    # One for all previews of a process, so that two sets of rules make equal pseudonyms.
    return PseudonymKey(secrets.token_bytes(MIN_KEY_BYTES))


class RuleSet:
    """Masks by target; `documents` are as the policy document has them, `notes` what to know."""

    def __init__(
        self,
        documents: Sequence[Mapping[str, Any]],
        *,
        keys: Mapping[str, PseudonymKey] | None = None,
        notes: Sequence[str] = (),
        made: Masks | None = None,
    ) -> None:
        """Raises `SettingsError`: no such detector, or a path or a pattern that is none."""
        self.documents = tuple(documents)
        self.notes = tuple(notes)
        self._keys = dict(keys or {})
        self._made = made
        self._at: dict[str, Masks] = {}
        self._finders = plugged_in({name for m in documents for name in m.get("detect", ())})
        for document in documents:
            try:
                Masks([document], keys=self._keys, finders=self._finders)
            except ValueError as error:
                raise SettingsError(f'mask "{document["name"]}": {error}') from None
        self.any = made or self.at("")

    @property
    def names(self) -> tuple[str, ...]:
        """The rules, that of credentials first."""
        return tuple(self.any.rules)

    def at(self, target: str) -> Masks:
        """Return what is hidden at `target`; "" is all targets."""
        if self._made is not None:
            return self._made
        if target not in self._at:
            try:
                self._at[target] = Masks(
                    self.documents,
                    target=target or None,
                    keys=self._keys,
                    finders=self._finders,
                )
            except ValueError as error:
                raise SettingsError(f"[[mask]]: {error}") from None
        return self._at[target]


def rules_of(rules: Any) -> RuleSet:
    """Return rules, given as a file with `[[mask]]`, as its text, as tables, or as `Masks`.

    A text is one that has a line break or a table in it; else it is a path.

    Raises:
        SettingsError: the file cannot be read, or a key of it is wrong.
        QuestionError: something else was given.
    """
    if isinstance(rules, RuleSet):
        return rules
    if isinstance(rules, Masks):
        return RuleSet((), made=rules)
    if isinstance(rules, str) and ("\n" in rules or "[[" in rules or not rules.strip()):
        return parse(rules)
    if isinstance(rules, str | PathLike):
        path = Path(fspath(rules))
        try:
            text = path.read_text("utf-8")
        except OSError as error:
            raise SettingsError(f"{path}: {error.strerror or 'cannot be read'}") from None
        except UnicodeDecodeError as error:
            raise SettingsError(f"{path}: not UTF-8 at byte {error.start}") from None
        return parse(text, path)
    if isinstance(rules, Mapping) or not isinstance(rules, Iterable):
        raise QuestionError(
            "rules: a settings file, a list of masks or Masks expected, "
            f"found {type(rules).__name__}",
            hint='a list of masks: [{"name": "addresses", "detect": ["email"]}]',
        )
    return _of_tables(list(rules), "rules", None)


def parse(text: str, path: Path | None = None) -> RuleSet:
    """Return the `[[mask]]` tables of a TOML text; what else is in it is not looked at.

    Without `path` no file that it names is opened: a page in a browser may have sent it.

    Raises:
        SettingsError: it is no TOML, or a key is wrong.
    """
    where = "rules" if path is None else str(path)
    if len(text) > MAX_TEXT_BYTES:
        raise SettingsError(f"{where}: longer than 1 MiB")
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{where}: not TOML: {error}") from None
    except RecursionError:
        raise SettingsError(f"{where}: nested too deep") from None
    tables = document.get("mask", [])
    if not isinstance(tables, list):
        raise SettingsError(f"{where}: mask: tables expected", hint="[[mask]], in two brackets")
    return _of_tables(tables, where, path)


def of_policy(path: Path) -> RuleSet:
    """Return the masks of a policy document that an archive keeps at `path`.

    Raises:
        QuestionError: there is none.
    """
    try:
        masks = json.loads(path.read_bytes()).get("masks", [])
        documents = [dict(each) for each in masks]
    except FileNotFoundError:
        raise QuestionError(
            f"policy {path.stem}: not in this archive",
            hint="the column policy_digest of sessions has those that were in force",
        ) from None
    except (ValueError, AttributeError, TypeError):
        raise QuestionError(f"policy {path.stem}: not a policy document") from None
    return _made(documents, {}, ())


def written(documents: Iterable[Mapping[str, Any]]) -> str:
    """Return masks of a policy document as TOML, as the settings have them; without their keys."""
    tables = []
    for document in documents:
        lines = ["[[mask]]"]
        for name in ("name", "targets", "columns", "detect", "patterns", "json_paths", "action"):
            if document.get(name):
                key = _OF_DOCUMENTS.get(name, name)
                # JSON's texts are TOML's, but for the one control that JSON leaves as it is.
                said = json.dumps(document[name], ensure_ascii=False).replace("\x7f", "\\u007f")
                lines.append(f"{key} = {said}")
        if document.get("apply", ["archive"]) != ["archive"]:
            lines.append(f"apply = {json.dumps(document['apply'])}")
        tables.append("\n".join(lines) + "\n")
    return "\n".join(tables)


def is_digest(text: object) -> bool:
    """Return whether `text` is what a policy of an archive is called."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


def _of_tables(tables: Sequence[Any], where: str, path: Path | None) -> RuleSet:
    problems: list[str] = []
    masks: list[Mask] = []
    for number, table in enumerate(tables, 1):
        if not isinstance(table, Mapping):
            problems.append(f"{where}: mask {number}: a table expected")
            continue
        given: dict[str, Any] = {
            _OF_DOCUMENTS.get(str(key), str(key)): value for key, value in table.items()
        }
        has_key = any(key.startswith("key_") for key in given)
        if given.get("action") == "pseudonym" and not has_key:
            given["key_env"] = _NO_KEY
        root = (path or Path()).absolute().parent
        try:
            masks.append(Mask.model_validate(given, context={"root": root}))
        except ValidationError as error:
            name = given.get("name")
            called = f'mask "{name}"' if isinstance(name, str) else f"mask {number}"
            # include_input=False: what was written into a wrong key must not come back in an error.
            problems += [
                f"{where}: {called}: {_problem(each)}"
                for each in error.errors(include_input=False, include_url=False)
            ]
    names = [mask.name for mask in masks]
    problems += [
        f'{where}: mask name "{name}" is given twice'
        for name in sorted({name for name in names if names.count(name) > 1})
    ]
    if problems:
        raise SettingsError("\n".join(problems), hint="docs/settings.md lists every key")
    keys: dict[str, PseudonymKey] = {}
    notes: list[str] = []
    for mask in masks:
        if mask.action == "pseudonym":
            key = _key_of(mask, notes) if path is not None else None
            if key is not None:
                keys[mask.name] = key
    return _made([mask.document() for mask in masks], keys, notes)


def _made(
    documents: Sequence[Mapping[str, Any]], keys: dict[str, PseudonymKey], notes: Sequence[str]
) -> RuleSet:
    lacking = [d["name"] for d in documents if d["action"] == "pseudonym" and d["name"] not in keys]
    notes = list(notes)
    if lacking:
        quoted = ", ".join(f'"{name}"' for name in lacking)
        notes.append(
            f"no key was read for {quoted}: pseudonyms here are made with a random key, and are "
            "other ones than a gateway would make"
        )
    notes += [
        f'"{pattern}" of "{document["name"]}" names no column: * stands for a whole part of a name'
        for document in documents
        for pattern in document.get("columns", ())
        if any("*" in part and part != "*" for part in pattern.split("."))
    ]
    return RuleSet(documents, keys={name: _key() for name in lacking} | keys, notes=notes)


def _key_of(mask: Mask, notes: list[str]) -> PseudonymKey | None:
    if mask.key_command or mask.key_env == _NO_KEY:
        return None
    try:
        read = mask.read_key()
    except SettingsError as error:
        notes.append(str(error))
        return None
    return None if read is None else PseudonymKey(read)


def _problem(error: Mapping[str, Any]) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, list(Mask.model_fields), n=1, cutoff=0)
        return f"{key}: no such key, the nearest is {near[0]}"
    said = str(error["msg"]).removeprefix("Value error, ")
    return f"{key}: {said[:1].lower()}{said[1:]}" if key else said
