"""An archive opened for questions: `load` returns a `Case`, live sessions included.

A case never changes the archive (what people say of it is kept beside it) and never caches rows:
each question looks whether the archive has grown, takes the list of sealed files from the log at
one checkpoint, and adds the journal's rows after it. Answers are DuckDB relations, computed when
they are read: `.pl()`, `.to_arrow_table()`, `.df()` (which needs pandas), or further SQL on them.
"""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from agentaudit.analysis import asked
from agentaudit.analysis.annotations import (
    KINDS,
    STAR,
    Annotations,
    author_of,
    beside,
    records_of,
    retraction,
)
from agentaudit.analysis.backtest import judged, policy_of
from agentaudit.analysis.investigate import Investigation
from agentaudit.analysis.session import Session
from agentaudit.analysis.store import Store, named
from agentaudit.archive import snapshot
from agentaudit.archive.layout import Layout
from agentaudit.errors import QuestionError

if TYPE_CHECKING:
    import duckdb

    from agentaudit.analysis.masking import Preview
    from agentaudit.analysis.report import Report
    from agentaudit.archive.prove import Proven
    from agentaudit.archive.verification import Progress, Verification

_SHORTEST_PREFIX = 8


Record = Callable[[str, str, str], bool]
"""Leaves a record that somebody does an action to an object, with a detail; says whether it did."""


