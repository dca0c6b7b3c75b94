"""One session of an archive: its commands, its bytes, and the results that it returned.

Results are not stored as tables. What is stored is what passed on the wire, so a result is read
out of the recorded bytes when it is asked for, by the same protocol code that relayed them. That
code needs the session from its beginning (a statement may have been prepared long before), so the
bytes are streamed through it, a few megabytes at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from uuid import UUID

from agentaudit.analysis import asked, transcript
from agentaudit.analysis.store import Store, named
from agentaudit.analysis.transcript import Cut
from agentaudit.errors import ArchiveError, QuestionError
from agentaudit.model import Side

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from agentaudit.analysis.terminal import Terminal

_INLINE_BYTES = 8 * 1024
_WINDOW_BYTES = 16 << 20
_WINDOW_EVENTS = 20_000


class Session:
    """Questions to one session; get it with `Case.session`."""

    def __init__(
        self,
        store: Store,
        identity: UUID,
        refresh: Callable[[], None],
        on_export: Callable[[], None] = lambda: None,
    ) -> None:
        self.id = identity
        self._store = store
        self._refresh = refresh
        self._on_export = on_export

    def __repr__(self) -> str:
        return f"Session({str(self.id)!r})"

    @property
    def facts(self) -> dict[str, Any]:
        """What is known of the session now: its row in `sessions`.

        Raises:
            QuestionError: the session was purged since this was got.
        """
        self._refresh()
        rows = self._store.rows(named("session_facts"), {"session": self.id})
        if not rows:
            raise QuestionError(
                f"session {self.id}: no longer in the archive",
                hint="it was purged meanwhile: the log says when, and on whose word",
            )
        return rows[0]

    def ask(self, question: str, **parameters: Any) -> duckdb.DuckDBPyRelation:
        """Return the answer to one of the named questions of `queries/` about this session."""
        self._refresh()
        return self._store.ask(named(question), {"session": self.id, **parameters})

    @property
    def is_purged(self) -> bool:
        """Whether its payloads were purged under retention: results are gone, statements stay."""
        ((is_purged,),) = self.ask("session_purged").fetchall()
        return bool(is_purged)

    @property
    def count(self) -> int:
        """How many commands it has executed so far."""
        ((commands, _),) = self.ask("session_command_count").fetchall()
        return int(commands)

    @property
    def commands(self) -> duckdb.DuckDBPyRelation:
        """Its commands, in order: the rows of `commands`."""
        return self.ask("session_commands")

    @property
    def events(self) -> duckdb.DuckDBPyRelation:
        """Its events, in order: the rows of `events`, each with the first 8 KiB of its bytes."""
        return self.ask("session_events")

    def command(self, command_no: int) -> dict[str, Any]:
        """Return the row of one command.

        Raises:
            QuestionError: the session has no such command.
        """
        command_no = asked.whole("command_no", command_no)
        self._refresh()
        rows = self._store.rows(named("command"), {"session": self.id, "command_no": command_no})
        if not rows:
            raise QuestionError(
                f"session {self.id}: no command {command_no} among its {self.count}",
                hint="session.commands lists them",
            )
        return rows[0]

    def statement(self, command_no: int) -> str:
        """Return the whole text of a command's request, however long.

        Raises:
            QuestionError: the session has no such command.
        """
        row = self.command(command_no)
        requests = self._store.rows(
            named("command_request"), {"session": self.id, "command_no": command_no}
        )
        if not requests:
            return str(row["text"] or "")
        (request,) = requests
        text = request["text"]
        if (request["text_len"] or 0) <= len(text.encode()):
            return str(text)
        event_no = request["event_no"]
        rest = b"".join(data for _, offset, data in self._chunks(event_no, event_no) if offset < 0)
        return str(text) + rest.decode("utf-8", "replace")

    def stream(self, side: Side | str, *, command_no: int | None = None) -> Iterator[bytes]:
        """Yield what one side sent, piece by piece, masked where a rule masked it.

        `side` is "client" or "target". Joined, the pieces are the bytes on the wire from the
        first ReadyForQuery (or its like) on; with `command_no`, those of one command. What a
        `payload_limit` kept out of the archive is missing: `cuts` says where.
        """
        wanted = _side(side)
        for sender, payload, _, owner in self.traffic():
            if sender is wanted and command_no in (None, owner):
                yield payload

    def transcript(self, *, rows: int = 10) -> str:
        """Return the session as text to read: statements, parameters, outcomes, first `rows` rows.

        Control characters of what was recorded are written out, so it is safe to print.
        """
        return "\n".join(self.told(rows=rows))

    def told(self, *, rows: int = 10) -> Iterator[str]:
        """Yield the transcript in parts: its heading, then one part a command."""
        rows = asked.count("rows", rows)
        yield transcript.heading(self.facts)
        results = dict(self.results(limit=rows)) if rows else {}
        fates = dict(self.ask("session_fates").fetchall())
        cuts = self.cuts()
        for command in self._rows("session_commands"):
            number = command["command_no"]
            yield transcript.command(
                command, results.get(number), fates.get(number), cuts.get(number)
            )

    def told_command(self, command_no: int, *, rows: int = 10) -> str:
        """Return one command's part of the transcript.

        Raises:
            QuestionError: the session has no such command.
        """
        command = self.command(command_no)
        fates = dict(self.ask("session_fates").fetchall())
        return transcript.command(
            command,
            self.result(command_no, rows),
            fates.get(command_no),
            self.cuts(command_no).get(command_no),
        )

    def result(self, command_no: int, limit: int | None = 100_000) -> pa.Table:
        """Return the rows that a command returned, with PostgreSQL's types, at most `limit`.

        Over SSH the rows are the lines of its output, in one column; of a terminal, the lines as
        they were read, those that scrolled by and those of its last screen.

        A command that returned no rows has a table without columns. Whether rows are missing
        shows in the command's `rows_returned`; those that no file has, because of a
        `payload_limit` or a purge, in `cuts` too.

        Raises:
            QuestionError: the session has no such command, or `limit` is no number from 0.
        """
        if limit is not None:
            limit = asked.count("limit", limit)
        self.command(command_no)
        if self._is_ssh:
            from agentaudit.analysis import ssh

            if command_no in self.terminals:
                return ssh.read_table(self.terminal(command_no).lines(), limit)
            wanted = self._with_output() & {command_no}
            return ssh.output_table(self.traffic() if wanted else (), command_no, limit)
        from agentaudit.analysis import postgres

        return postgres.result_table(
            self.traffic(), command_no, limit, client_encoding=self._client_encoding
        )

    def result_batches(self, command_no: int) -> Iterator[pa.RecordBatch]:
        """Yield all rows that a command returned, batch by batch, for results of any size.

        Raises:
            QuestionError: the session has no such command.
        """
        self.command(command_no)
        if self._is_ssh:
            from agentaudit.analysis import ssh

            if command_no in self.terminals:
                return ssh.read_batches(self.terminal(command_no).lines())
            wanted = self._with_output() & {command_no}
            return ssh.output_batches(self.traffic() if wanted else (), command_no)
        from agentaudit.analysis import postgres

        return postgres.result_batches(
            self.traffic, command_no, client_encoding=self._client_encoding
        )

    def results(self, limit: int) -> Iterator[tuple[int, pa.Table]]:
        """Yield the number and at most `limit` first rows of every command that returned rows.

        Raises:
            QuestionError: `limit` is no number from 0.
        """
        limit = asked.count("limit", limit)
        if self._is_ssh:
            return self._lines(limit)
        from agentaudit.analysis import postgres

        return postgres.result_tables(self.traffic(), limit, client_encoding=self._client_encoding)

    @property
    def terminals(self) -> dict[int, str]:
        """Which of its commands had a terminal: the request of each (`pty-req`) by its number."""
        return dict(self.ask("session_terminals").fetchall())

    def terminal(self, command_no: int | None = None) -> Terminal:
        """Return the terminal of a command: what stood on its screen, and when.

        Where only one command has a terminal, it need not be named.

        Raises:
            QuestionError: the session has no such command, or that had no terminal.
        """
        from agentaudit.analysis.terminal import Terminal

        requests = self.terminals
        if command_no is not None:
            command_no = asked.whole("command_no", command_no)
        elif len(requests) == 1:
            (command_no,) = requests
        if command_no in requests:
            return Terminal(self, command_no, requests[command_no])
        if command_no is None:
            raise QuestionError(
                f"session {self.id}: {len(requests)} commands had a terminal, and none is named",
                hint="session.terminals lists them",
            )
        self.command(command_no)  # complains if there is none
        raise QuestionError(
            f"session {self.id}: command {command_no} had no terminal",
            hint="session.terminals lists those that had; session.result has what it said",
        )

    def asciicast(self, command: int | None = None, *, typed: bool = False) -> Iterator[str]:
        """Yield a command's terminal as the lines of an asciicast v3 file, masked as recorded.

        With `typed`, what the client sent is in it too. The file is ASCII; whatever plays it obeys
        the escape sequences that the target sent.

        Raises:
            QuestionError: as for `terminal`; or its bytes were purged.
        """
        from agentaudit.analysis import asciicast

        terminal = self.terminal(command)
        if self.is_purged:
            raise QuestionError(
                f"session {self.id}: what was said was purged under retention",
                hint="statements and the log are left",
            )
        self._on_export()
        return asciicast.lines(terminal, typed=typed)

    def _lines(self, limit: int) -> Iterator[tuple[int, pa.Table]]:
        from agentaudit.analysis import ssh

        screens = self.terminals
        wanted = self._with_output().difference(screens)
        if wanted:
            yield from ssh.output_tables(self.traffic(), wanted, limit)
        for number in screens:
            table = ssh.read_table(self.terminal(number).lines(), limit)
            if table.num_columns:
                yield number, table

    def cuts(self, command_no: int | None = None) -> dict[int, Cut]:
        """Return of which commands' responses not everything is there, and how much of it is.

        Either the target's `payload_limit` kept the beginning, and then `Cut` has the SHA-256 of
        all, or they were purged under retention.
        """
        if command_no is not None:
            command_no = asked.whole("command_no", command_no)
        found = self.ask("session_cuts", command_no=command_no).fetchall()
        return {number: Cut(*cut) for number, *cut in found}

    def traffic(self) -> Iterator[tuple[Side | None, bytes, int, int]]:
        """Yield (side, bytes, flags, command_no) of every recorded piece, in order.

        Without a side the bytes are the row, as JSON, of a command that ended here and of whose
        response only the beginning was kept. Nothing passed, so to say, where it was purged.
        """
        if self.is_purged:
            return
        for row in self.pieces("session_traffic", "session_payloads"):
            side = None if row["side"] is None else Side(row["side"])
            yield side, row["payload"], row["flags"], row["command_no"]

    def pieces(
        self, sizes: str, rows: str, *, of: Mapping[str, Any] | None = None, **parameters: Any
    ) -> Iterator[dict[str, Any]]:
        """Yield the rows of the question `rows`, each with all that is kept of its payload.

        `sizes` is the question that says which events these are, and how large; with `of`, its own
        parameters. The other is asked about as many of them at a time as memory takes.
        """
        for first, last in self._windows(sizes, {**parameters, **(of or {})}):
            chunks = self._chunks(first, last)
            chunk = next(chunks, None)
            for row in self._rows(rows, first=first, last=last, **parameters):
                if row["stored_len"] > _INLINE_BYTES:
                    parts = [row["payload"]]
                    while chunk is not None and chunk[0] <= row["event_no"]:
                        if chunk[0] == row["event_no"] and chunk[1] >= _INLINE_BYTES:
                            parts.append(chunk[2])
                        chunk = next(chunks, None)
                    row["payload"] = b"".join(parts)
                    if len(row["payload"]) != row["stored_len"]:
                        raise ArchiveError(
                            f"event {row['event_no']}: {len(row['payload'])} bytes found, "
                            f"{row['stored_len']} were stored",
                            hint="agentaudit verify --deep says what is missing",
                        )
                yield row

    def _rows(self, question: str, **parameters: Any) -> Iterator[dict[str, Any]]:
        for batch in self._store.batches(named(question), {"session": self.id, **parameters}):
            yield from batch.to_pylist()

    def _windows(self, sizes: str, parameters: Mapping[str, Any]) -> Iterator[tuple[int, int]]:
        """Yield ranges of event numbers, each small enough to hold in memory."""
        self._refresh()
        first = last = -1
        size = count = 0
        for batch in self._store.batches(
            named(sizes), {"session": self.id, **parameters}, rows=_WINDOW_EVENTS
        ):
            for event_no, stored in zip(
                batch.column("event_no").to_pylist(),
                batch.column("stored_len").to_pylist(),
                strict=True,
            ):
                if first >= 0 and (size + stored > _WINDOW_BYTES or count == _WINDOW_EVENTS):
                    yield first, last
                    first, size, count = -1, 0, 0
                if first < 0:
                    first = event_no
                last = event_no
                size += stored
                count += 1
        if first >= 0:
            yield first, last

    def _chunks(self, first: int, last: int) -> Iterator[tuple[int, int, bytes]]:
        """Yield (event_no, offset, bytes) of what these events keep beyond their inline part."""
        for batch in self._store.batches(
            named("session_blobs"),
            {"gateway": self._gateway, "first": first, "last": last},
            rows=16,
        ):
            for row in batch.to_pylist():
                data = row["data"]
                if data is None:
                    (same,) = self._store.rows(
                        named("blob_row"), {"filename": row["filename"], "row": row["same_as"]}
                    )
                    data = same["data"]
                yield row["event_no"], row["offset"], data

    @property
    def _is_ssh(self) -> bool:
        return bool(self.facts["protocol"] == "ssh")

    def _with_output(self) -> set[int]:
        """Return which commands of an SSH session have lines: SFTP's have packets."""
        rows = self.commands.filter("operation IN ('exec', 'shell')").project("command_no")
        return {number for (number,) in rows.fetchall()}

    @property
    def _client_encoding(self) -> str:
        # The server's answer to it was part of the login, of which nothing is kept.
        labels: dict[str, str] = self.facts["labels"] or {}
        return labels.get("client_encoding", "")

    @property
    def _gateway(self) -> str:
        return str(self.facts["gateway"])


def _side(side: Side | str) -> Side:
    try:
        return Side(side)
    except ValueError:
        raise QuestionError(f"side {side!r}: client or target expected") from None
