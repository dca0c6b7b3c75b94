"""What is verified of an archive, what is exposed, and which check failed where, in a notebook.

A verification runs in a thread of its own and the page asks how far it is, so a kernel that
verifies ten million events answers other questions meanwhile. It begins with the fast check; the
deep one is asked for. Between two segments it can be stopped.

A verdict is worth what the key is worth: without one from outside the archive it is never yes.
"""

from __future__ import annotations

import shlex
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any, Final

from agentaudit.analysis.case import Case, verifier_keys
from agentaudit.analysis.integrity import (
    MEANINGS,
    UNKNOWN,
    History,
    check_files,
    check_signature,
    exposed,
    exposure,
    history,
    place_of,
    positions,
    verdict,
)
from agentaudit.archive.layout import Layout
from agentaudit.archive.note import Verifier
from agentaudit.archive.verification import Anchor, Finding, Verification
from agentaudit.errors import AgentauditError, QuestionError
from agentaudit.widgets.pictures import beginning, escaped, grid
from agentaudit.widgets.questions import Data, Questions, question
from agentaudit.widgets.view import View, bundle

MAX_FINDINGS: Final = 500
"""Of so many the page is told one by one, the rest is counted."""

_MAX_CHARACTERS: Final = 500
_MAX_LINES: Final = 200
_STILL_WAIT_S: Final = 5.0
_STILL_FINDINGS: Final = 50
_COUNTS: Final = ("gateways", "segments", "sessions", "commands", "events", "live_events")

Text = str | bytes | PathLike[str]


class Integrity(View):
    """Shows what of `case` is verified, what is exposed, and which check failed where.

    In a notebook::

        proof = Integrity(case, key="gw1.vkey")
        proof                                    # draws it, and checks fast
        proof.check(deep=True)                   # a `Verification`; or by its button
        proof.verification                       # the last one, None while there is none
    """

    _esm = bundle("integrity.js")
    _css = bundle("integrity.css")

    def __init__(
        self,
        case: Case,
        *,
        key: str | PathLike[str] | Sequence[str] | None = None,
        policy: Text | None = None,
        since: Text | None = None,
        tsa: Text | None = None,
    ) -> None:
        """Check `case` against what came from outside it; all of it as `Case.verify` takes it.

        `policy`, `since` and `tsa` are texts, or paths (`pathlib.Path`) of files that hold them.

        Raises:
            QuestionError: a file cannot be read, or holds no key.
            ArchiveError: a key is malformed.
        """
        self._asked = IntegrityQuestions(case, key=key, policy=policy, since=since, tsa=tsa)
        super().__init__(self._asked)

    @property
    def verification(self) -> Verification | None:
        """What the last check that came to its end has found."""
        return self._asked.verification

    def check(self, *, deep: bool = False) -> Verification:
        """Check the archive now, and return what was found; a check under way is stopped.

        Raises:
            AgentauditError: it cannot be checked: a policy or checkpoint is malformed.
        """
        return self._asked.check_now(deep=deep)

    def still(self) -> str:
        """Return verdict, findings and exposure as HTML; a fast check is waited for briefly."""
        return still(self._asked)

    def close(self) -> None:
        """Stop what is being checked, and take the widget out of the page."""
        asked = getattr(self, "_asked", None)  # None where it was refused when it was made
        if asked is not None:
            asked.leave()
        super().close()


class _Stopped(Exception):
    """Somebody asked to stop. Of no class that a verifier takes for damage (`MALFORMED`)."""


class _Run:
    """One verification under way, in a thread of its own."""

    def __init__(self, number: int, *, deep: bool) -> None:
        self.number = number
        self.deep = deep
        self.began_s = time.monotonic()
        self.took_s = 0.0
        self.stage, self.done, self.total = "", 0, 0
        self.stop = threading.Event()
        self.ended = threading.Event()
        self.verification: Verification | None = None
        self.told: Data | None = None
        self.error = ""
        self.hint = ""

    def progress(self, stage: str, done: int, total: int) -> None:
        self.stage, self.done, self.total = stage, done, total
        if self.stop.is_set():
            raise _Stopped

    @property
    def state(self) -> str:
        if not self.ended.is_set():
            return "stopping" if self.stop.is_set() else "checking"
        if self.verification is not None:
            return "done"
        return "failed" if self.error else "stopped"