class Case:
    """Questions to one archive; safe to use from several threads.

    `agentaudit.load` makes it, and gives it `record`, because nothing here opens a socket.
    """

    def __init__(
        self, path: Path, *, record: Record = lambda *_: False, notes: Path | None = None
    ) -> None:
        """Open the archive at `path`, once `record` was asked to leave a record of that.

        Annotations lie in the file `notes`, or beside the archive.

        Raises:
            ArchiveError: no archive is there, or it is of a format that this version does not know.
            QuestionError: `notes` is inside the archive.
        """
        self.path = path.resolve()
        notes = beside(self.path) if notes is None else Path(notes).absolute()
        if notes.resolve().is_relative_to(self.path):
            raise QuestionError(
                "notes: inside the archive, where nothing but a gateway writes",
                hint="leave it out, and they are kept beside the archive",
            )
        self._annotations = Annotations(notes)
        self.annotation_findings: tuple[str, ...] = ()
        self._annotated: object = ""
        self._record = record
        self._is_recorded = record("open", "archive", "")
        self._opened: set[UUID] = set()
        self.contradictions: tuple[str, ...] = ()
        self.unread: tuple[str, ...] = ()
        self._layout = Layout(self.path)
        snapshot.check_format(self._layout)
        self._store = Store(self.path)
        self.ask = Investigation(
            self._store,
            self._layout,
            refresh=self.refresh,
            session_id=self._session_id,
            troubles=lambda: (self.contradictions, self.unread),
        )
        self._seen: object = None
        self._refreshing = threading.Lock()
        self.refresh()

    def __repr__(self) -> str:
        return f"agentaudit.load({str(self.path)!r})"

    @property
    def access(self) -> str:
        """Whether what is done with this case leaves a trace: `recorded` or `not recorded`.

        It does where a gateway that records into the archive runs on this machine, and says so; of
        a copy nobody can know who reads it.
        """
        return "recorded" if self._is_recorded else "not recorded"

    def refresh(self) -> None:
        """Look at the archive again if it has grown; every question does so first."""
        self._read_annotations()
        with self._refreshing:
            stamp = self.stamp()
            if stamp == self._seen:
                return
            snap = snapshot.open_archive(self.path, remember=True)
            self._store.show(snap.files, snap.live)
            # The stamp from before the reading: what was appended meanwhile shows next time.
            self._seen = stamp
            fresh = [text for text in snap.contradictions if text not in self.contradictions]
            self.contradictions = tuple(snap.contradictions)
            self.unread = tuple(snap.unread)
        for contradiction in fresh:
            warnings.warn(
                f"{contradiction}; run verify before you rely on this archive", stacklevel=4
            )

    def sessions(
        self,
        *,
        user: str | None = None,
        agent: str | None = None,
        target: str | None = None,
        since: str | date | None = None,
        until: str | date | None = None,
        cls: str | None = None,
        status: str | None = None,
        table: str | None = None,
    ) -> duckdb.DuckDBPyRelation:
        """Return the sessions that match, newest first; refused ones included.

        `since` and `until` are times (ISO 8601 text or datetime; UTC where they name no zone) and
        keep sessions of which any part lies between. `cls`, `status` and `table` keep those with
        at least one command that has all of what is given.

        Raises:
            QuestionError: a `cls` or `status` that there is not, or something of a wrong type.
        """
        asked.texts(user=user, agent=agent, target=target, cls=cls, status=status, table=table)
        return self._ask(
            "sessions",
            user=user,
            agent=agent,
            target=target,
            since=asked.instant("since", since),
            until=asked.instant("until", until),
            **{"class": cls},
            status=status,
            table=table,
        )

    def listed(
        self,
        text: str | None = None,
        *,
        live: bool = False,
        before: UUID | str | None = None,
        limit: int = 100,
    ) -> duckdb.DuckDBPyRelation:
        """Return the newest sessions with what is worth knowing of each, `limit` at most.

        `text` is looked for in the user, agent and target, the beginning of the id and in
        statements, in any case; `live` keeps those that are open; `before` a session goes on where
        a list ended. Beside facts there are counts of commands: `changes`, `errors`, `denied`,
        `held`, and all kinds of `risk`.

        Raises:
            QuestionError: no such session, or something of a wrong type.
        """
        asked.texts(text=text)
        return self._ask(
            "session_list",
            text=text or None,
            live=bool(live),
            before=None if before is None else self._session_id(before),
            limit=asked.count("limit", limit),
        )

    def totals(self) -> dict[str, Any]:
        """Return how much is here: `sessions`, `live` ones, `commands`, `users`, `targets`.

        `first` and `last` are when the oldest and the newest session were opened; None of none.
        """
        relation = self._ask("archive_totals")
        (row,) = relation.fetchall()
        return dict(zip(relation.columns, row, strict=True))

    def commands(
        self,
        *,
        session: UUID | str | None = None,
        user: str | None = None,
        agent: str | None = None,
        target: str | None = None,
        cls: str | None = None,
        status: str | None = None,
        operation: str | None = None,
        table: str | None = None,
        since: str | date | None = None,
        until: str | date | None = None,
    ) -> duckdb.DuckDBPyRelation:
        """Return the commands that match, newest first, one row an execution.

        `cls` is `read`, `write`, `schema`, `admin`, `session` or `unknown`; `status` is `ok`,
        `error`, `denied`, `cancelled` or `incomplete`; `table` is a table's name with or without
        its schema; times are as for `sessions`, and mean the start.

        Raises:
            QuestionError: another `cls` or `status`, or something of a wrong type.
        """
        asked.texts(user=user, agent=agent, target=target, cls=cls, status=status, table=table)
        asked.texts(operation=operation)
        return self._ask(
            "commands",
            session=None if session is None else self._session_id(session),
            user=user,
            agent=agent,
            target=target,
            **{"class": cls},
            status=status,
            operation=operation,
            table=table,
            since=asked.instant("since", since),
            until=asked.instant("until", until),
        )

    def search(
        self,
        text: str,
        *,
        user: str | None = None,
        target: str | None = None,
        since: str | date | None = None,
        until: str | date | None = None,
    ) -> duckdb.DuckDBPyRelation:
        """Return where `text` occurs, newest first: in statements, parameters, errors and results.

        Case does not matter (in results: of ASCII letters). What lies partly in one recorded
        event and partly in the next is not found.
        """
        asked.texts(text=text, user=user, target=target)
        if not text:
            raise QuestionError("search: no text was given", hint='case.search("drop table")')
        self._leave_record("search", "archive")
        return self._ask(
            "search",
            text=text,
            bytes=text.encode(),
            user=user,
            target=target,
            since=asked.instant("since", since),
            until=asked.instant("until", until),
        )

    def search_screens(
        self,
        text: str,
        *,
        session: UUID | str | None = None,
        user: str | None = None,
        target: str | None = None,
        since: str | date | None = None,
        until: str | date | None = None,
        limit: int = 1_000,
    ) -> duckdb.DuckDBPyRelation:
        """Return the lines of SSH terminals in which `text` stood, as people saw them.

        However it was painted or typed, in whatever pieces, with whatever escapes between; in any
        case. Columns are `first_seen`, `last_seen`, `session_id`, `command_no`, `user`, `target`
        and `text`, the line. The newest terminals come first, each in its own order; after `limit`
        lines the search ends. All that was said on the terminals is read for it.

        Raises:
            QuestionError: no such session, or something of a wrong type.
        """
        from agentaudit.analysis.seen import search

        asked.texts(text=text, user=user, target=target)
        if not text:
            raise QuestionError("search: no text was given", hint='case.search_screens("password")')
        limit = asked.count("limit", limit)
        bounds = (asked.instant("since", since), asked.instant("until", until))
        self._leave_record("search", "archive")
        terminals = self._ask(
            "terminals",
            session=None if session is None else self._session_id(session),
            user=user,
            target=target,
            since=bounds[0],
            until=bounds[1],
        ).fetchall()
        of = {row[0]: Session(self._store, row[0], self.refresh) for row in terminals}
        found = search([(of[row[0]], *row[1:]) for row in terminals], text, bounds, limit)
        return self._store.relation(found).project("* REPLACE (session_id::UUID AS session_id)")

    def backtest(self, rules: str | PathLike[str]) -> duckdb.DuckDBPyRelation:
        """Return every command, oldest first, with what `rules` would have decided about it.

        `rules` is a settings file, or the SHA-256 of a policy that was in force (`policy_digest` of
        a session). Beside columns of `commands`, among them the `decision` that was made and its
        `rule`, there are `would` (`allow` or `deny`) and `would_rule`. Each command is judged as if
        all others had passed, by what its row says that it does; a condition on texts sees the
        first 64 KiB, which is what a row has.

        Raises:
            SettingsError: the file cannot be read, or a key of it is wrong.
            QuestionError: no such policy is in this archive.
        """
        policy = policy_of(rules, self._layout)
        self.refresh()
        return self._store.relation(judged(self._store, policy))

    def mask_preview(
        self,
        rules: Any,
        *,
        session: UUID | str | None = None,
        user: str | None = None,
        agent: str | None = None,
        target: str | None = None,
        since: str | date | None = None,
        until: str | date | None = None,
        table: str | None = None,
        limit: int = 10_000,
    ) -> Preview:
        """Return what masks would hide in recorded sessions, and what they would not.

        `rules` is a settings file or any TOML with `[[mask]]` (its path, or the text itself), a
        list of such tables, or the SHA-256 of a policy that was in force (`policy_digest` of a
        session). Sessions are chosen as by `sessions`. Of all hits the first `limit` are kept, the
        rest is counted. What was hidden when it was recorded is hidden here.

        Raises:
            SettingsError: the file cannot be read, or a key of it is wrong.
            QuestionError: no such policy or session is in this archive.
        """
        from agentaudit.analysis import masking, masking_rules
        from agentaudit.analysis.masking_sources import recorded_in

        asked.texts(user=user, agent=agent, target=target, table=table)
        if masking_rules.is_digest(rules):
            rules = masking_rules.of_policy(self._layout.policy(rules))
        chosen: dict[str, Any] = {"session": session, "user": user, "agent": agent}
        chosen |= {"target": target, "since": since, "until": until, "table": table}
        return masking.preview(rules, recorded_in(self, chosen), limit=limit)

    def sql(
        self, query: str, parameters: Mapping[str, Any] | None = None
    ) -> duckdb.DuckDBPyRelation:
        """Return the answer to one SELECT over the views.

        They are `events`, `commands`, `sessions`, `decisions` and `access`, as in the archive,
        `fates` (what became of each command's transaction), and `annotations`, which lie beside it.
        Parameters are named:
        `case.sql("from commands where status = $s", {"s": "error"})`.

        Raises:
            QuestionError: not one statement that only reads.
            duckdb.Error: DuckDB cannot answer it.
        """
        asked.texts(query=query)
        self.refresh()
        return self._store.ask(query, parameters)

    def session(self, session: UUID | str) -> Session:
        """Return one session, by its id or the unambiguous beginning of one.

        Raises:
            QuestionError: no session, or more than one, has an id that begins so.
        """
        identity = self._session_id(session)
        if identity not in self._opened:
            self._opened.add(identity)
            self._leave_record("open", f"session {identity}")
        return Session(
            self._store,
            identity,
            self.refresh,
            on_export=lambda: self._leave_record("export", f"session {identity}"),
        )

    def verify(
        self,
        key: str | PathLike[str] | Sequence[str] | None = None,
        *,
        since: str | None = None,
        policy: str | bytes | None = None,
        tsa: str | bytes | None = None,
        deep: bool = False,
        session: UUID | str | None = None,
        progress: Progress | None = None,
    ) -> Verification:
        """Check the archive against its log and `key`: `.ok`, `.findings`, `.exposure`.

        `key` is a verifier key, several of them (a gateway each), or the path of a file that holds
        one. Without a key from outside the archive `.ok` is never True. `since` is a checkpoint
        that was kept outside it, `policy` the text of a trust policy with witnesses, `tsa`
        certificates of time-stamping authorities, PEM; `deep` recomputes every leaf, root and
        table; `session` checks one session in that way, and that it is complete. `progress` is
        called with what is checked, how much of it is done, and how much there is; to end the
        check it raises an exception that derives from nothing but `Exception`.

        Raises:
            ArchiveError: a key or checkpoint is malformed.
            QuestionError: no such session; or `key` is a path that cannot be read, or of a file
                that holds no key.
        """
        from agentaudit.archive.verify import verify

        self._leave_record("verify", "archive")
        return verify(
            self.path,
            key=verifier_keys(key),
            since=since,
            policy=policy,
            tsa=tsa,
            deep=deep,
            session=session,
            progress=progress,
        )

    def prove(
        self,
        session: UUID | str,
        *,
        seq: int | None = None,
        out: str | PathLike[str] | None = None,
        disclose: str = "all",
    ) -> Proven:
        """Write proofs of a session, or of its event `seq`, into a new folder; `.folder` is it.

        What is sealed can be proven. `disclose` hands out `all` content, the `text` that a person
        reads, or `none`; `verify` checks the folder by itself.

        Raises:
            QuestionError: no such session, event or way to disclose; or `out` is there already.
            ArchiveError: nothing of it is sealed yet, or it does not hash to what was sealed.
        """
        from agentaudit.archive.prove import prove

        self._leave_record("export", f"session {session}")
        folder = None if out is None else Path(out)
        return prove(self.path, session, seq=seq, out=folder, disclose=disclose)

    def annotate(
        self,
        session: UUID | str,
        command: int | None = None,
        *,
        note: str | None = None,
        tag: str | None = None,
        star: bool | None = None,
        author: str | None = None,
    ) -> tuple[str, ...]:
        """Say something of a session, or of one of its commands, beside the archive.

        Any of a `note` (up to 16 KiB), a `tag` and a star; the ids of what was written come back.
        `star=False` takes the author's own stars back. `author` is who runs this process unless
        given; nothing proves it.

        Raises:
            QuestionError: no such session or command, nothing to say, or it cannot be written.
        """
        author = author_of(author)
        identity = self._session_id(session)
        if command is not None:
            command = asked.whole("command", command)
            if not self._store.rows(named("command"), {"session": identity, "command_no": command}):
                raise QuestionError(
                    f"session {identity}: no command {command}",
                    hint="case.commands(session=…) lists them",
                )
        records = records_of(identity, command, note=note, tag=tag, star=star, author=author)
        if star is False:
            stars = self.annotations(session=identity, kind=STAR, author=author)
            taken = stars.filter(
                f"command_no IS NOT DISTINCT FROM {'NULL' if command is None else command}"
            )
            records += [
                retraction(str(row[0]), why="", author=author)
                for row in taken.project("id").fetchall()
            ]
        return self._annotations.append(records)

    def retract(
        self, annotation: UUID | str, *, why: str = "", author: str | None = None
    ) -> tuple[str, ...]:
        """Take an annotation back: it stays, with who took it back, when and why.

        Raises:
            QuestionError: no such annotation, or it was taken back before.
        """
        author = author_of(author)
        wanted = str(annotation).strip().lower()
        standing = {str(row[0]) for row in self.annotations().project("id").fetchall()}
        if wanted not in standing:
            raise QuestionError(
                "annotation: none that stands has this id", hint="case.annotations() lists them"
            )
        return self._annotations.append([retraction(wanted, why=why, author=author)])

    def annotations(
        self,
        *,
        session: UUID | str | None = None,
        command: int | None = None,
        kind: str | None = None,
        author: str | None = None,
        retracted: bool = False,
    ) -> duckdb.DuckDBPyRelation:
        """Return what people have said, oldest first; with `retracted`, what was taken back too.

        Raises:
            QuestionError: a `kind` other than `note`, `tag` and `star`, or something of a wrong
                type.
        """
        asked.texts(author=author)
        return self._ask(
            "annotated",
            session=None if session is None else self._session_id(session),
            command_no=None if command is None else asked.whole("command", command),
            kind=None if kind is None else asked.one_of("kind", kind, KINDS),
            author=author,
            retracted=bool(retracted),
        )

    def _read_annotations(self) -> None:
        with self._refreshing:
            stamp = self._annotations.stamp()
            if stamp == self._annotated:
                return
            read = self._annotations.read()
            self._store.annotate(read.table)
            self._annotated = stamp
            fresh = [text for text in read.findings if text not in self.annotation_findings]
            self.annotation_findings = read.findings
        for finding in fresh:
            warnings.warn(f"{self._annotations.path.name}: {finding}", stacklevel=5)

    def report(
        self,
        *,
        session: UUID | str | Sequence[UUID | str] | None = None,
        request: UUID | str | None = None,
        since: str | date | None = None,
        until: str | date | None = None,
        user: str | None = None,
        agent: str | None = None,
        target: str | None = None,
        out: str | PathLike[str] | None = None,
        pdf: str | PathLike[str] | bool = False,
        key: str | PathLike[str] | Sequence[str] | None = None,
        since_checkpoint: str | None = None,
        policy: str | bytes | None = None,
        tsa: str | bytes | None = None,
        deep: bool = False,
        limit: int | None = None,
        rows: int | None = None,
        disclose: str = "text",
        replay: bool = True,
        names: Mapping[str, str] | None = None,
        progress: Progress | None = None,
    ) -> Report:
        """Return an evidence report, for somebody who does not trust us: `.ok`, `.html`, `.facts`.

        It is about one session or several, about a request for approval or access, or about what
        ran in a time, and then of this user, agent or target. `out` is a new file for the HTML,
        `pdf` one for the PDF/A, or True to have it in `.pdf` alone. `key`, `since_checkpoint` (as
        `since` of `verify`), `policy`, `tsa` and `deep` are those of `verify`. At most `limit`
        commands are shown, and `rows` of each result; `disclose` is what the proofs inside hand
        out, as for `prove`. Where the page may run its script, sessions can be played in it, unless
        `replay` is False: then it has none. `names` are those of the files in what the reader is to
        type. `progress` is called as by `verify`, and ends the report as it ends that.

        Raises:
            QuestionError: nothing is asked, or it is not in this archive; or a file is there.
            ArchiveError: the archive cannot be read, or a key or checkpoint is malformed.
        """
        from agentaudit.analysis.report import made

        return made.make(
            self,
            session=session,
            request=request,
            since=asked.instant("since", since),
            until=asked.instant("until", until),
            texts={"user": user, "agent": agent, "target": target},
            out=None if out is None else Path(out),
            pdf=pdf if isinstance(pdf, bool) else Path(pdf),
            key=verifier_keys(key),
            checkpoint=since_checkpoint,
            policy=policy,
            tsa=tsa,
            deep=deep,
            limit=limit,
            rows=rows,
            disclose=disclose,
            replay=replay,
            names=dict(names or {}),
            progress=progress,
            on_export=self._leave_record,
        )

    def _leave_record(self, action: str, object_: str) -> None:
        # What is searched for is not part of it: it may be about somebody, and these records stay.
        if self._is_recorded:
            self._is_recorded = self._record(action, object_, "")

    def _ask(self, question: str, **parameters: Any) -> duckdb.DuckDBPyRelation:
        self.refresh()
        return self._store.ask(named(question), parameters)

    def _session_id(self, session: UUID | str) -> UUID:
        self.refresh()
        prefix = str(session).strip().lower()
        if not re.fullmatch(r"[0-9a-f-]+", prefix) or len(prefix) < _SHORTEST_PREFIX:
            raise QuestionError(
                f"session {prefix!r}: a session id, or at least {_SHORTEST_PREFIX} characters "
                "of its beginning, expected",
                hint="case.sessions() or agentaudit sessions lists them",
            )
        found = self._store.rows(named("session_named"), {"prefix": prefix})
        if len(found) == 1:
            identity = found[0]["session_id"]
            assert isinstance(identity, UUID)
            return identity
        if found:
            raise QuestionError(
                f"session {prefix}: several sessions begin so",
                hint="give more of the id",
            )
        raise QuestionError(
            f"session {prefix}: not in this archive",
            hint="case.sessions() or agentaudit sessions lists them",
        )

    def stamp(self) -> object:
        """Return what differs once the archive has grown: sizes and times of logs and journals."""
        stamps = []
        for gateway in self._layout.gateways():
            journals = self._layout.journal_segments(gateway)
            for path in (
                self._layout.checkpoint(gateway),
                *(self._layout.journal(gateway, segment) for segment in journals),
            ):
                try:
                    status = path.stat()
                except FileNotFoundError:
                    continue  # sealed, or not yet begun
                stamps.append((path, status.st_size, status.st_mtime_ns))
        return stamps


def verifier_keys(
    key: str | PathLike[str] | Sequence[str] | None,
) -> str | Sequence[str] | None:
    """Return verifier keys that were given as such, or what the file holds that was named.

    Raises:
        QuestionError: a path that cannot be read, or of a file that holds no key.
    """
    if not isinstance(key, PathLike) and (not isinstance(key, str) or "+" in key):
        return key
    try:
        text = Path(key).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise QuestionError(
            f"{key}: no file with a verifier key",
            hint="give the key itself, name+hash+base64, or a file that holds it",
        ) from None
    if not text:
        raise QuestionError(f"{key}: the file holds no key")
    return text
