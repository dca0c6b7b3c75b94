"""What becomes of a PostgreSQL session's bytes before they are recorded, and where a rule says so,
before the client gets them.

A masked message is a message still: lengths fit, and a value is one that its type can have. So a
masked column is told as one of text, whatever it was; where its rows were announced otherwise, its
values become NULL. What cannot hold anything passes untouched, and for most messages the sieve
alone says so.

The text of a statement is masked once, by its tree, for all its executions.
"""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any, Final

from agentaudit._native import sift
from agentaudit.errors import MaskingError
from agentaudit.gateway import postgres_frames as frames
from agentaudit.gateway.postgres_columns import JSON_LIKE, Plan, Values
from agentaudit.gateway.postgres_copy import CopyMask
from agentaudit.gateway.postgres_long import LongMask
from agentaudit.gateway.postgres_statements import CLEAN, Look, Statements
from agentaudit.gateway.postgres_tables import Known, Tables
from agentaudit.masking.marks import mark
from agentaudit.masking.masks import CREDENTIALS, Masks
from agentaudit.masking.stream import fitted
from agentaudit.model import MAX_EVENT_BYTES, Command, Event, Flag, Side, Span, Step
from agentaudit.protocols import postgres_messages as messages
from agentaudit.protocols.postgres import Conversation
from agentaudit.protocols.postgres_ledger import Execution
from agentaudit.protocols.postgres_messages import Column, RowShape
from agentaudit.protocols.postgres_prepared import NO_SHAPE, Portal, Prepared, cut_text
from agentaudit.risk import catalogue as catalogues
from agentaudit.risk import sql
from agentaudit.risk.doubt import EVERYTHING, NO_DOUBT, Doubt
from agentaudit.risk.lineage import Lineage

_NAMES: Final = re.compile(r"\s*(?:PREPARE|DECLARE)\b", re.IGNORECASE)
_MOVES: Final = re.compile(
    r"search_path|\bschema\b|set_config|\brole\b|authorization|\b(?:reset|discard|rollback|abort)\b",
    re.IGNORECASE,
)
"""What may change where names are looked for, or take such a change back."""
_MAX_HIDDEN: Final = 256
_MAX_TOLD_CHARACTERS: Final = 16 * 1024
_MIN_QUOTED: Final = 6
_RUNS: Final = re.compile(r"\b(?:EXECUTE|FETCH|MOVE)\b", re.IGNORECASE)

_OF_THE_TEXT: Final = ("42", "08", "25", "40", "57")
"""Classes of errors whose message says nothing but what the statement itself does."""

_CLIENT, _TARGET = Side.CLIENT, Side.TARGET
_CONTINUED: Final = int(Flag.CONTINUED)
_QUERY, _PARSE, _BIND, _DESCRIBE, _CLOSE, _CALL = b"QPBDCF"
_ROWS, _ROW, _ERROR, _NOTICE, _NOTIFICATION, _STATUS = b"TDENAS"
_COPIES: Final = frozenset(b"dcf")
_SETTINGS: Final = frozenset(
    [b"client_encoding", b"DateStyle", b"default_transaction_read_only", b"in_hot_standby"]
    + [b"integer_datetimes", b"IntervalStyle", b"is_superuser", b"scram_iterations"]
    + [b"server_encoding", b"server_version", b"standard_conforming_strings"]
)
"""Reported settings of which the values are few."""
_COPY_DATA: Final = ord("d")
_TEXTS: Final = frozenset(b"QP")
_COPY: Final = ("copy", NO_SHAPE)