class IntegrityQuestions(Questions):
    """What a page asks about one archive's proofs; it may only say whether to check deeply."""

    def __init__(
        self,
        case: Case,
        *,
        key: str | PathLike[str] | Sequence[str] | None = None,
        policy: Text | None = None,
        since: Text | None = None,
        tsa: Text | None = None,
    ) -> None:
        self.case = case
        self._layout = Layout(case.path)
        given = verifier_keys(key)
        self._key = given
        texts = [given] if isinstance(given, str) else list(given or ())
        self.keys = [Verifier.parse(line) for text in texts for line in text.split()]
        self._outside: dict[str, Any] = {
            "since": _text("since", since),
            "policy": _text("policy", policy),
            "tsa": _text("tsa", tsa),
        }
        self._starting = threading.Lock()
        self._run: _Run | None = None
        self._last: _Run | None = None
        self._histories: dict[str, History] = {}

    # --- checking

    @property
    def verification(self) -> Verification | None:
        return None if self._last is None else self._last.verification

    @property
    def told(self) -> Data | None:
        """What the last check that came to its end has found, as the page is told it."""
        return None if self._last is None else self._last.told

    def check_now(self, *, deep: bool) -> Verification:
        """Check, and wait for it; what is under way is stopped first."""
        with self._starting:
            self._stop_and_wait()
            run = self._begin(deep=deep)
        run.ended.wait()
        if run.verification is None:
            raise QuestionError(run.error or "the check was stopped", hint=run.hint)
        return run.verification

    def wait(self, timeout_s: float) -> None:
        """Begin a fast check where there was none, and wait for what runs for so long."""
        with self._starting:
            run = self._run or self._begin(deep=False)
        run.ended.wait(timeout_s)

    def leave(self) -> None:
        """Stop what runs, without waiting for it."""
        if self._run is not None:
            self._run.stop.set()

    def _stop_and_wait(self) -> None:
        if self._run is not None and not self._run.ended.is_set():
            self._run.stop.set()
            self._run.ended.wait()

    def _begin(self, *, deep: bool) -> _Run:
        """Begin a check; whoever calls holds `_starting`."""
        run = _Run(1 if self._run is None else self._run.number + 1, deep=deep)
        self._run = run
        threading.Thread(
            target=self._work, args=[run], name="agentaudit-verify", daemon=True
        ).start()
        return run

    def _work(self, run: _Run) -> None:
        try:
            found = self.case.verify(
                self._key, deep=run.deep, progress=run.progress, **self._outside
            )
            run.took_s = time.monotonic() - run.began_s
            run.told = self._tell(found, run.took_s)
            run.verification = found
            self._last = run
        except _Stopped:
            pass
        except AgentauditError as error:
            run.error, run.hint = str(error), error.hint
        except MemoryError:
            run.error = "checking it takes more memory than is allowed"
        except Exception as error:
            # A value's own text may be content: the class says enough to look further.
            run.error = f"the check failed ({type(error).__name__})"
            run.hint = "run agentaudit verify on the archive: it says more"
        finally:
            run.ended.set()

    # --- what a page asks

    @question
    def open(self) -> Data:
        histories = self._read()
        with self._starting:
            if self._run is None:
                self._begin(deep=False)
        return {
            "archive": self.case.path.name,
            "access": self.case.access,
            "given": {
                "keys": [str(key) for key in self.keys],
                **{name: text is not None for name, text in self._outside.items()},
            },
            "gateways": [_history(each) | self._without_us(each) for each in histories],
            "state": self._state(0),
        }

    @question
    def state(self, seen: int = 0) -> Data:
        return self._state(int(seen))

    @question
    def check(self, deep: bool = False) -> Data:
        with self._starting:
            if self._run is None or self._run.ended.is_set():
                self._begin(deep=bool(deep))
        return self._state(0)

    @question
    def stop(self) -> Data:
        self.leave()
        return self._state(0)

    @question
    def segment(self, gateway: str, segment: str) -> Data:
        told = self._histories.get(str(gateway))
        found = None if told is None else told.of(str(segment))
        if found is None:
            raise QuestionError("no such segment is shown; reload the view")
        return {
            "segment": found.segment,
            "root": found.root,
            "head": found.head,
            "files": [
                {"table": table, "path": file["path"], "bytes": file["bytes"], "rows": file["rows"]}
                | {"sha256": file["sha256"]}
                for table, file in found.files.items()
            ],
            "script": check_files(self.case.path, found.files) if found.files else "",
        }

    def histories(self) -> list[History]:
        """Return what the logs say, read anew."""
        return self._read()

    def _read(self) -> list[History]:
        found = [history(self._layout, gateway) for gateway in self._layout.gateways()]
        self._histories = {each.gateway: each for each in found}
        return found

    def _without_us(self, told: History) -> Data:
        return {
            "script": check_signature(self.case.path, told.gateway, self.keys, told.origin),
            "ours": self._ours(),
        }

    def _ours(self) -> str:
        """Return the command that checks this again, with the options that were given."""
        words = ["agentaudit", "verify", shlex.quote(str(self.case.path))]
        words += [f"--key {shlex.quote(str(key))}" for key in self.keys]
        names = {"since": "CHECKPOINT", "policy": "POLICY", "tsa": "CERTIFICATES"}
        words += [f"--{name} {file}" for name, file in names.items() if self._outside[name]]
        return " ".join([*words, "--deep"])

    def _state(self, seen: int) -> Data:
        run, last = self._run, self._last
        data: Data = {"run": 0, "state": "none", "deep": False, "stage": "", "done": 0, "total": 0}
        if run is not None:
            data = {
                "run": run.number,
                "state": run.state,
                "deep": run.deep,
                "stage": run.stage,
                "done": run.done,
                "total": run.total,
                "error": run.error,
                "hint": run.hint,
            }
        data["answer"] = None
        data["answered"] = 0 if last is None else last.number
        if last is not None and last.number != seen:
            data["answer"] = last.told
        return data

    def _tell(self, found: Verification, took_s: float) -> Data:
        """Return a verification as the page shows it."""
        says = verdict(found)
        anchors = found.anchors[-_MAX_LINES:]
        times = self._times(anchors)
        return {
            "ok": found.ok,
            "word": says.word,
            "why": list(says.why),
            "deep": found.deep,
            "took_us": round(took_s * 1e6),
            "findings": [_finding(each) for each in found.findings[:MAX_FINDINGS]],
            "finding_count": len(found.findings),
            "exposure": [
                {**asdict(each), "says": exposed(each)} for each in exposure(self._layout, found)
            ],
            "anchors": [
                {
                    "gateway": each.gateway,
                    "kind": each.kind,
                    "size": each.size,
                    "log_us": times.get((each.gateway, each.size)),
                    "at_s": each.at_s,
                    "by": list(each.by),
                }
                for each in anchors
            ],
            "scripted": found.scripted_clocks,
            "unknown_signers": found.unknown_signers,
            "without_quorum": found.without_quorum,
            "unread": _lines(found.unread),
            "notes": _lines(found.notes),
            "counts": {name: getattr(found, name) for name in _COUNTS},
        }

    def _times(self, anchors: Sequence[Anchor]) -> dict[tuple[str, int], int | None]:
        """Return the log's time at each anchor's size."""
        wanted: dict[str, set[int]] = {}
        for anchor in anchors:
            wanted.setdefault(anchor.gateway, set()).add(anchor.size)
        times = {}
        for gateway, sizes in wanted.items():
            try:
                for size, position in positions(self._layout, gateway, sizes).items():
                    times[gateway, size] = position.at_us
            except (AgentauditError, OSError):
                continue  # the finding that says so is there already
        return times


