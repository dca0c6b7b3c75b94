"""The masks of one target, read from the policy document that the archive keeps.

What they hide is decided here, on values; which bytes of a protocol are a value of which column is
said by who knows the protocol. A column's rule hides the whole of a value, a detector's or a
pattern's what it finds in it.

The rule `credentials` is always there, whatever the settings say.
"""

from __future__ import annotations

import codecs
import copy
import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import orjson

from agentaudit.masking import jsonpath
from agentaudit.masking.detectors import Detector, named
from agentaudit.masking.marks import PseudonymKey, mark, partial, slug
from agentaudit.masking.scan import Finder, Found, Look, OwnPattern, Scanner, ScannerWithValues

CREDENTIALS: Final = "credentials"
"""The rule of what is hidden in any case."""

ALWAYS: Final = named(
    ["postgres_verifier", "url_password", "password_literal", "password_nested"]
    + ["password_dollar", "password_setting"]
)
"""What that rule looks for anywhere: in code that no scanner reads, in connection strings."""

CREDENTIAL_WORDS: Final = (
    *("passw", "passphrase", "secret", "token", "api_key", "apikey"),
    *("dblink", "conninfo", "connection"),
)
"""One of these is in each statement in which a credential has a place of its own."""

UNDECIDED: Final = "undecided"
"""What a mark says where a stream stood still in the middle of a word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One `[[mask]]`: what becomes of what it hides, and whether the client is to see that too."""

    name: str
    action: str = "redact"
    for_client: bool = False
    key: PseudonymKey | None = field(default=None, repr=False)

    def inline(self, value: bytes, what: str) -> bytes:
        """Return what stands for `value`, a part of something longer, which `what` has found."""
        return self.whole(value, what) or b""

    def whole(self, value: bytes, what: str = "") -> bytes | None:
        """Return what stands for all of `value`; None for nothing at all."""
        if self.action == "drop":
            return None
        if self.action == "pseudonym":
            assert self.key is not None
            return self.key.pseudonym(value)
        if self.action == "partial" and (shown := partial(value)) is not None:
            return shown
        return mark(what or self.name)


_CREDENTIALS: Final = Rule(name=CREDENTIALS)


