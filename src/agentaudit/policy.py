"""Whether a command may pass: rules and a command in, a decision out, and nothing else.

The first rule that matches decides. Where none does, reads and what concerns the session alone
pass, and for the rest the target's default does. Rules are read from the policy document, the same
bytes that the archive keeps of them (`policies/<sha256>.json`), so that what was in force can be
asked again, years later, of the same code.

The surprising decision is that a condition means something else where it allows. What a statement
does is told by its text, and where that is not sure, a rule errs on the side of not letting it
pass: see `Rule`.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Final, Literal, Protocol

from agentaudit.model import Hold
from agentaudit.paths import normal_path
from agentaudit.patterns import Pattern, compile_pattern

Action = Literal["allow", "deny", "hold"]

MAX_SEARCHED_CHARACTERS: Final = 1024 * 1024
"""A longer text is not searched: a pattern is met by it where that refuses, and not where it
allows."""

_PASSING: Final = frozenset({"read", "session"})
_NEVER_IMPLIED: Final = frozenset({"unknown", "admin"})
_CONTAINS, _CALLS = "contains ", "calls "
FORWARD: Final = "forward"
"""The operation of a connection through a host to another one: off, unless a rule names it."""
_LINK_OF_PROCESS: Final = re.compile(r"/proc/[^/]+(/task/[^/]+)?/(cwd(/|$)|fd/[^/]+/)")
_OTHER_FOLDER: Final = re.compile(r"~[-+0-9]")
_DOT_AT_BRACE: Final = re.compile(r"\.[.,{}]|[,{}]\.")
_MAX_KINDS, _MAX_NAMES = 200, 20
"""Of commands whose rules a session remembers: an agent picks how many names it says."""


class Judged(Protocol):
    """What rules ask of a command: what it does, as far as its text tells."""

    @property
    def cls(self) -> str: ...
    @property
    def operation(self) -> str: ...
    @property
    def resources(self) -> tuple[str, ...]: ...
    @property
    def risk(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class Decision:
    """What may happen to a command, and the name of the rule that says so.

    `hold` says who decides where the action is `hold`. With `otherwise`, it holds for what is about
    more than `rows_over` rows, and that for the rest.
    """

    action: Action
    rule: str
    hold: Hold | None = None
    rows_over: int = 0
    otherwise: Decision | None = None

    def about(self, rows: int | None) -> Decision:
        """Return what holds for a command about so many rows; None where nobody knows."""
        decision = self
        while decision.otherwise is not None:
            if rows is None or rows > decision.rows_over:
                return Decision(decision.action, decision.rule, decision.hold)
            decision = decision.otherwise
        return decision

    def limit(self) -> tuple[int, str] | None:
        """Return how many rows may pass at most, and by which rule; None for any number."""
        limits: list[tuple[int, str]] = []
        decision = self
        while decision.otherwise is not None:
            limits.append((decision.rows_over, decision.rule))
            decision = decision.otherwise
        return min(limits) if limits else None


NO_RULE: Final = Decision("allow", "none")
"""Of a command that no rule is about."""

_DENIED: Final = Decision("deny", "default")
_BEYOND: Final = Decision("deny", "grant")
"""Of a command that the grant, by which its session was let in, does not name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule, and what it is about; an empty condition is none, and all others must be met.

    `resources` are patterns of names, part by part from the right (`*` is any part): where a rule
    denies or holds, one of the command's is enough, and a name that lacks a part matches, because
    `search_path` may lead it there. Where it allows, all must match, with all their parts. It is
    the same with `operations`: of a statement inside another one the operation counts too, and of
    an exec request or a typed line those of the commands in it, or its own for whatever it runs.

    One that begins with `/` or `~` is of paths, and `*` in it passes over `/`. A rule that denies
    or holds is also about a folder above what it names, and about a pattern that may become it; one
    that allows is about a pattern only where it ends with `*` and names all that comes before.

    Of a forwarded connection the resource is `host:port`, and a name may stand for any address: see
    `_may_lead_to`. It is let pass, or held, only by a rule that names its operation.

    A command of class `unknown` may do more than its text says, and one of class `admin` more than
    its operation and resources say. A rule that allows by what a text says is about neither,
    unless it names the class; and about `schema` only if it names that or an operation.

    `rows_over` is no condition on a command but on how many rows it is about, which is known later.
    """

    name: str
    action: Action
    targets: frozenset[str] = frozenset()
    protocols: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    tags: frozenset[tuple[str, str]] = frozenset()
    classes: frozenset[str] = frozenset()
    operations: frozenset[str] = frozenset()
    resources: tuple[str, ...] = ()
    text: Pattern | None = None
    rows_over: int | None = None
    hold: Hold | None = None

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Rule:
        """Return a rule of a policy document.

        Raises:
            ValueError, KeyError, TypeError: it is not one of ours.
        """
        when = dict(document["when"])
        text = when.pop("text", None)
        rows_over = when.pop("rows_over", None)
        rule = cls(
            name=document["name"],
            action=document["action"],
            targets=frozenset(_words(when, "target")),
            protocols=frozenset(_words(when, "protocol")),
            groups=frozenset(_words(when, "groups")),
            tags=frozenset(when.pop("tags", {}).items()),
            classes=frozenset(_words(when, "class")),
            operations=frozenset(" ".join(n.upper().split()) for n in _words(when, "operation")),
            resources=tuple(_words(when, "resource")),
            text=None if text is None else compile_pattern(text),
            rows_over=None if rows_over is None else int(rows_over),
            hold=_hold(document) if document["action"] == "hold" else None,
        )
        if when or rule.action not in ("allow", "deny", "hold"):
            raise ValueError(f'rule "{rule.name}": a condition or an action that is not known')
        return rule

    def is_about_session(
        self, target: str, protocol: str, tags: Mapping[str, str], groups: Collection[str]
    ) -> bool:
        """Return whether commands of such a session can match."""
        return (
            (not self.targets or target in self.targets)
            and (not self.protocols or protocol in self.protocols)
            and (not self.groups or not self.groups.isdisjoint(groups))
            and all(tags.get(name) == value for name, value in self.tags)
        )

    def is_about(self, command: Judged) -> bool:
        """Return whether all conditions but that on the text are met in such a session."""
        allows = self.action == "allow"
        if self.classes:
            if command.cls not in self.classes:
                return False
        elif allows and command.cls in self._unnamed:
            return False
        if self.operations and not self._names_operations(command):
            return False
        if self.resources:
            if not self._is_about(command):
                return False
            if allows and any(risk.startswith(_CALLS) for risk in command.risk):
                return False  # and so about something that is no resource
        return True

    def _names_operations(self, command: Judged) -> bool:
        outer = command.operation.upper()
        inner = [
            risk.removeprefix(_CONTAINS) for risk in command.risk if risk.startswith(_CONTAINS)
        ]
        named = [name.upper() in self.operations for name in inner]
        is_named = outer in self.operations
        if self.action != "allow":
            return is_named or any(named)
        if outer in ("EXEC", "LINE") and named:  # it does nothing but what is in it
            return is_named or all(named)
        return is_named and all(named)

    def is_met_by(self, text: str) -> bool:
        """Return whether what `text` asks for is in a command's text."""
        if self.text is None:
            return True
        if len(text) > MAX_SEARCHED_CHARACTERS:
            return self.action != "allow"
        return self.text.search(text) is not None

    @property
    def _unnamed(self) -> frozenset[str]:
        """The classes that a rule which names none does not allow."""
        if self.operations:
            return _NEVER_IMPLIED
        return _NEVER_IMPLIED | {"schema"} if self.resources or self.text else frozenset()

    def opens(self, command: Judged) -> bool:
        """Return whether it may let a command pass that is off by itself, or only refuse it."""
        if command.operation != FORWARD or self.action == "deny":
            return True
        return FORWARD.upper() in self.operations

    def _is_about(self, command: Judged) -> bool:
        if command.operation == FORWARD:
            leads = _leads_to if self.action == "allow" else _may_lead_to
            reached = [
                any(leads(wanted, name) for wanted in self.resources) for name in command.resources
            ]
            return all(reached) and bool(reached) if self.action == "allow" else any(reached)
        names = _covers if self.action == "allow" else _may_be
        in_shell = command.operation in ("exec", "line")
        found = [
            any(names(wanted, name, in_shell=in_shell) for wanted in self.resources)
            for name in command.resources
        ]
        return all(found) and bool(found) if self.action == "allow" else any(found)