class PostgresMasks:
    """Masks one session. Belongs to its relay.

    `tables` is what is known of the target's tables, None where no rule is about columns;
    `names_path` says that the client chose where names are looked for when it connected.
    """

    def __init__(
        self,
        masks: Masks,
        conversation: Conversation,
        tables: Tables | None,
        *,
        names_path: bool = False,
    ) -> None:
        self._masks = masks
        self._conversation = conversation
        self._tables = tables
        self._statements = Statements(masks, None)
        self._sieve = masks.scanner.sieve
        self._statement_sieve = masks.statement_sieve
        self._values = Values(masks, conversation)
        self.is_withholding = False
        """Whether content of something that was recorded is still to come."""
        self._is_streaming = False
        """Whether a COPY or a long message may be under way."""
        self._may_look_elsewhere = names_path
        self._prepared = NO_DOUBT
        """What statements may change that have a name in SQL, once they run."""
        self._is_unsettled = False
        """Whether something was changed that others may not see yet."""
        self._was_running = False
        """Whether something was under way when nothing more came: a server goes on with that."""
        self._hidden: deque[bytes] = deque(maxlen=_MAX_HIDDEN)
        """What was hidden of late of what the client said: a server's error may quote it."""
        self._commands: dict[int, Execution] = {}
        self._looks: dict[int, Look] = {}
        self._dirty: set[int] = set()
        self._unhashed: set[int] = set()
        """Commands of which something was hidden in a COPY: no hash of it is kept."""
        self._copies: dict[Side, CopyMask] = {}
        self._longs: dict[Side, LongMask] = {}
        conversation.watch()
        if tables is not None:
            tables.enter(self)

    # --- what the relay asks

    def mask(self, step: Step) -> None:
        """Mask what `step` is to record, and where the client is not to see it, its frame.

        Raises:
            MaskingError: it cannot be, so nothing of it may be recorded or pass.
        """
        starts: Any = step.starts
        ends: Any = step.ends
        try:
            for command in starts:
                self._begin(command)
            if not step.events:
                pass
            elif step.side is _CLIENT:
                self._request(step, step.events[0])
            else:
                self._response(step, step.events[0])
            for command in ends:
                self._end(command)
            if self._is_unsettled and self._tables is not None and self.is_idle:
                self._is_unsettled = False
                self._tables.settle(self)
        except Exception as error:
            # What waits belongs to what is not understood any more: it is not recorded either.
            self._copies.clear()
            self._longs.clear()
            self._settle()
            raise MaskingError(
                f"what passes cannot be masked ({type(error).__name__})",
                hint="the session ends: what cannot be masked is not recorded, and does not pass",
            ) from error

    def flush(self) -> list[Event]:
        """Return events with what was withheld for long enough.

        Raises:
            MaskingError: as `mask`.
        """
        return self._let_go(lambda stream, side: stream.flush(side))

    def finish(self) -> list[Event]:
        """Return events with all that was withheld: nothing more comes.

        Raises:
            MaskingError: as `mask`.
        """
        self._note_running()
        for command in list(self._commands.values()):
            self._end(command)
        events = self._let_go(lambda stream, side: stream.finish(side, is_cut_off=True))
        self._copies.clear()
        self._longs.clear()
        self._settle()
        return events

    def _let_go(self, release: Callable[[CopyMask | LongMask, Side], list[Event]]) -> list[Event]:
        events = []
        try:
            for streams in (self._copies, self._longs):
                for side, stream in streams.items():
                    events += release(stream, side)
        except Exception as error:
            raise MaskingError(
                f"what was withheld cannot be masked ({type(error).__name__})"
            ) from error
        self._settle()
        return events

    @property
    def is_idle(self) -> bool:
        """Whether no command and no transaction is open, so that what was changed can be seen."""
        return not self._commands and not self._conversation.is_uncommitted

    def leave(self) -> None:
        """Note that the session is over."""
        self._note_running()
        if self._tables is not None:
            self._tables.leave(self, is_running=self._was_running)

    def _note_running(self) -> None:
        # What waited for somebody was given up before, and has never been sent.
        commands = self._commands.values()
        self._was_running |= any(command.status == "incomplete" for command in commands)

    def judged(self, command: Command) -> None:
        """Mask what a judge has told of a command by its text."""
        if command.command_no in self._dirty:
            texts = self._masks.mask_text
            command.operation = texts(command.operation)
            for name in ("resources", "risk"):
                setattr(command, name, tuple(map(texts, getattr(command, name))))

    def text(self, command: Command) -> str:
        """Return all of a command's text, masked."""
        if not isinstance(command, Execution):
            return self._masks.mask_text(command.text)
        look = self._looks.get(command.command_no, CLEAN)
        return command.sql if look.text is None else look.text

    def deep(self, value: Any) -> Any:
        """Return what JSON has, masked."""
        return self._masks.mask_deep(value)

    # --- commands

    def _begin(self, command: Execution) -> None:
        """Look at what a command runs."""
        self._commands[command.command_no] = command
        look = self._unread(command) if command.is_ambiguous else self._look_of(command)
        portal = command.portal
        if portal is not None and portal.masked is not None:
            command.params = portal.masked
        if look is CLEAN:
            return
        self._looks[command.command_no] = look
        self._hidden.extend([value for value in look.hidden if value not in self._hidden])
        if look.text is not None:
            command.text = cut_text(look.text)
            self._dirty.add(command.command_no)
        if self._tables is not None:
            self._note_changes(command.sql, look.changes)
            if look.lineage is not None and look.lineage.spoils is not NO_DOUBT:
                self._tables.spoil(look.lineage.spoils)

    def _unread(self, command: Execution) -> Look:
        """Look at a text that may mean something else than it seems to."""
        tables = self._tables
        return (self._statements if tables is None else tables.known.statements).unread(command.sql)

    def _note_changes(self, text: str, changed: Doubt) -> None:
        """Note what a statement may change, also by running what was prepared before it."""
        assert self._tables is not None
        if changed.everything or _MOVES.search(text) is not None:
            self._may_look_elsewhere = True
        if _NAMES.match(text) is not None:
            # What a DECLARE or PREPARE stands for may run at any time from now on.
            self._prepared |= changed
        elif changed.everything:
            self._prepared = EVERYTHING  # its code may have prepared something
        if _RUNS.search(text) is not None:
            changed |= self._prepared
        if changed is not NO_DOUBT:
            self._is_unsettled = True
            self._tables.note(self, changed)

    def _look_of(self, command: Execution) -> Look:
        portal = command.portal
        if portal is None:
            return self._look(command.sql)
        return self._look_at_statement(portal.statement)

    def _look_at_statement(self, statement: Prepared) -> Look:
        known: Look | None = statement.masked
        epoch = 0 if self._tables is None else self._tables.epoch
        if known is None or statement.masked_in != epoch:
            known = statement.masked = self._look(statement.sql)
            statement.masked_in = epoch
        return known

    def _look(self, text: str) -> Look:
        if self._tables is None:
            if not self._may_be_said(text.encode("utf-8", "replace")):
                return CLEAN
            return self._statements.look(text, None, NO_DOUBT)
        return self._tables.known.statements.look(text, self._path(), self._tables.doubt)

    def _look_for(self, owner: Execution | None, masks: Masks) -> Look:
        """Return what `masks`, the target's or those for its clients, make of what is run."""
        if owner is None:
            return CLEAN
        if masks is self._masks:
            look: Look = self._looks.get(owner.command_no, CLEAN)
            return look
        known = self._known(masks)
        if known is None:
            return CLEAN
        if owner.is_ambiguous:
            return known.statements.unread(owner.sql)
        return known.statements.look(owner.sql, self._path(), self._doubt)

    def _known(self, masks: Masks) -> Known | None:
        return None if self._tables is None else self._tables.of(masks)

    def _path(self) -> tuple[str, ...] | None:
        """Return where names are looked for, None where nobody can tell.

        A server older than 18 does not report it: there it is what it was, until something is done
        that may change it.
        """
        assert self._tables is not None
        reported = self._conversation.parameters.get("search_path")
        if reported is not None:
            return catalogues.search_path(reported)
        return None if self._may_look_elsewhere else self._tables.path

    def _end(self, command: Execution) -> None:
        """Mask what its row says beside its text and parameters."""
        number = command.command_no
        look = self._looks.pop(number, CLEAN)
        self._commands.pop(number, None)
        if number in self._unhashed:
            self._unhashed.discard(number)
            command.sha256 = ()
        if command.error_text is not None and command.status != "denied":
            rule = _tells(look, self._known(self._masks))
            if rule and b"M"[0] not in _kept(command, command.error_code):
                command.error_text = mark(rule).decode()
            else:
                told = _whole_words(command.error_text).encode("utf-8", "replace")
                # What is quoted comes second: its marks would hide what a detector goes by.
                made = quoted(self._masks.mask(told)[0], self._hidden)
                if made != command.error_text.encode("utf-8", "replace"):
                    command.error_text = made.decode("utf-8", "replace")
        if number in self._dirty:
            self._dirty.discard(number)
            command.columns = tuple(
                [
                    quoted(self._masks.mask_text(name).encode(), self._hidden).decode(
                        "utf-8", "replace"
                    )
                    for name in command.columns
                ]
            )

    def _may_hold(self, data: bytes) -> bool:
        return True if self._sieve is None else self._sieve.may_hold(data)

    def _may_be_said(self, data: bytes) -> bool:
        """Say whether something may be in what a client says, in a credential's place too."""
        return True if self._statement_sieve is None else self._statement_sieve.may_hold(data)

    # --- the client's side

    def _request(self, step: Step, event: Event) -> None:
        payload: Any = event.payload
        is_plain = not (self._is_streaming or event.flags & _CONTINUED or payload[0] in _COPIES)
        if not is_plain and self._stream_request(step, event, payload):
            return
        if not self._may_be_said(payload) and self._passes(step, payload):
            return
        self._mask_request(step, event, payload)

    def _passes(self, step: Step, payload: bytes) -> bool:
        """Say whether a message in which no pattern sees anything stays as it is."""
        if payload[0] == _CALL or b"\\x" in payload:
            return False  # arguments, and perhaps bytes in hex: the sieve reads neither
        if self._masks.paths and step.about:
            return False  # JSON
        starts: Any = step.starts
        for command in starts:
            portal = command.portal
            if portal is not None and (portal.has_binary or portal.masked is not None):
                return False
            if command.command_no in self._looks:
                return False
        for portal in step.about:
            if portal.has_binary:
                return False
        return self._tables is None or not (step.about or payload[0] in _TEXTS)

    def _stream_request(self, step: Step, event: Event, payload: bytes) -> bool:
        """Mask what belongs to a COPY or to a long message; say whether that is all of it."""
        copy = self._copies.get(_CLIENT)
        is_copied = payload[0] == _COPY_DATA or (copy is not None and copy.is_in_message)
        if _CLIENT in self._longs or (event.flags & _CONTINUED and not is_copied):
            self._long(step, event)
            return True
        if is_copied or payload[0] in _COPIES:
            self._copy(step, event, self._between_client)
            return True
        if before := self._end_copy(_CLIENT):
            step.events = (*before, *step.events)
        return False

    def _mask_request(self, step: Step, event: Event, payload: bytes) -> None:
        looks = [self._looks.get(command.command_no, CLEAN) for command in step.starts]
        made, spans, texts = self._requests(payload, list(step.about))
        if made != payload:
            self._rehash(step, payload, made)
            self._dirty.update(command.command_no for command in step.starts)
        starts: Any = step.starts
        for command in starts:
            if command.portal is not None and command.portal.masked is not None:
                command.params = command.portal.masked
        # Of a statement that is executed its own look counts, else what the message itself says.
        if len(looks) == 1 or not texts:
            texts = looks
        self._mask_text(event, texts if len(looks) > 1 else texts[-1:])
        event.payload = made
        event.spans += tuple(spans)

    def _mask_text(self, event: Event, looks: Sequence[Look]) -> None:
        for look in looks:
            if look.text is not None:
                event.text = look.text
                event.spans += look.spans

    def _rehash(self, step: Step, old: bytes, new: bytes) -> None:
        """Let the hash of a long message be that of what is kept of it."""
        if len(old) <= MAX_EVENT_BYTES:
            return
        was, now = (hashlib.sha256(data).hexdigest() for data in (old, new))
        for command in step.starts:
            command.sha256 = tuple(now if each == was else each for each in command.sha256)

    def _requests(
        self, payload: bytes, portals: list[Portal]
    ) -> tuple[bytes, list[Span], list[Look]]:
        """Return the client's messages masked, what is hidden in them, and looks at their texts."""
        out = bytearray()
        spans: list[Span] = []
        texts: list[Look] = []
        for kind, start, stop in frames.parts(payload):
            body = payload[start + 5 : stop]
            at = len(out) + 5
            if kind == _QUERY:
                made = self._query(body, at, spans, texts)
            elif kind == _PARSE:
                made = self._parse(body, at, spans, texts)
            elif kind == _BIND:
                made = self._bind(body, portals.pop(0) if portals else None, at, spans)
            elif kind == _CALL:
                # Arguments without names or types, of a call that is refused: nothing to read.
                spans.append(Span(CREDENTIALS, "payload", at, len(body)))
                made = fitted(mark(CREDENTIALS), len(body))
            else:
                made = self._plain(body, 1 if kind in (_DESCRIBE, _CLOSE) else 0, at, spans)
            out += payload[start:stop] if made is body else frames.framed(kind, made)
        return bytes(out), spans, texts

    def _plain(self, body: bytes, skip: int, at: int, spans: list[Span]) -> bytes:
        """Return the body of a message with what patterns find in its texts replaced."""
        if not self._masks.scanner.may_hold(body[skip:]):
            return body
        out = bytearray(body[:skip])
        for number, part in enumerate(body[skip:].split(b"\0")):
            if number:
                out += b"\0"
            masked, found = self._masks.mask(part)
            if found:
                frames.note(spans, self._masks, at + len(out), part, found)
            out += masked
        return bytes(out) if out != body else body

    def _encoded(self, text: str) -> bytes:
        return text.encode(self._conversation.codec, "replace").replace(b"\0", b"?")

    def _query(self, body: bytes, at: int, spans: list[Span], texts: list[Look]) -> bytes:
        text = messages.text_of(body[:-1], self._conversation.codec)
        look = self._look_at_all(text)
        texts.append(look)
        return self._with_text(body, look, at, spans, 0, len(body) - 1)

    def _parse(self, body: bytes, at: int, spans: list[Span], texts: list[Look]) -> bytes:
        parsed = messages.decode_parse(body)
        begin = len(parsed.name) + 1
        look = self._look(messages.text_of(parsed.sql, self._conversation.codec))
        texts.append(look)
        made = self._with_text(body, look, at, spans, begin, begin + len(parsed.sql))
        if self._masks.scanner.may_hold(parsed.name):
            masked, found = self._masks.mask(parsed.name)
            if found:
                frames.note(spans, self._masks, at, parsed.name, found)
                return masked + made[len(parsed.name) :]
        return made

    def _with_text(
        self, body: bytes, look: Look, at: int, spans: list[Span], start: int, stop: int
    ) -> bytes:
        if look.text is None:
            return body
        told = look.text.encode("utf-8", "replace")
        for span in look.spans:
            before = self._encoded(told[: span.offset].decode("utf-8", "replace"))
            spans.append(replace(span, place="payload", offset=at + start + len(before)))
        return body[:start] + self._encoded(look.text) + body[stop:]

    def _look_at_all(self, text: str) -> Look:
        """Look at a simple query, statement by statement."""
        if self._tables is None:
            return self._look(text)
        texts = sql.split(text)
        if len(texts) < 2:
            return self._look(text)
        made = []
        spans: list[Span] = []
        at = 0
        is_changed = False
        size = 0
        for each in texts:
            place = text.find(each, at)
            if place < 0:
                return self._look(text)
            between = self._masks.mask_text(text[at:place])
            look = self._look(each)
            new = each if look.text is None else look.text
            is_changed = is_changed or look.text is not None or between != text[at:place]
            size += len(between.encode("utf-8", "replace"))
            spans += [replace(span, offset=size + span.offset) for span in look.spans]
            size += len(new.encode("utf-8", "replace"))
            made += [between, new]
            at = place + len(each)
        rest = self._masks.mask_text(text[at:])
        if not is_changed and rest == text[at:]:
            return CLEAN
        return Look("".join([*made, rest]), tuple(spans))

    # --- parameters

    def _bind(self, body: bytes, portal: Portal | None, at: int, spans: list[Span]) -> bytes:
        if portal is None:
            look, types, texts = CLEAN, tuple[int, ...](), None
        else:
            look = self._look_at_statement(portal.statement)
            types = portal.statement.types
            texts = None if portal.params is None else list(portal.params)
        codec = self._conversation.codec
        has_changed = False

        def change(number: int, value: bytes, form: int) -> tuple[bytes | None, bool]:
            nonlocal has_changed
            oid = types[number] if number < len(types) else 0
            is_binary = form == 1
            made = self._values.param(look, number, value, oid, is_binary=is_binary)
            if made.rules:
                has_changed = True
                self._hidden.extend(made.hidden)
                self._hidden.append(self._values.readable(value, oid, is_binary=is_binary))
                spans.extend(Span(rule, "parameter", number, len(value)) for rule in made.rules)
                if texts is not None and number < len(texts):
                    is_binary = is_binary and not made.is_text
                    texts[number] = messages.parameter_text(made.value, is_binary, oid, codec)
            return made.value, made.is_text

        def name(value: bytes) -> bytes:
            nonlocal has_changed, at
            masked, found = self._masks.mask(value)
            if found:
                has_changed = True
                frames.note(spans, self._masks, at, value, found)
            at += len(masked) + 1
            return masked

        made = frames.bind(body, change, name)
        if not has_changed:
            return body
        if portal is not None and texts is not None:
            portal.masked = tuple(texts)
        return made

    # --- the target's side

    def _response(self, step: Step, event: Event) -> None:
        payload: Any = event.payload
        owner = self._commands.get(event.command_no)
        if self._is_streaming or event.flags & _CONTINUED or payload[0] == _COPY_DATA:
            if self._stream_response(step, event, payload, owner):
                return
        elif step.about and _COPY in step.about:
            self._stream_response(step, event, payload, owner)
            return
        if step.synthetic:
            return  # the gateway's own words
        if (
            event.text is not None
            or (self._tables is not None and step.about)
            or event.command_no in self._dirty
            or (owner is not None and self._plan_of(owner) is not None)
            or (_is_undescribed(owner) and (self._masks.paths or b"\\x" in payload))
            or self._may_hold(payload)
        ):
            self._mask_response(step, event, payload, owner)

    def _stream_response(
        self, step: Step, event: Event, payload: bytes, owner: Execution | None
    ) -> bool:
        """Mask what belongs to a COPY or to a long message; say whether that is all of it."""
        copy = self._copies.get(_TARGET)
        is_copied = payload[0] == _COPY_DATA or (copy is not None and copy.is_in_message)
        if _TARGET in self._longs or (event.flags & _CONTINUED and not is_copied):
            self._long(step, event)
            return True
        if not is_copied and copy is None and _COPY not in step.about:
            return False
        text = event.text
        told: list[str] = []

        def between(part: bytes, masks: Masks) -> tuple[bytes, list[Span]]:
            made, spans, _ = self._responses(part, step, owner, masks, text)
            if masks is self._masks:
                told.append(self._reports(made))
            return made, spans

        self._copy(step, event, between)
        if text is not None and told:
            event.text = "\n".join(filter(None, told))
        return True

    def _reports(self, payload: bytes) -> str:
        """Return what the errors and notices in a run of messages say."""
        return "\n".join(
            str(messages.decode_report(payload[start + 5 : stop], self._conversation.codec))
            for kind, start, stop in frames.parts(payload)
            if kind in (_ERROR, _NOTICE)
        )

    def _mask_response(
        self, step: Step, event: Event, payload: bytes, owner: Execution | None
    ) -> None:
        masked, spans, text = self._responses(payload, step, owner, self._masks, event.text)
        client = self._masks.for_client
        if client is not None and (masked != payload):
            step.frame = (
                masked
                if client is self._masks
                else self._responses(payload, step, owner, client, None)[0]
            )
        if masked != payload:
            event.payload = masked
            hidden = {span.offset for span in spans if span.place == "column" and span.length}
            event.spans += tuple(
                s for s in spans if s.length or s.place != "column" or s.offset not in hidden
            )
            event.text = text
            if owner is not None:
                self._dirty.add(owner.command_no)
            self._dirty.update(command.command_no for command in step.starts)

    def _responses(
        self,
        payload: bytes,
        step: Step,
        owner: Execution | None,
        masks: Masks,
        text: str | None,
    ) -> tuple[bytes, list[Span], str | None]:
        spans: list[Span] = []
        plan = self._plan_for(owner, masks)
        if step.about or text is not None:
            payload, plan = self._message_by_message(payload, step, owner, masks, spans)
        elif plan is not None:
            payload = plan.apply(payload, spans)
        shape = NO_SHAPE.columns if owner is None else owner.result_columns

        def type_of(message: int, number: int) -> tuple[int, bool]:
            if plan is not None and number < len(plan.rules) and plan.rules[number]:
                return frames.TEXT, False
            if number >= len(shape):
                return 0, True
            return shape[number].type, shape[number].format == 1

        found = None
        if self._may_hold(payload):
            found = frames.hide_found(payload, masks, from_target=True, type_of=type_of)
        if found is not None:
            payload = found.frame
            spans[:] = [*frames.moved(spans, found.shifts), *found.spans]
        is_dirty = owner is not None and owner.command_no in self._dirty
        if (text is not None or is_dirty) and (hidden := self._quotable(owner, masks)):
            payload = self._without_quotes(payload, hidden, spans)
        if text is not None and spans:
            text = self._reports(payload)
        return payload, spans, text

    def _quotable(self, owner: Execution | None, masks: Masks) -> Collection[bytes]:
        """Return what was hidden of what the client said, and a server may quote.

        What rules of the archive alone hide, an agent gets as it was said.
        """
        if masks is self._masks:
            return self._hidden
        if owner is None:
            return ()
        if self._known(masks) is None:
            return Statements(masks, None).look(owner.sql, None, NO_DOUBT).hidden
        return self._look_for(owner, masks).hidden

    def _without_quotes(self, payload: bytes, hidden: Iterable[bytes], spans: list[Span]) -> bytes:
        """Return errors, notices and columns' names without what they quote of what was hidden."""
        out = bytearray()
        new = []
        shifts = []
        for kind, start, stop in frames.parts(payload):
            body = payload[start + 5 : stop]
            if kind in (_ERROR, _NOTICE, _ROWS):
                made = quoted(body, hidden)
                if made != body:
                    new.append(Span(self._masks.detecting, "payload", len(out) + 5, len(body)))
                    out += frames.framed(kind, made)
                    shifts.append((stop, len(made) - len(body)))
                    continue
            out += payload[start:stop]
        spans[:] = [*frames.moved(spans, shifts), *new]
        return bytes(out)

    def _message_by_message(
        self,
        payload: bytes,
        step: Step,
        owner: Execution | None,
        masks: Masks,
        spans: list[Span],
    ) -> tuple[bytes, Plan | None]:
        """Mask what columns and errors say, in a run that has more than rows."""
        out = bytearray()
        about = [each for each in step.about if each[1] is not NO_SHAPE]
        plan = self._plan_for(owner, masks)
        look = self._look_for(owner, masks)
        known = self._known(masks)
        rows = -1
        for kind, start, stop in frames.parts(payload):
            if kind == _ROW:
                rows = start if rows < 0 else rows
                continue
            if rows >= 0:
                run = payload[rows:start]
                out += run if plan is None else plan.apply(run, spans)
                rows = -1
            body = payload[start + 5 : stop]
            if kind == _ROWS and about:
                thing, shape = about.pop(0)
                rules = self._described(thing, shape, masks)
                if any(rules):
                    out += frames.framed(kind, frames.row_description(body, rules))
                    spans += [Span(r, "column", n, 0) for n, r in enumerate(rules) if r]
                    if thing is owner:
                        plan = self._plan_for(owner, masks)
                    continue
            elif kind in (_ERROR, _NOTICE) and known is not None:
                code = messages.decode_report(body).code
                rule = _tells(look, known) if owner is not None else known.whole
                if rule:
                    made = frames.report(body, mark(rule), _kept(owner, code))
                    spans.append(Span(rule, "payload", len(out) + 5, len(body)))
                    out += frames.framed(kind, made)
                    continue
            elif kind == _STATUS and known is not None and owner is not None:
                name, value = body.split(b"\0")[:2]
                rule = _tells(look, known)
                if rule and value and name not in _SETTINGS:
                    spans.append(Span(rule, "payload", len(out) + 6 + len(name), len(value)))
                    out += frames.framed(kind, name + b"\0" + mark(rule) + b"\0")
                    continue
            elif kind == _NOTIFICATION and known is not None:
                channel = body.index(0, 4) + 1
                if len(body) > channel + 1:
                    at, size = len(out) + 5 + channel, len(body) - channel - 1
                    spans.append(Span(known.whole, "payload", at, size))
                    out += frames.framed(kind, body[:channel] + mark(known.whole) + b"\0")
                    continue
            out += payload[start:stop]
        if rows >= 0:
            run = payload[rows:]
            out += run if plan is None else plan.apply(run, spans)
        return bytes(out), plan

    # --- columns

    def _described(self, thing: Any, shape: RowShape, masks: Masks) -> tuple[str, ...]:
        """Return by which rule each column of a result is hidden that was just described."""
        known = self._known(masks)
        if known is None:
            return ()
        if isinstance(thing, Execution):
            rules = self._rules_of(shape.columns, self._look_for(thing, masks), known)
            if masks is self._masks:
                thing.described = rules
        elif isinstance(thing, Portal | Prepared):
            statement = thing.statement if isinstance(thing, Portal) else thing
            if masks is not self._masks:
                look = known.statements.look(statement.sql, self._path(), self._doubt)
                return self._rules_of(shape.columns, look, known)
            look = self._look_at_statement(statement)
            rules = self._rules_of(shape.columns, look, known)
            if statement.described != rules:
                statement.described = rules
                statement.planned_in = -1
        else:
            rules = self._rules_of(shape.columns, CLEAN, known)
        return rules

    @property
    def _doubt(self) -> Doubt:
        return NO_DOUBT if self._tables is None else self._tables.doubt

    def _rules_of(self, columns: Sequence[Column], look: Look, known: Known) -> tuple[str, ...]:
        """Return the rule that hides each column, empty where none does.

        What the server says of a column's origin goes before what its statement's tree says.
        """
        lineage = look.lineage
        rules = []
        for number, column in enumerate(columns):
            rule: str | None = known.rule_of_name(column.name)
            if not rule and column.table:
                rule = known.rule_of(column.table, column.number, self._doubt)
                if rule is None:
                    assert self._tables is not None
                    self._tables.ask_again()
                    rule = known.whole
            elif not rule:
                if lineage is None:
                    rule = known.whole
                elif lineage.is_clear:
                    rule = ""
                elif lineage.outputs is None or len(lineage.outputs) != len(columns):
                    rule = lineage.whole
                else:
                    rule = lineage.outputs[number]
            rules.append(rule)
        return tuple(rules)

    def _plan_of(self, owner: Execution) -> Plan | None:
        """Return what becomes of a command's rows, None where they pass as they are."""
        plan: Plan | None
        epoch = 0 if self._tables is None else self._tables.epoch
        portal = owner.portal
        if portal is None:
            if owner.planned_in != epoch or owner.planned_shape is not owner.shape:
                owner.plan = self._make_plan(owner, self._masks)
                owner.planned_in, owner.planned_shape = epoch, owner.shape
            plan = owner.plan
            return plan
        # A driver binds a new portal for each execution, and it has the same columns each time.
        statement = portal.statement
        shape = statement.shape if portal.shape is NO_SHAPE else portal.shape
        if (
            statement.planned_in != epoch
            or statement.planned_shape is not shape
            or statement.planned_formats != portal.result_formats
        ):
            statement.plan = self._make_plan(owner, self._masks)
            statement.planned_in, statement.planned_shape = epoch, shape
            statement.planned_formats = portal.result_formats
        plan = statement.plan
        return plan

    def _plan_for(self, owner: Execution | None, masks: Masks) -> Plan | None:
        plan: Plan | None = None
        if owner is not None:
            plan = self._plan_of(owner) if masks is self._masks else self._make_plan(owner, masks)
        if plan is None and _is_undescribed(owner):
            values = self._values if masks is self._masks else Values(masks, self._conversation)
            return Plan((), (), values.change_unknown(), "")
        return plan

    def _make_plan(self, owner: Execution, masks: Masks) -> Plan | None:
        columns = owner.result_columns
        look = self._look_for(owner, masks)
        known = self._known(masks)
        rules: tuple[str, ...] = ("",) * len(columns)
        otherwise_rule = ""
        if known is not None:
            if look.lineage is None or not look.lineage.is_clear:
                otherwise_rule = known.whole if look.lineage is None else look.lineage.whole
            if columns:
                rules = self._rules_of(columns, look, known)
            elif look.lineage is not None and look.lineage.outputs is not None:
                rules = look.lineage.outputs
        values = self._values if masks is self._masks else Values(masks, self._conversation)
        changes = tuple(
            values.change(
                rule,
                columns[n] if n < len(columns) else None,
                is_announced=self._announced(owner, n, masks),
            )
            for n, rule in enumerate(rules)
        )
        otherwise = sift.AS_NULL if otherwise_rule else None
        if not any(change is not None for change in changes) and otherwise is None:
            return None
        return Plan(changes, rules, otherwise, otherwise_rule)

    def _announced(self, owner: Execution, number: int, masks: Masks) -> bool:
        """Say whether a column was told as text."""
        told = owner.described if owner.portal is None else owner.portal.statement.described
        # Where its client was told another type, so was the archive.
        return number < len(told) and bool(told[number])

    # --- streams

    def _copy(
        self,
        step: Step,
        event: Event,
        between: Callable[[bytes, Masks], tuple[bytes, list[Span]]],
    ) -> None:
        side = event.side
        assert side is not None
        copy = self._copies.get(side)
        if copy is None:
            self._is_streaming = True
            owner = self._commands.get(event.command_no)

            def lineage_for(masks: Masks) -> tuple[Lineage | None, str]:
                known = self._known(masks)
                rule = "" if known is None else known.whole
                return self._look_for(owner, masks).lineage, rule

            copy = CopyMask(
                self._masks,
                side,
                lineage_for,
                is_binary=(
                    self._conversation.copy_is_binary
                    if side is _TARGET or self._conversation.is_copying_in
                    else None
                ),
                codec=self._conversation.codec,
            )
            self._copies[side] = copy
        assert event.payload is not None
        if not copy.is_clean(event.payload):
            copy.mask(step, event, between)
            if copy.has_hidden:
                self._unhashed.add(event.command_no)
        if copy.is_over:
            del self._copies[side]
        self._settle()

    def _between_client(self, part: bytes, masks: Masks) -> tuple[bytes, list[Span]]:
        """Mask what a client says beside CopyData: that it ends, and why it fails."""
        made, spans, _ = self._requests(part, [])
        return made, spans

    def _end_copy(self, side: Side) -> list[Event]:
        copy = self._copies.pop(side, None)
        self._settle()
        return [] if copy is None else copy.finish(side)

    def _settle(self) -> None:
        self._is_streaming = bool(self._copies or self._longs)
        pending = [copy.pending for copy in self._copies.values()]
        pending += [long.pending for long in self._longs.values()]
        self.is_withholding = any(pending)

    def _long(self, step: Step, event: Event) -> None:
        side = event.side
        assert side is not None
        long = self._longs.get(side)
        if long is None:
            self._is_streaming = True
            long = LongMask(
                self._masks, side, lambda masks: self._hidden_in_long(step, event, masks)
            )
            long.portal = next((t for t in step.about if isinstance(t, Portal)), None)
            self._longs[side] = long
        if long.mask(step, event):
            del self._longs[side]
            self._note_hashes(step, event, long)
        self._settle()
        if event.text is not None:
            look = self._looks.get(step.starts[0].command_no, CLEAN) if step.starts else CLEAN
            told = self._masks.mask_text(_whole_words(event.text))
            event.text = told if look.text is None else look.text
            event.spans += look.spans

    def _note_hashes(self, step: Step, event: Event, long: LongMask) -> None:
        """Let the hash of a long message be that of what is kept of it."""
        was, now = long.hashes
        holders: list[Any] = [*step.starts, *step.ends, self._commands.get(event.command_no)]
        for holder in [*holders, long.portal]:
            if holder is not None and was in holder.sha256:
                holder.sha256 = tuple(now if each == was else each for each in holder.sha256)

    def _hidden_in_long(self, step: Step, event: Event, masks: Masks) -> tuple[list[str], str]:
        """Return which values of a long message are hidden, and by which rule all are."""
        portal = next((thing for thing in step.about if isinstance(thing, Portal)), None)
        owner = self._commands.get(event.command_no)
        if event.side is _TARGET:
            plan = None if owner is None else self._plan_for(owner, masks)
            types = [column.type for column in (() if owner is None else owner.result_columns)]
            rules = [] if plan is None else list(plan.rules)
            everything = "" if plan is None else plan.otherwise_rule
        else:
            types = [] if portal is None else list(portal.statement.types)
            rules, everything = self._hidden_params(portal)
        # Where paths may name something in a value, all of it is hidden.
        by_path = masks.paths[0][1] if masks.paths else ""
        pairs = zip_longest(rules, types)
        rules = [rule or (by_path if not oid or oid in JSON_LIKE else "") for rule, oid in pairs]
        return rules, everything or ("" if types else by_path)

    def _hidden_params(self, portal: Portal | None) -> tuple[list[str], str]:
        known = self._known(self._masks)
        if known is None:
            return [], ""
        lineage = None if portal is None else self._look_at_statement(portal.statement).lineage
        if lineage is None or lineage.all_params:
            return [], known.whole if lineage is None else lineage.all_params
        most = max(lineage.params, default=0)
        return [lineage.params.get(number + 1, "") for number in range(most)], ""


