"""A still picture of a session as HTML, for readers without a kernel: nbconvert, a code host.

It has no script. What was recorded enters it escaped, with control characters written out, and
bounded: so many commands, so many rows of each result. It says what it leaves out.
"""

from __future__ import annotations

from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentaudit.analysis import cells, transcript
from agentaudit.analysis.printable import flat, printable
from agentaudit.errors import AgentauditError
from agentaudit.widgets.pictures import beginning

if TYPE_CHECKING:
    import pyarrow as pa

    from agentaudit.analysis.session import Session

MAX_COMMANDS = 200
MAX_ROWS = 5
MAX_CHARACTERS = 2_000
MAX_TRAFFIC_BYTES = 32 << 20
"""Results are read out of the bytes of the whole session; of a larger one none are shown."""


def still(session: Session, command_no: int = -1) -> str:
    """Return the session as HTML; where it is long, the commands around `command_no`."""
    facts = session.facts
    total = session.count
    first = max(0, command_no - MAX_COMMANDS // 2)
    relation = session.ask("session_commands_between", first=first, last=first + MAX_COMMANDS - 1)
    commands = [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]
    traffic = (facts["bytes_in"] or 0) + (facts["bytes_out"] or 0)
    notes = []
    if len(commands) < total:
        notes.append(f"{len(commands)} of {total} commands are shown, from #{first} on")
    results: dict[int, pa.Table] = {}
    if traffic > MAX_TRAFFIC_BYTES:
        notes.append("results are left out, because the session is large")
    else:
        try:
            results = dict(session.results(MAX_ROWS))
            notes.append(f"at most {MAX_ROWS} rows of each result are shown")
        except AgentauditError as error:
            # What cannot be decoded must not hide the rest of the session.
            notes.append(f"results cannot be read: {_text(str(error))}")
    fates = dict(session.ask("session_fates").fetchall())
    cuts = session.cuts()
    agent = f" via <b>{_text(facts['agent'])}</b>" if facts["agent"] else ""
    body = "".join(
        _command(
            row,
            results.get(row["command_no"]),
            fates.get(row["command_no"]),
            cuts.get(row["command_no"]),
            is_open=row["command_no"] == command_no,
        )
        for row in commands
    )
    closed = (
        f"closed {transcript.moment(facts['closed_at'])} ({_text(facts['close_reason'])})"
        if facts["closed_at"]
        else "still open"
    )
    return (
        f"<style>{style()}</style>"
        + beginning("Recorded session")
        + f"<h4>{_text(facts['user'] or 'unknown user')}{agent} → {_text(facts['target'])}</h4>"
        f"<p>session <code>{session.id}</code> · opened "
        f"{transcript.moment(facts['opened_at'])} · {closed} · {total} commands · "
        f"{transcript.size(facts['bytes_in'] or 0)} in, "
        f"{transcript.size(facts['bytes_out'] or 0)} out</p>"
        f"{body}"
        f"<p>A still picture: {'; '.join(notes)}. With a kernel, the session "
        "plays here.</p></section>"
    )


def _command(
    row: dict[str, Any],
    result: pa.Table | None,
    fate: str | None,
    cut: transcript.Cut | None,
    *,
    is_open: bool,
) -> str:
    statement = row["text"] or ""
    one_line = printable(flat(statement[:160]))
    problem = (
        f' <span class="aa-mark">{_text(row["status"])} {_text(row["error_code"])}</span>'
        if row["status"] != "ok"
        else ""
    )
    if transcript.is_undone(row, fate):
        problem += f' <span class="aa-undone">{fate}</span>'
    parts = [
        f'<details{" open" if is_open else ""}><summary class="aa-class-{_text(row["class"])}">'
        f"#{row['command_no']} {row['started_at']:%H:%M:%S.%f} <b>{_text(row['operation'])}</b>"
        f"{problem} {escape(one_line)}</summary>",
        f"<div>{escape(transcript.outcome(row))}; decision: {_text(row['decision'])} "
        f"(rule {_text(row['rule'])})</div>",
        f"<pre>{_text(statement, block=True)}</pre>",
    ]
    if row["params"]:
        params = "\n".join(
            f"${number} = " + ("NULL" if value is None else printable(value[:MAX_CHARACTERS]))
            for number, value in enumerate(row["params"], 1)
        )
        parts.append(f"<pre>{escape(params)}</pre>")
    if row["error_text"]:
        parts.append(
            f"<pre>{_text(row['error_code'])} {_text(row['error_text'], block=True)}</pre>"
        )
    if result is not None and result.num_columns:
        parts.append(_grid(result))
        missing = (row["rows_returned"] or 0) - result.num_rows
        if missing > 0:
            parts.append(f"<p>… {missing} rows more</p>")
    if cut is not None:
        parts.append(f"<p>{_text(cut.words())}</p>")
    parts.append("</details>")
    return "".join(parts)


def _grid(table: pa.Table) -> str:
    head = "".join(f"<th>{_text(name)}</th>" for name in table.column_names)
    rows = "".join(
        "<tr>"
        + "".join(
            "<td><i>NULL</i></td>" if cell is None else f"<td>{_text(cell[:300])}</td>"
            for cell in row
        )
        + "</tr>"
        for row in cells.texts(table)
    )
    return (
        f'<div class="aa-scroller"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _text(text: str | None, *, block: bool = False) -> str:
    """Return recorded text as HTML: bounded, with controls written out, escaped."""
    text = text or ""
    cut = "…" if len(text) > MAX_CHARACTERS else ""
    return escape(printable(text[:MAX_CHARACTERS], block=block)) + cut


@cache
def style() -> str:
    """Return the style sheet of still pictures, a few KB, for each brings it."""
    return (Path(__file__).parent / "static" / "still.css").read_text("utf-8")