def _covers(wanted: str, name: str, *, in_shell: bool = False) -> bool:
    """Say whether all that `name` may stand for is what a rule that allows names."""
    if not _is_path(wanted) and not _is_path(name):
        parts, words = name.split("."), wanted.split(".")
        return len(words) == len(parts) and all(map(fnmatchcase, parts, words))
    if ".." in name.split("/") or _may_lead_anywhere(name, in_shell):
        return False  # where that leads to only the host knows
    asked = _before_pattern(name)
    if asked == name:
        return fnmatchcase(name, wanted)
    begins = _before_pattern(wanted)
    return wanted == f"{begins}*" and asked.startswith(begins)


def _may_be(wanted: str, name: str, *, in_shell: bool = False) -> bool:
    """Say whether anything that `name` may stand for is what a rule that refuses names."""
    wanted, name = wanted.lower(), name.lower()
    if _is_path(wanted) and _may_lead_anywhere(name, in_shell):
        return True
    if not _is_path(wanted) and not _is_path(name):
        pairs = zip(reversed(wanted.split(".")), reversed(name.split(".")), strict=False)
        return all(fnmatchcase(part, word) for word, part in pairs)
    names = {name, normal_path(name)}
    return any(fnmatchcase(one, wanted) or _is_above(one, wanted) for one in names)