def _text(name: str, given: Text | None) -> str | bytes | None:
    if not isinstance(given, PathLike):
        return given
    try:
        text = Path(given).read_bytes()
    except OSError as error:
        raise QuestionError(f"{name}: {given}: {error.strerror}") from None
    return text.decode("utf-8", "replace") if name == "since" else text


def _lines(texts: Sequence[str]) -> list[str]:
    lines = [text[:_MAX_CHARACTERS] for text in texts[:_MAX_LINES]]
    rest = len(texts) - len(lines)
    return [*lines, f"and {rest:,} more"] if rest else lines


def _finding(finding: Finding) -> Data:
    place, meaning = place_of(finding), MEANINGS.get(finding.check, UNKNOWN)
    return {
        "check": finding.check,
        "place": finding.place[:_MAX_CHARACTERS],
        "seen": finding.seen[:_MAX_CHARACTERS],
        "expected": finding.expected[:_MAX_CHARACTERS],
        "gateway": place.gateway,
        "segment": place.segment,
        "entry": place.entry,
        "event": place.event,
        "row": place.row,
        "means": meaning.means,
        "do": meaning.do,
    }


def _history(told: History) -> Data:
    return {
        "gateway": told.gateway,
        "origin": told.origin,
        "problem": told.problem,
        "entries": told.entries,
        "from_us": told.from_us,
        "until_us": told.until_us,
        "clock": told.clock,
        "version": told.version,
        "is_recording": told.is_recording,
        "epochs": told.epochs,
        "events": told.events,
        "segment_count": told.segment_count,
        "segments": [
            {
                "entry": each.entry,
                "segments": each.segments,
                "segment": each.segment,
                "begun_us": each.begun_us,
                "sealed_us": each.sealed_us,
                "first_us": each.first_us,
                "last_us": each.last_us,
                "first_event": each.first_event,
                "events": each.events,
                "epoch": each.epoch,
                "sessions": each.sessions,
                "commands": each.commands,
                "root": each.root,
                "bytes": each.bytes,
            }
            for each in told.segments
        ],
        "begun": [{"segment": name, "at_us": at_us} for name, at_us in told.begun.items()],
        "tick_count": told.tick_count,
        "ticks": told.ticks,
        "stretch_us": told.stretch_us,
        "gaps": [
            {"kind": g.kind, "entry": g.entry, "from_us": g.from_us, "until_us": g.until_us}
            for g in told.gaps
        ],
        "marks": [
            {
                "kind": mark.kind,
                "entry": mark.entry,
                "at_us": mark.at_us,
                "until_us": mark.until_us,
                "says": mark.says[:_MAX_CHARACTERS],
                "id": mark.id,
            }
            for mark in told.marks
        ],
        "left_out": told.left_out,
        "checkpoint": told.checkpoint,
        "cosigned": told.cosigned,
        "cosigned_size": told.cosigned_size,
    }