class Masks:
    """What `masks`, as the policy document has them, hide at `target`.

    `keys` are those of the rules that make pseudonyms, by rule; `finders` are plug-ins, which a
    rule names among its detectors.

    Raises:
        ValueError: a detector that there is not, or a pattern that is none.
    """

    def __init__(
        self,
        masks: Iterable[Mapping[str, Any]],
        *,
        target: str | None = None,
        keys: Mapping[str, PseudonymKey] | None = None,
        finders: Mapping[str, Finder] = MappingProxyType({}),
    ) -> None:
        keys = keys or {}
        mine = [
            m for m in masks if not m.get("targets") or target is None or target in m["targets"]
        ]
        self.rules: dict[str, Rule] = {CREDENTIALS: _CREDENTIALS}
        self.columns: list[tuple[str, str]] = []
        self.paths: list[tuple[tuple[jsonpath.Step, ...], str]] = []
        looks: list[Look] = [(CREDENTIALS, detector) for detector in ALWAYS]
        for document in mine:
            name = document["name"]
            self.rules[name] = Rule(
                name=name,
                action=document["action"],
                for_client="client" in document["apply"],
                key=keys.get(name),
            )
            self.columns += [(column, name) for column in document.get("columns", ())]
            self.paths += [(jsonpath.parse(path), name) for path in document.get("json_paths", ())]
            looks += [(name, found) for found in self._named(document.get("detect", ()), finders)]
            looks += [(name, OwnPattern(slug(name), p)) for p in document.get("patterns", ())]
        self.scanner = Scanner(looks)
        self.statement_sieve = self.scanner.sieve_with(word.encode() for word in CREDENTIAL_WORDS)
        """What tells that nothing is in a statement, as the scanner's does of other bytes."""
        self.detecting = looks[-1][0]
        """A rule that looks for things in values, to name where nobody can say which one it was."""
        self.for_client: Masks | None = None
        client = [document for document in mine if "client" in document["apply"]]
        if len(client) == len(mine):
            self.for_client = self if client else None
        elif client:
            self.for_client = Masks(client, target=target, keys=keys, finders=finders)

    @staticmethod
    def _named(names: Sequence[str], finders: Mapping[str, Finder]) -> Iterable[Detector | Finder]:
        plugged = [finders[name] for name in names if name in finders]
        return [*named([name for name in names if name not in finders]), *plugged]

    def hiding(self, rule: str, values: Sequence[bytes]) -> Masks:
        """Return masks that hide `values` too, wherever they are, as `rule` says."""
        more = copy.copy(self)
        more.rules = {**self.rules, rule: Rule(name=rule)}
        more.scanner = ScannerWithValues(self.scanner, rule, values)
        return more

    # --- values

    def mask(self, value: bytes) -> tuple[bytes, list[Found]]:
        """Return `value` with what is found in it replaced, and what that was."""
        if not self.scanner.may_hold(value):
            return value, []
        found = self.scanner.find(value)
        return self.replaced(value, found), found

    def replaced(self, value: bytes, found: Sequence[Found], *, quote: bytes = b"") -> bytes:
        """Return `value` with marks in the place of what was `found` in it, each in `quote`s."""
        parts = []
        at = 0
        for each in found:
            made = self.rules[each.rule].inline(value[each.start : each.stop], each.what)
            parts += [value[at : each.start], quote, made, quote]
            at = each.stop
        return b"".join([*parts, value[at:]]) if parts else value

    def mask_text(self, text: str) -> str:
        """Return `text` masked as `mask` does it."""
        data = text.encode("utf-8", "surrogatepass")
        masked, found = self.mask(data)
        return masked.decode("utf-8", "replace") if found else text

    def mask_json(
        self, value: bytes, codec: str = "utf-8", hidden: list[bytes] | None = None
    ) -> tuple[bytes, tuple[str, ...]]:
        """Return a JSON value with what the rules' paths name replaced, and whose rules did that.

        What cannot be read as JSON is replaced as a whole. What was hidden is added to `hidden`.
        """
        if not self.paths:
            return value, ()
        leaves: list[bytes] = []
        hiding: dict[str, None] = {}
        try:
            document = json.loads(value.decode(codec), **_EXACTLY)
            for steps, name in self.paths:
                change = functools.partial(_leaf, self.rules[name], leaves)
                if jsonpath.replace(document, steps, change):
                    hiding[name] = None
            made = orjson.dumps(document).decode().encode(codec, _AS_ESCAPES) if hiding else value
        except (ValueError, TypeError, RecursionError):
            first = self.paths[0][1]
            return orjson.dumps(mark(first).decode()), (first,)
        if hidden is not None:
            hidden += leaves
        return made, tuple(hiding)

    @staticmethod
    def is_json(value: bytes) -> bool:
        """Return whether `value` can be read as JSON."""
        try:
            orjson.loads(value)
        except ValueError:
            return False
        return True

    def mask_deep(self, value: Any) -> Any:
        """Return `value`, made of what JSON has, with all its texts masked, names too."""
        if isinstance(value, str):
            return self.mask_text(value)
        if isinstance(value, Mapping):
            return {self.mask_deep(name): self.mask_deep(each) for name, each in value.items()}
        if isinstance(value, list | tuple):
            return [self.mask_deep(each) for each in value]
        return value


def _once(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object; of two members of one name PostgreSQL may show the other."""
    made = dict(members)
    if len(made) < len(members):
        raise ValueError("two members of one name")
    return made


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


_EXACTLY: Final[Mapping[str, Any]] = {
    "object_pairs_hook": _once,
    "parse_constant": _refused,
    # As they are written: a number may have more digits than one of ours.
    "parse_float": orjson.Fragment,
    "parse_int": orjson.Fragment,
}


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """Say characters that an encoding has not as JSON's escapes."""
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end]
    return json.dumps(text)[1:-1], error.end


_AS_ESCAPES: Final = "agentaudit.json"
codecs.register_error(_AS_ESCAPES, _escaped)


def _leaf(rule: Rule, leaves: list[bytes], value: Any) -> Any:
    data = value.encode() if isinstance(value, str) else orjson.dumps(value)
    leaves.append(data)
    made = rule.whole(data)
    return None if made is None else made.decode()