def _may_lead_anywhere(name: str, in_shell: bool) -> bool:
    """Say whether `name` may be a path that does not begin as it does.

    `in_shell` where a shell reads it: there `$x` may be `..`, and so may what a pattern becomes.
    """
    if _LINK_OF_PROCESS.match(normal_path(name)):
        return True
    if not in_shell:
        return False
    parts = name.split("/")
    if not name.startswith("/") and ".." in parts and not normal_path(name).startswith("~"):
        return True
    if "$" in name or "`" in name or _OTHER_FOLDER.match(name):
        return True
    if "{" in name and _DOT_AT_BRACE.search(name):
        return True
    return any(each.startswith(".") and each != ".." and fnmatchcase("..", each) for each in parts)


def _is_above(name: str, wanted: str) -> bool:
    """Say whether something below `name`, or that it becomes, may be what `wanted` names."""
    begins, asked = _before_pattern(wanted), _before_pattern(name)
    if asked == name:
        return begins.startswith(f"{name.rstrip('/')}/")
    return begins.startswith(asked) or asked.startswith(begins)


def _is_path(name: str) -> bool:
    return name.startswith(("/", "~"))


def _before_pattern(name: str) -> str:
    """Return what stands in `name` before the first sign of a pattern."""
    return re.split(r"[*?\[{]", name, maxsplit=1)[0]


# --- hosts and ports


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _leads_to(wanted: str, place: str) -> bool:
    """Say whether a connection to `place`, a `host:port`, is what a rule that allows names."""
    host, port = _host_and_port(wanted.lower())
    asked_host, asked_port = _host_and_port(place)
    return port in ("*", asked_port) and _is_host(host, asked_host)


def _may_lead_to(wanted: str, place: str) -> bool:
    """Say whether a connection to `place` may be what a rule that refuses names.

    Which address a name has only the host knows, and whoever asks may own a name: two that are not
    both addresses may always be one. So may addresses of two families.
    """
    if _is_path(wanted):
        return False
    host, port = _host_and_port(wanted.lower())
    asked_host, asked_port = _host_and_port(place)
    if not port:
        return _may_be(host, asked_host)
    if port not in ("*", asked_port):
        return False
    if _is_host(host, asked_host):
        return True
    mine, theirs = _address_of(host.replace("*", "0")), _address_of(asked_host)
    if mine is None or theirs is None or mine.version != theirs.version:
        return True
    # Linux takes the address of nobody for its own.
    return all(each.is_loopback or each.is_unspecified for each in (mine, theirs))


def _is_host(wanted: str, host: str) -> bool:
    """Say whether a host is what a rule names: part by part, `*` for any letters of one."""
    if wanted == "*":
        return True
    address = _address_of(host)
    if (named := _address_of(wanted)) is not None:
        return address == named
    words, parts = wanted.split("."), host.split(".")
    if words[0].isdigit() and address is None:
        return False  # a name may have numbers in it, and is no address
    return len(words) == len(parts) and all(map(fnmatchcase, parts, words))


def _host_and_port(place: str) -> tuple[str, str]:
    host, colon, port = place.rpartition(":")
    return (host, port) if colon and not place.endswith("]") else (place, "")