def _is_undescribed(owner: Execution | None) -> bool:
    """Say whether nobody has told of which types the rows of a command are."""
    return owner is None or not owner.result_columns


def _tells(look: Look, known: Known | None) -> str:
    """Return the rule that what a server says beside rows may break, empty where it cannot."""
    if known is None:
        return ""
    return known.whole if look.lineage is None else look.lineage.tells


def quoted(text: bytes, hidden: Iterable[bytes]) -> bytes:
    """Return `text` with marks for what it quotes of `hidden`, also where a quote is cut off.

    >>> quoted(b"no such number: 4111111111...", [b"4111111111111111"])
    b'no such number: [masked:quoted]...'
    """
    for value in hidden:
        if len(value) < _MIN_QUOTED:
            continue
        begun = value[: max(_MIN_QUOTED, min(len(value), 10))]
        at = text.find(begun)
        while at >= 0:
            stop = at + len(begun)
            end = at + len(value)
            while stop < end and text[stop : stop + 1] == value[stop - at : stop - at + 1]:
                stop += 1
            text = text[:at] + mark("quoted") + text[stop:]
            at = text.find(begun, at + 1)
    return text


def _whole_words(text: str) -> str:
    """Return a text, of a long one a beginning that ends with a word.

    Of a long message only the beginning is read, and its end may be half a secret.
    """
    if len(text) <= _MAX_TOLD_CHARACTERS:
        return text
    return text[:_MAX_TOLD_CHARACTERS].rpartition(" ")[0]


def _kept(command: Command | None, code: str | None) -> bytes:
    """Return which fields of an error are about the statement's own text, and quote no value.

    What a function or a trigger says, it may say under any code.
    """
    if command is None or command.cls not in ("read", "session"):
        return b""
    return b"MHstcdn" if (code or "").startswith(_OF_THE_TEXT) else b"stcdn"
