"""A hold or an access request as text for whoever decides on it, in seconds.

What it does comes first, then all of its text, then what the decision is about: its digest. All
but how long it waits, and who has decided, is read from the document that the digest is of; what
is told of the request beside it could be something else.

An agent wrote the text, and wants it to be approved. So each of its lines stands behind a bar
that no text can draw, one that goes on behind another one, and characters that a terminal obeys
are written out: a statement cannot look like a line of ours. Empty lines that would push its end
off the screen are counted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from agentaudit.analysis.printable import flat, printable, width
from agentaudit.cli.output import ascii_json

if TYPE_CHECKING:
    from agentaudit.client.control import Request

DEFAULT_COLUMNS: Final = 80
MAX_EMPTY_LINES: Final = 3
MAX_ABOVE: Final = 40
"""Lines behind which what it does is said once more."""

_LABEL: Final = 11
_PLAIN_NAME: Final = re.compile(r"[\w.@+:/$-]+")
_HOLD_MEMBERS: Final = frozenset(
    ["session", "command", "target", "protocol", "user", "issuer", "agent", "actor_chain"]
    + ["client_addr", "client_app", "rule", "statements", "transaction", "reported", "settings"]
    + ["startup"]
)
_ACCESS_MEMBERS: Final = frozenset(
    ["target", "user", "issuer", "agent", "actor_chain", "reason", "duration_s", "starts_at"]
    + ["classes", "resources"]
)
_ALWAYS: Final = frozenset(["search_path", "session_authorization"])
_USUAL: Final = {
    "standard_conforming_strings": "on",
    "client_encoding": "UTF8",
    "is_superuser": "off",
    "default_transaction_read_only": "off",
    "in_hot_standby": "off",
}
"""Settings that are shown where they are something else, beside reported ones of `_ALWAYS`."""


def request(one: Request, now_us: int, columns: int | None = None) -> str:
    """Return the whole of a request, in lines of at most `columns` where given."""
    page = _Page(columns)
    if one.kind == "access":
        _access(page, one, now_us)
    else:
        _hold(page, one, now_us)
    if len(page.lines) > MAX_ABOVE:
        page.field("does", effects(one))  # what came first may be off the screen by now
    _decisions(page, one)
    page.field("digest", one.digest)
    page.field("id", str(one.id))
    return "\n".join(page.lines)


def effects(one: Request) -> str:
    """Return in a line what a request is about: what it does, and to what."""
    shown = one.shown
    if one.kind == "access":
        return f"access to {_name(shown.get('target'))} for {_duration(shown.get('duration_s'))}"
    words = []
    for statement in _statements(shown):
        risk = ", ".join(_texts(statement.get("risk")))
        words.append(_effect(statement, " ") + (f" ({risk})" if risk else ""))
    return "; ".join(words)


def who(one: Request) -> str:
    """Return who asks."""
    return _name(one.shown.get("user"))


def left(one: Request, now_us: int) -> str:
    """Return how long a request waits yet, in words.

    >>> from types import SimpleNamespace as Like
    >>> left(Like(state="pending", expires_at=90_000_000), 0)
    '90 s left'
    """
    if one.state != "pending":
        return printable(one.state)
    seconds = (one.expires_at - now_us) // 1_000_000
    return f"{_duration(seconds)} left" if seconds > 0 else "time is over"


# --- what is decided on


def _hold(page: _Page, one: Request, now_us: int) -> None:
    shown = one.shown
    statements = _statements(shown)
    if len(statements) == 1:
        page.title(_effect(statements[0]), left(one, now_us))
        page.field("risk", ", ".join(_texts(statements[0].get("risk"))))
        page.field("rows", _rows(statements[0]))
    else:
        page.title(f"{len(statements)} statements, which run together", left(one, now_us))
        for number, statement in enumerate(statements, 1):
            held = " (held)" if statement.get("decision") == "hold" else ""
            page.field(str(number), _effect(statement) + held)
            risk = ", ".join(_texts(statement.get("risk")))
            page.field("", f"risk: {risk}" if risk else "")
            rows = _rows(statement)
            page.field("", f"rows: {rows}" if rows else "")
    page.field("rule", _line(shown.get("rule")))
    _people(page, shown)
    where = [_name(shown.get("target")), f"({_name(shown.get('protocol'))})"]
    where += ["from", _name(shown.get("client_addr"))] if shown.get("client_addr") else []
    where += [f"by {_line(shown.get('client_app'))}"] if shown.get("client_app") else []
    page.field("at", " ".join(where))
    page.field("session", f"{_name(shown.get('session'))}, command {_name(shown.get('command'))}")
    _transaction(page, shown.get("transaction"))
    for name, value in _startup(shown):
        page.field("began with", f"{name} = {value}")
    for text in _texts(shown.get("settings"), one_line=True):
        page.field("has set", text)
    for name, value in _reported(shown.get("reported")):
        page.field("setting", f"{name} = {value}")
    _others(page, shown, _HOLD_MEMBERS)
    for number, statement in enumerate(statements, 1):
        text = str(statement.get("text") or "")
        of = f" {number} of {len(statements)}" if len(statements) > 1 else ""
        page.field("text" + of, _measure(text))
        page.text(text)
        _parameters(page, statement)


def _access(page: _Page, one: Request, now_us: int) -> None:
    shown = one.shown
    page.title(effects(one), left(one, now_us))
    page.field("classes", ", ".join(_texts(shown.get("classes"))) or "all")
    page.field("tables", _names(shown.get("resources")) or "all")
    starts = shown.get("starts_at")
    page.field("from", _moment(starts) if starts else "now on")
    page.field("reason", _line(shown.get("reason")))
    _people(page, shown)
    _others(page, shown, _ACCESS_MEMBERS)


def _people(page: _Page, shown: Mapping[str, Any]) -> None:
    agent = shown.get("agent")
    told = _name(shown.get("user")) + (f", agent {_name(agent)}" if agent else "")
    page.field("who", f"{told}, says {_name(shown.get('issuer'))}")
    chain = [_name(each) for each in _list(shown.get("actor_chain"))]
    page.field("chain", " < ".join(chain) if chain != [_name(shown.get("user"))] else "")


def _transaction(page: _Page, transaction: Any) -> None:
    if not isinstance(transaction, dict) or transaction.get("status") not in ("T", "E"):
        page.field("transaction", "none is open")
        return
    before = _list(transaction.get("before"))
    failed = " and failed" if transaction["status"] == "E" else ""
    page.field("transaction", f"open{failed}; in it before this: {len(before) or 'nothing'}")
    for each in before:
        if isinstance(each, dict):
            status = each.get("status")
            ended = "" if status in ("ok", None) else f"{_line(status)}: "
            page.cut(f"{ended}{_line(flat(str(each.get('text'))))}")


def _startup(shown: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what a client began its session with, but for what is shown elsewhere or is usual."""
    parameters = shown.get("startup")
    if not isinstance(parameters, dict):
        parameters = {} if parameters is None else {"startup": parameters}
    for name, value in sorted(parameters.items()):
        # The target is never told of this user: the session is that of `who`.
        is_told = name == "application_name" and value == shown.get("client_app")
        if name != "user" and not is_told and _USUAL.get(name) != value:
            yield _line(name), _line(value)