def _address_of(host: str) -> _Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def _hold(document: Mapping[str, Any]) -> Hold:
    timeout_us = document["timeout_us"]
    return Hold(
        rule=document["name"],
        approvers=tuple(document["approvers"]),
        approvals=document["approvals"],
        timeout_s=None if timeout_us is None else timeout_us / 1_000_000,
    )


def _words(when: dict[str, Any], condition: str) -> list[str]:
    words = when.pop(condition, [])
    if not isinstance(words, list):
        raise TypeError(condition)  # of a word there are letters too
    return words


@dataclass(frozen=True, slots=True)
class SessionPolicy:
    """The rules that are about one session, and what happens to what they do not decide.

    `scope` is what a grant is for, where one has let the session in: a rule that allows by these
    classes and resources, and what it does not allow is denied before any rule is asked.
    """

    rules: tuple[Rule, ...]
    default: Decision
    scope: Rule | None = None
    _about: dict[object, tuple[Rule, ...]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def is_open(self) -> bool:
        """Whether every command passes."""
        return not self.rules and self.default is NO_RULE and self.scope is None

    @property
    def may_hold(self) -> bool:
        """Whether there is a command that it holds, be it until its rows are counted."""
        return self.default.action == "hold" or any(
            rule.hold is not None or rule.rows_over is not None for rule in self.rules
        )

    def decide(self, command: Judged, text: str) -> Decision:
        """Return what may happen to `command`; `text` is all of it, where its row has a part."""
        if (
            self.scope is not None
            and not _is_harmless(command)
            and not self.scope.is_about(command)
        ):
            return _BEYOND
        is_off = command.operation == FORWARD
        if not self.rules and self.default is NO_RULE and not is_off:
            return NO_RULE
        # Few kinds of commands come again and again; only their texts differ.
        kind = (command.cls, command.operation, command.resources, command.risk)
        rules = self._about.get(kind)
        if rules is None:
            rules = tuple(r for r in self.rules if r.opens(command) and r.is_about(command))
            if len(self._about) >= _MAX_KINDS:
                self._about.clear()
            if len(command.resources) <= _MAX_NAMES:
                self._about[kind] = rules
        counting: list[Rule] = []
        decision = NO_RULE if command.cls in _PASSING else self.default
        if is_off:
            decision = _DENIED
        for rule in rules:
            if rule.is_met_by(text):
                if rule.rows_over is None:
                    decision = Decision(rule.action, rule.name, rule.hold)
                    break
                counting.append(rule)
        for rule in reversed(counting):
            over = rule.rows_over or 0
            decision = Decision(rule.action, rule.name, rule.hold, over, decision)
        return decision


def _is_harmless(command: Judged) -> bool:
    """Say whether no grant need name it: it touches nothing, and changes no other's meaning."""
    return command.cls in _PASSING and not command.resources and not command.risk


class Policy:
    """What a policy document says of commands."""

    def __init__(self, document: bytes) -> None:
        """Read it.

        Raises:
            ValueError: it is no policy document, or of a newer release.
        """
        try:
            read = json.loads(document)
            self._rules = tuple(map(Rule.read, read["rules"]))
            self._targets = {target["name"]: target for target in read["targets"]}
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no policy document: {type(error).__name__}") from None

    def for_session(
        self, *, target: str, protocol: str, groups: Collection[str], scope: Rule | None = None
    ) -> SessionPolicy:
        """Return what holds in a session of somebody who is in `groups`, within `scope`.

        Of a target that the document does not name, all that no rule decides is denied.
        """
        known = self._targets.get(target, {})
        tags = known.get("tags", {})
        return SessionPolicy(
            tuple(r for r in self._rules if r.is_about_session(target, protocol, tags, groups)),
            _default(known),
            scope,
        )


def scope(classes: Collection[str], resources: Collection[str]) -> Rule | None:
    """Return what a grant of these classes and resources is for; None where it is for all."""
    if not classes and not resources:
        return None
    return Rule(
        name="grant",
        action="allow",
        classes=frozenset(classes),
        resources=tuple(resources),
    )


def _default(target: Mapping[str, Any]) -> Decision:
    default = target.get("default")
    if default == "hold":
        approvers = tuple(target.get("approvers", ()))
        return Decision("hold", "default", Hold(rule="default", approvers=approvers))
    return NO_RULE if default == "allow" else _DENIED