# --- the still picture


def still(asked: IntegrityQuestions) -> str:
    """Return verdict, findings and exposure as HTML without scripts; no path of this machine."""
    asked.wait(_STILL_WAIT_S)
    told = asked.told
    parts = [
        f"<style>{_style()}</style>",
        beginning("Integrity", "aa-integrity-still"),
    ]
    if told is None:
        parts.append("<h4>Integrity: not checked yet</h4><p>The check had not come to its end.</p>")
    else:
        state = {True: "good", False: "bad"}.get(told["ok"], "warn")
        how = "a deep" if told["deep"] else "a fast"
        counts = ", ".join(f"{told['counts'][n]:,} {n.replace('_', ' ')}" for n in _COUNTS[1:])
        parts.append(f'<h4 class="aa-is-{state}">Integrity: {escaped(told["word"])}</h4>')
        parts += [f"<p>{escaped(why)}.</p>" for why in told["why"]]
        parts.append(f"<p>By {how} check of {escaped(counts)}.</p>")
        if told["scripted"]:
            names = ", ".join(told["scripted"])
            parts.append(
                f'<p class="aa-is-bad"><b>Made-up time:</b> {escaped(names)} recorded with a '
                "scripted clock. No time in it was ever real.</p>"
            )
        if told["findings"]:
            parts.append(grid(("check", "where", "seen", "expected", "means"), _rows(told)))
            rest = told["finding_count"] - min(len(told["findings"]), _STILL_FINDINGS)
            if rest:
                parts.append(f"<p>and {rest:,} findings more</p>")
        parts.append("<p><b>Exposure window</b></p><ul>")
        parts += [
            f"<li>{escaped(each['gateway'])}: {escaped(each['says'])}</li>"
            for each in told["exposure"]
        ]
        parts.append("</ul>")
        parts += [f"<p>{escaped(note)}</p>" for note in told["notes"][:_STILL_FINDINGS]]
    for each in asked.histories():
        parts.append(f"<p><b>{escaped(each.gateway)}</b> {escaped(_summary(each))}</p>")
    parts.append("<p>A still picture. With a kernel, it is checked here.</p></section>")
    return "".join(parts)


def _rows(told: Data) -> Iterable[tuple[str, ...]]:
    for each in told["findings"][:_STILL_FINDINGS]:
        yield each["check"], each["place"], each["seen"], each["expected"], each["means"]


def _summary(told: History) -> str:
    if told.problem:
        return f"its log cannot be read: {told.problem}"
    gaps = {kind: sum(gap.kind == kind for gap in told.gaps) for kind in ("crashed", "silent")}
    said = [
        f"{told.segment_count:,} sealed segments with {told.events:,} events",
        f"{told.tick_count:,} ticks",
        *(f"{count} times {kind}" for kind, count in gaps.items() if count),
        "recording" if told.is_recording else "not recording at its end",
    ]
    return ", ".join(said)


@cache
def _style() -> str:
    return bundle("integrity.css")