def _reported(reported: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(reported, dict):
        return
    for name, value in sorted(reported.items()):
        if name in _ALWAYS or (name in _USUAL and value != _USUAL[name]):
            yield _line(name), _line(value)


def _parameters(page: _Page, statement: Mapping[str, Any]) -> None:
    parameters = statement.get("params")
    if parameters is None:
        # A simple query has none; those of an execution that are too long have a hash each.
        hashes = ", ".join(_texts(statement.get("sha256")))
        page.field("parameters", f"too long to be shown; SHA-256: {hashes}" if hashes else "")
        return
    for number, value in enumerate(_list(parameters), 1):
        if value is None:
            page.field(f"${number}", "NULL")
        else:
            page.field(f"${number}", _measure(str(value)))
            page.text(str(value))


def _others(page: _Page, shown: Mapping[str, Any], known: frozenset[str]) -> None:
    """Show what a newer gateway has put there: it is decided on too."""
    for name in sorted(set(shown) - known):
        page.field("also", f"{_line(name)}: {ascii_json(shown[name])}")


def _decisions(page: _Page, one: Request) -> None:
    if one.approvals > 1:
        approved = sum(vote.verdict == "approve" for vote in one.votes)
        page.field("approvals", f"{approved} of {one.approvals}")
    for vote in one.votes:
        said = f"{_name(vote.approver.user)}: {_line(vote.verdict)}, {_line(vote.reason)}"
        page.field("decided", said)
    groups = _names(one.approvers) or "nobody"
    mine = "you may" if one.may_decide else f"not you: somebody else in {groups}"
    page.field("may decide", mine if one.state == "pending" else "nobody now")


def _effect(statement: Mapping[str, Any], between: str = "  ") -> str:
    operation = _line(statement.get("operation")) or "(no operation)"
    parts = [operation, _line(statement["class"]), _names(statement.get("resources"))]
    return between.join(filter(None, parts))


def _rows(statement: Mapping[str, Any]) -> str:
    """Say how many rows it is about, where somebody was asked."""
    estimate = statement.get("estimate")
    if not isinstance(estimate, dict):
        return ""
    rows = estimate.get("rows")
    known = _count(rows) if rows is not None else f"not known, {_line(estimate.get('why'))}"
    tables = estimate.get("tables")
    sizes = tables.items() if isinstance(tables, dict) else ()
    told = [f"{_name(table)} has {_count(size)}" for table, size in sizes if size is not None]
    return f"{known} ({', '.join(told)})" if told else known


def _count(rows: Any) -> str:
    return f"about {rows:,}" if isinstance(rows, int) else _line(rows)


# --- words


def _statements(shown: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = [each for each in _list(shown.get("statements")) if isinstance(each, dict)]
    return [{"class": "unknown"} | each for each in found]


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _line(value: Any) -> str:
    return "" if value is None else printable(str(value))


def _texts(value: Any, *, one_line: bool = False) -> list[str]:
    texts = [str(each) for each in _list(value)]
    return [printable(flat(each) if one_line else each) for each in texts]


def _name(value: Any) -> str:
    """Return a name, in quotes where it could be taken for more than one."""
    text = _line(value)
    return text if _PLAIN_NAME.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _names(value: Any) -> str:
    return ", ".join(_name(each) for each in _list(value))


def _measure(text: str) -> str:
    lines = text.count("\n") + 1
    return f"{len(text):,} characters" + (f" in {lines:,} lines" if lines > 1 else "")


def _moment(time_us: Any) -> str:
    try:
        return f"{datetime.fromtimestamp(time_us / 1e6, UTC):%Y-%m-%d %H:%M:%SZ}"
    except (TypeError, ValueError, OverflowError, OSError):
        return _line(time_us)


def _duration(seconds: Any) -> str:
    if not isinstance(seconds, int | float):
        return _line(seconds) or "an unknown time"
    for unit, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * unit or (seconds >= unit and seconds % unit == 0):
            return f"{seconds // unit:.0f} {name}"
    return f"{seconds:.0f} s"


class _Page:
    """Lines of at most `columns`, or as long as they are where nobody counts."""

    def __init__(self, columns: int | None) -> None:
        self.lines: list[str] = []
        self._columns = None if columns is None else max(columns, 40)

    def title(self, text: str, aside: str) -> None:
        room = (self._columns or DEFAULT_COLUMNS) - len(aside) - 2
        first, *rest = _wrapped(text, room if self._columns else None, " ")
        self.lines.append(first + " " * max(2, room - width(first) + 2) + aside)
        self.lines += ["  " + line for line in rest]

    def field(self, label: str, text: str) -> None:
        """Add what is called `label`; nothing where `text` is empty."""
        if not text:
            return
        room = None if self._columns is None else self._columns - _LABEL - 3
        first, *rest = _wrapped(text, room, " ")
        self.lines.append(f"  {label:{_LABEL}} {first}".rstrip())
        self.lines += [" " * (_LABEL + 3) + line.rstrip() for line in rest]

    def cut(self, text: str) -> None:
        """Add a line that goes with the field before it, and is cut where it is too long."""
        room = (self._columns or DEFAULT_COLUMNS) - _LABEL - 3
        parts = _wrapped(text, room - 1)
        self.lines.append(" " * (_LABEL + 3) + parts[0] + ("…" if len(parts) > 1 else ""))

    def text(self, text: str) -> None:
        """Add all of what somebody else wrote."""
        room = None if self._columns is None else self._columns - 4
        empty = 0
        for line in (*printable(text, block=True).expandtabs(8).split("\n"), None):
            if line is not None and not line.strip():
                empty += 1
                continue
            # Empty ones at the end show nothing, and are counted too.
            if empty > MAX_EMPTY_LINES:
                self.lines.append(f"  ┊ ({empty:,} lines without a word)")
            else:
                self.lines += ["  │"] * empty
            empty = 0
            if line is not None:
                first, *rest = _wrapped(line, room)
                self.lines.append(f"  │ {first}")
                self.lines += [f"  ┊ {part}" for part in rest]


def _wrapped(text: str, room: int | None, behind: str = "") -> Sequence[str]:
    """Return `text` in parts that take at most `room` columns each; at least one.

    They end behind a character of `behind` where there is one, and anywhere otherwise.
    """
    if room is None or len(text) * 2 <= room:
        return [text]
    parts, start, taken = [], 0, 0
    for at, character in enumerate(text):
        needs = width(character)
        if taken + needs > room:
            end = max((text.rfind(one, start, at) + 1 for one in behind), default=0) or at
            parts.append(text[start:end])
            start, taken = end, width(text[end:at])
        taken += needs
    parts.append(text[start:])
    return parts
