"""The lines that are typed into a shell on a terminal, recognised from both directions.

A line is certain where two witnesses agree. The keys say what a line editor must have, and the
client cannot take them back; the screen says what the shell shows of them. Where keys cannot tell
(completion, history, search), the screen alone is believed, under more conditions.

Either holds only as long as nothing stands between the terminal and the shell. That is known by
induction: at first there is the shell, and after each line whose programs are all known, neither to
stay nor to change it, there is the shell again (`ssh_plain`). The first other line ends all
certainty on its channel.

Sans I/O: no clock, no socket; who calls it waits.

Source: docs/ssh-lines.md has what is certain, and what never is
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from agentaudit.protocols.ssh_plain import Survey, survey
from agentaudit.protocols.ssh_screen import Screen, width_of
from agentaudit.protocols.ssh_typing import Buffer, Known, key_at

_ENDS: Final = (b"\r", b"\n", b"\x0f")
_INTERRUPT: Final = b"\x03"
# To the end, kill what stands before it, and interrupt: bash may hear an interrupt late, and go on
# with the line. A key that is quoted is a letter, and the first of these would be that.
_FORGET: Final = b"\x05\x15\x03"
_EOF: Final = b"\x04"
_QUOTE: Final = b"\x16"
# Above the cursor, in which the prompt is sought again after the screen was drawn anew.
_ROWS_BACK: Final = 200
_MAX_INNER: Final = 4096
# Of a command of several lines, which is read again at each.
_MAX_COMMAND: Final = 16_384

# Of readline's emacs keymap, behind an escape; any other may end a line, as M-# does.
_METAS: Final = frozenset(b"bdf\x7f\x08._<>pnultcy?*=~/\\r0123456789")

_PROMPT: Final = re.compile(r".*[$#%>❯➜»›] ?", re.S)
_PASSWORD: Final = re.compile(
    r"(?:^|.*[\s\[(])(?:pass(?:word|phrase|wort|code)?|passwort|kennwort|contrase\S+|mo[t] de passe"
    r"|senha|пароль|密码|密碼|パスワード|pin|otp|token|verification code)[^\n]{0,120}[:：] ?",
    re.I,
)
_SECOND_PROMPT: Final = "> "
_SEARCH: Final = ("(reverse-i-search)`", "(failed reverse-i-search)`")
# What a line editor shows for characters that it cannot show, and what a tab may look like.
_AMBIGUOUS: Final = re.compile(r"\^[@-_?]|\\[0-7]{3}|  ")

_REPLY: Final = (
    rb"\x1b\[[?>]?[0-9;]*[cRnuyt]|\x1b\[[IO]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1bP[^\x1b]*\x1b\\"
)
_ARROW: Final = rb"\x1b\[[ABCDFH56]~?|\x1bO[ABCDFH]"
_SAFE_EX: Final = (
    rb":(?:w!?|[0-9]{1,6}|set (?:no)?(?:nu|number|paste|wrap|list|hls|hlsearch|ic|ai)"
    rb"|%?s/[^/\\|!\x00-\x1f]*/[^/\\|!\x00-\x1f]*/g?)\r"
)
_INSERT: Final = rb"[iaoIAO](?:[ -~\t\r\x7f\x80-\xff])*"
# By program: keys that run no other program, those that begin something, and those that end it.
_INNER: Final[dict[str, tuple[re.Pattern[bytes], re.Pattern[bytes], re.Pattern[bytes]]]] = {
    "vim": (
        re.compile(
            rb"(?:[hjklwWbBeE0$^GnNxXDpPuUJ{}()%~ 1-9\r\x7f]|gg|dd|dw|d\$|yy|yw|\x1b(?![\[O\]P])|"
            + b"|".join([_REPLY, _ARROW, _SAFE_EX, rb"[/?][ -~\x80-\xff]*\r"])
            + rb"|"
            + _INSERT
            + rb"\x1b(?![\[O]))*"
        ),
        re.compile(
            rb"(?:" + _INSERT + rb"|[/?:][ -~\x80-\xff]*|[gdyZ]"
            rb"|\x1b\][^\x07\x1b]*|\x1bP[^\x1b]*)?"
        ),
        re.compile(rb"(?::(?:wq|x|q)!?\r|ZZ)(?:" + _REPLY + rb")*"),
    ),
    "less": (
        re.compile(rb"(?:[ \rjkdufbgGnNyehJKF=0-9]|" + _ARROW + rb"|[/?][ -~\x80-\xff]*\r)*"),
        re.compile(rb"(?:[/?][ -~\x80-\xff]*)?"),
        re.compile(rb"[qQ]"),
    ),
    "top": (re.compile(rb"(?:[ 1cPMTih]|" + _ARROW + rb")*"), re.compile(rb""), re.compile(rb"q")),
}


@dataclass(frozen=True, slots=True)
class Line:
    """What a key that ends a line ends."""

    text: str
    """What stands there behind the prompt; "" where nothing is known or it is hidden."""
    is_certain: bool
    """Whether that is surely what the shell gets; of a secret, whether it surely is no line."""
    is_secret: bool
    """Typed at a recognised password prompt and not echoed."""
    why: str
    """Why it is not certain, one short phrase; "" where it is."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where typing began."""

    top: int
    """The row in which the prompt begins, where that is longer than a row."""
    row: int
    column: int
    before: str
    """What the row shows before it: the prompt's last row."""
    is_bracketed: bool
    is_clear: bool
    """Whether there was nothing on the screen below it."""
    oddities: int
    marks: int


class TypedLines:
    """The lines of one channel with a terminal, from the first prompt on.

    Every key that may end a line is one byte: of a key of more bytes it is the last one.
    """

    def __init__(self, columns: int, rows: int) -> None:
        # Without a size programs take a terminal to be of this one.
        self._screen = Screen(columns or 80, rows or 24)
        self._buffer = Buffer()
        self._doubt = ""
        self._paints = ""
        self._place: _Place | None = None
        self._ahead = ""
        self._ahead_why = ""
        self._cut_row: int | None = None
        self._has_typed = False
        self._quotes = False
        self._heard = False
        self._was_settled = False
        self._is_unasked = False
        self._key = b""
        self._kept = b""
        self._judged: Line | str | None = None
        self._parts: list[str] = []
        self._after = Survey()
        self._brackets = self._alternations = 0
        self._waits_from = 0
        self._was_alternate = False
        self._inner = b""
        self._has_quit = False
        self._uses_brackets: bool | None = None
        self._prompt = ""
        self._answer: bytes | None = None
        self._is_bash = False
        self._last: str | None = None
        self._answered: tuple[int, int] | None = None
        self._laid_out: tuple[tuple[str, int, int], list[str]] | None = None

    def resize(self, columns: int, rows: int) -> None:
        """Follow a change of the terminal's size."""
        self._screen.resize(columns or 80, rows or 24)
        self._was_settled = False

    def distrust(self, why: str) -> None:
        """Believe the screen alone no more: something else than this channel may write to it."""
        self._paints = self._paints or why

    def doubt(self, why: str) -> None:
        """Take no line for certain any more: what is not followed has reached the shell."""
        self._doubt = self._doubt or why

    # --- both directions -------------------------------------------------------------------------

    def said(self, data: bytes) -> None:
        """Follow what the target says, the raw bytes, as a terminal would."""
        if not data:
            return
        if self._answer is not None:
            self._answer = (self._answer + data)[:16]
            self._is_bash = self._is_bash or self._answer.startswith(b"\r\n\x1b[?2004l\r")
            if len(self._answer) == 16:
                self._answer = None
        self._is_unasked = self._is_unasked or self._was_settled
        self._screen.feed(data)
        self._heard = True

    def skipped(self) -> None:
        """Note that something was said that is not told here: the screen begins anew, empty."""
        why = "much was written to the screen"
        if self._after.full_screen:
            self._doubt = self._doubt or why
        had_typed = self._has_typed or self._cut_row is not None
        screen = self._screen
        self._screen = Screen(screen.columns, screen.height)
        self._forget()
        self._await()
        self._answer = self._answered = None
        if had_typed:
            self._has_typed, self._ahead_why = True, why

    def typed(self, data: bytes) -> int:
        """Follow what the client types, up to the first key that may end a line.

        Returns how many bytes that is. Where it is less than len(data), data[n] is such a key, or
        the last byte of one, and is to be settled first: `line()`, then `passed()` or `dropped()`.
        """
        kept, self._key, self._judged = self._kept, b"", None
        whole, at = kept + data, 0
        while at < len(whole):
            key = key_at(whole, at)
            if not key:
                break
            if self._stops(key):
                self._key = key
                self._kept = key[:-1]
                return at + len(key) - 1 - len(kept)
            self._press(key)
            at += len(key)
        self._kept = whole[at:]
        return len(data)

    @property
    def is_settled(self) -> bool:
        """Whether the screen shows all that was typed.

        False as well where that cannot be told; then who calls waits until nothing was said for a
        moment.
        """
        if self._full_screen():
            return self._heard
        if self.is_hiding:
            return False
        if self._has_typed:
            self._begin()
        if self._place is None or self._buffer.known is not Known.TYPED:
            # Where nothing can be certain, any answer will do.
            return not self._has_typed or (bool(self._doubt) and self._heard)
        self._was_settled = self._agrees(self._place)
        return self._was_settled

    @property
    def is_hiding(self) -> bool:
        """Whether what is typed from here on may be a password.

        A recognised prompt waits for it, no line editor does, and nothing was echoed.
        """
        screen = self._screen
        if self._place is not None or screen.is_alternate or screen.is_bracketing:
            return False
        number, column = screen.place
        row = screen.row(number)
        return (
            row is not None
            and (number, column) != self._answered
            and _PASSWORD.fullmatch(row.text(0, column)) is not None
            and not row.text(column).strip()
        )

    @property
    def is_ready(self) -> bool:
        """Whether something that is known waits for keys, of which none has come yet."""
        return self._has_prompt() or self.is_hiding or self._full_screen()

    @property
    def is_doubted(self) -> bool:
        """Whether no line can be certain any more."""
        return bool(self._doubt)

    def line(self) -> Line | None:
        """Return what the key that stands next ends; None where it ends nothing.

        Nothing is ended by Enter on an empty line, in a known full-screen program, and where the
        shell surely asks for more: the line is told of when it is whole.
        """
        self._judged = found = self._line()
        return found if isinstance(found, Line) else None

    def passed(self, data: bytes) -> int:
        """Follow the key, which goes on; returns how many bytes of `data` it is."""
        # What was decided about is what was read then, whatever the screen shows by now.
        found = self._line() if self._judged is None else self._judged
        key, self._key, self._kept, self._judged = self._key, b"", b"", None
        was_bracketed = self._place is not None and self._place.is_bracketed
        if self._full_screen():
            self._inner = (self._inner + key)[:_MAX_INNER]
            self._follow_inner()
            if isinstance(found, Line):
                self._doubt = self._doubt or found.why
            self._heard = False
            return min(1, len(data))
        if isinstance(found, Line) and found.is_secret:
            self._answered = self._screen.place
            if not found.is_certain:
                self._doubt = self._doubt or found.why
            self._forget()
            return min(1, len(data))
        if isinstance(found, Line):
            self._leave(found)
        elif found:
            self._parts.append(found)
            self._after = Survey()
        elif self._place is not None:
            self._after = Survey()
            if self._has_typed:
                # Blanks alone are a line of the history.
                self._last = None
        self._forget()
        self._await()
        self._answer = b"" if was_bracketed else None
        if key == b"\x0f":
            self._ahead_why = "a line that ^O brought"
        return min(1, len(data))

    def dropped(self) -> bytes:
        """Follow that the line does not run: returns what to type, for the shell to forget it.

        The key itself, which is one byte, does not go on.
        """
        self._key = self._kept = b""
        self._quotes = False
        self._interrupt()
        return _FORGET

    # --- keys ------------------------------------------------------------------------------------

    def _stops(self, key: bytes) -> bool:
        """Whether a key may end a line."""
        place, buffer = self._place, self._buffer
        if buffer.is_pasting and place is not None and place.is_bracketed and not self._doubt:
            return False
        if key in _ENDS or (self._after.full_screen and key[-1:] in _ENDS):
            return True
        if self._doubt or self._after.full_screen:
            # Here any key may do anything, and a full-screen program has them all.
            return False
        if key == _EOF:
            return self._has_typed and not self._uses_brackets
        return key == b"\x18" or (len(key) == 2 and key[0] == 0x1B and key[1] not in _METAS)

    def _press(self, key: bytes) -> None:
        self._heard = self._was_settled = False
        if self._after.full_screen and not self._has_prompt():
            self._inner = (self._inner + key)[:_MAX_INNER]
            self._follow_inner()
            return
        self._begin()
        quoted, self._quotes = self._quotes, key == _QUOTE and not self._quotes
        if key == _INTERRUPT and not quoted:
            self._interrupt()
            return
        if self._place is not None:
            if key == _EOF and not self._buffer.text and self._buffer.known is Known.TYPED:
                self._after = Survey(is_shell=True)
                self._last = None
                self._forget()
                self._await()
                self._cut_row = self._screen.place[0]
                return
            self._has_typed = True
            self._buffer.press(key)
            return
        if key == _EOF and not self._has_typed:
            return
        self._has_typed = True
        text = key.decode(errors="replace")
        if self._cut_row is not None:
            self._ahead_why = self._ahead_why or "typed behind an interrupt"
        if not text.isprintable() or not text.isascii() or len(self._ahead) > 4096:
            self._ahead_why = self._ahead_why or "keys before the prompt"
        else:
            self._ahead += text

    def _forget(self) -> None:
        """Begin anew: nothing was typed, and no prompt was seen."""
        self._place = None
        self._buffer.clear()
        self._ahead = self._ahead_why = ""
        self._cut_row = None
        self._has_typed = False
        self._was_settled = self._is_unasked = self._heard = False

    def _interrupt(self) -> None:
        """Follow an interrupt: the shell forgets the line, and begins another in another row."""
        if self._parts:
            # What stood above it is in bash's history all the same.
            self._last = None
        self._parts.clear()
        self._forget()
        self._await()
        self._cut_row = self._screen.place[0]

    def _await(self) -> None:
        """Wait for a prompt that is newer than this moment."""
        self._waits_from = self._screen.place[0]
        self._brackets = self._screen.brackets
        self._alternations = self._screen.alternations
        self._was_alternate = self._screen.is_alternate

    # --- the prompt ------------------------------------------------------------------------------

    def _has_prompt(self) -> bool:
        """Whether a shell's prompt stands before the cursor, and nothing behind it."""
        screen = self._screen
        number, column = screen.place
        row = screen.row(number)
        return (
            row is not None
            and number != self._cut_row
            and self._may_prompt()
            and not row.text(column).strip()
            and self._is_prompt(row.text(0, column))
        )

    def _may_prompt(self) -> bool:
        screen = self._screen
        if screen.is_alternate:
            return False
        return not self._uses_brackets or (
            screen.is_bracketing and screen.brackets > self._brackets
        )

    def _is_prompt(self, text: str) -> bool:
        if not text.strip() or _PASSWORD.fullmatch(text):
            return False
        if self._parts:
            return text == _SECOND_PROMPT
        if text == _SECOND_PROMPT:
            return not self._prompt or self._prompt == _SECOND_PROMPT
        if self._uses_brackets:
            return True
        if not _PROMPT.fullmatch(text):
            return False
        return not self._prompt or text[-2:] == self._prompt[-2:]

    def _begin(self) -> None:
        """Take the cursor's place as the line's beginning, where a prompt stands before it."""
        if self._place is not None:
            return
        if self._has_typed:
            self._adopt()
            return
        if self._has_prompt():
            number, column = self._screen.place
            self._begin_at(number, column)
            if self._ahead_why:
                self._buffer.clear(Known.LOST, self._ahead_why)
                if self._ahead_why.startswith("a line"):
                    self._buffer.clear(Known.SHOWN, "history")

    def _begin_at(self, number: int, column: int) -> None:
        screen = self._screen
        row = screen.row(number)
        before = "" if row is None else row.text(0, column)
        if self._uses_brackets is None or self._after.is_shell:
            self._uses_brackets = screen.is_bracketing
            self._is_bash = False
        self._end_full_screen()
        self._after = Survey()
        if not self._parts:
            self._prompt = before
        top = last = number
        while (above := screen.row(top)) is not None and above.goes_on and top > self._waits_from:
            top -= 1
        while (below := screen.row(last + 1)) is not None and not below.text().strip():
            last += 1
        self._place = _Place(
            top,
            number,
            column,
            before,
            screen.is_bracketing,
            below is None,
            screen.oddities,
            screen.marks,
        )
        self._cut_row = None

    def _adopt(self) -> None:
        """Take what was typed before the prompt came as the line, once it shows behind that."""
        if self._ahead_why or not self._ahead or not self._may_prompt() or self._after.full_screen:
            return
        number, shown = self._around()
        before = shown.removesuffix(self._ahead)
        # Whose rows are all narrow, and full up to the last, its letters are its columns.
        if before == shown or not shown.isascii() or not self._is_prompt(before):
            return
        if not self._parts and self._prompt and before[-2:] != self._prompt[-2:]:
            return
        at = len(before)
        self._begin_at(number + at // self._screen.columns, at % self._screen.columns)
        self._buffer.press(self._ahead.encode())
        self._ahead = ""

    # --- full-screen programs --------------------------------------------------------------------

    def _full_screen(self) -> bool:
        """Whether a known full-screen program has the terminal now."""
        return (
            bool(self._after.full_screen)
            and self._screen.is_alternate
            and not self._was_alternate
            and self._screen.alternations > self._alternations
            and not self._has_shell_again()
        )

    def _has_shell_again(self) -> bool:
        """Whether a program that left the screen as it was is gone: who pastes is the shell."""
        begun = self._screen.brackets - self._brackets
        return begun > (1 if self._after.full_screen == "vim" else 0)

    def _follow_inner(self) -> None:
        """Follow the keys of a full-screen program: those that may run another raise a doubt."""
        plain, begun, quits = _INNER[self._after.full_screen]
        rest = self._inner
        if self._has_quit:
            rest = b"" if not rest or re.fullmatch(rb"(?:" + _REPLY + rb")*", rest) else rest
            self._inner = b""
        else:
            match = plain.match(rest)
            rest = rest[match.end() :] if match else rest
            if quits.fullmatch(rest):
                self._has_quit, rest, self._inner = True, b"", b""
            elif begun.fullmatch(rest) and len(rest) < _MAX_INNER:
                # Of a text that is being inserted it is enough to know that.
                self._inner = rest[:1] if rest[:1] and rest[:1] in b"iaoIAO" else rest
                return
        if rest:
            self._inner = b""
            self._doubt = self._doubt or f"keys in {self._after.full_screen} that may run a program"

    def _end_full_screen(self) -> None:
        if self._after.full_screen:
            if self._inner:
                self._doubt = self._doubt or f"{self._after.full_screen} ended amid keys"
            self._inner = b""
            self._has_quit = False

    # --- the line --------------------------------------------------------------------------------

    def _line(self) -> Line | str:
        """Return the line, "" where nothing ends, or a text that the shell wants more of."""
        found = self._unless_doubted(self._key)
        if not self._doubt:
            return found
        if isinstance(found, Line):
            return Line(found.text, False, found.is_secret, self._doubt)
        return self._uncertain(self._doubt) if self._has_typed or found else ""

    def _unless_doubted(self, key: bytes) -> Line | str:
        if self._full_screen():
            self._peek_inner(key)
            return self._uncertain(self._doubt) if self._doubt else ""
        if self.is_hiding and self._has_typed:
            is_sure = self._after.asks and not self._doubt
            return Line("", is_sure, True, "" if is_sure else "nothing known asks for a password")
        self._begin()
        if self._place is None:
            if self._after.full_screen and (self._inner or self._has_quit or self._doubt):
                return self._uncertain("keys for a program that has not taken the screen")
            if not self._has_typed and self._cut_row is None:
                return ""
            return self._uncertain(self._ahead_why or "typed before the prompt came")
        if self._buffer.is_quoting:
            return self._uncertain("control characters")
        if key not in _ENDS:
            why = "the end of input" if key == _EOF else "a key that may run what is not shown"
            return self._uncertain(why)
        text, why = self._read(self._place)
        if why:
            return self._uncertain(why)
        whole = "\n".join([*self._parts, text])
        if not whole.strip():
            return ""
        if len(whole) > _MAX_COMMAND:
            return self._uncertain("too long")
        if not all(each.isprintable() or each in "\n\t" for each in whole):
            return self._uncertain("control characters")
        expanded = self._expanded(whole)
        if expanded is None:
            return self._uncertain("history expansion")
        found = survey(expanded)
        if not found.is_read:
            return self._uncertain(found.doubt)
        if found.is_open:
            # What is unfinished is told by bash's grammar.
            if expanded != whole or self._prompt == _SECOND_PROMPT or key == b"\x0f":
                return self._uncertain("it is not finished")
            if not self._is_bash:
                return self._uncertain("it may be finished")
            return text or "\n"
        return Line(expanded, True, False, "")

    def _peek_inner(self, key: bytes) -> None:
        plain, begun, quits = _INNER[self._after.full_screen]
        rest = self._inner + key
        match = plain.match(rest)
        rest = rest[match.end() :] if match else rest
        if self._has_quit or not (begun.fullmatch(rest) or quits.fullmatch(rest)):
            self._doubt = self._doubt or f"keys in {self._after.full_screen} that may run a program"

    def _uncertain(self, why: str) -> Line:
        return Line("\n".join([*self._parts, self._sight()])[:65_536], False, False, why)

    def _sight(self) -> str:
        """Return what stands where the cursor is, for what it is worth."""
        if self._screen.is_alternate:
            return ""
        if self._place is not None:
            text, why = self._shown(self._place)
            if not why:
                return text
        shown = self._around()[1].rstrip()
        prompt = self._prompt.rstrip()
        return shown.removeprefix(prompt).lstrip() if prompt else shown

    def _around(self) -> tuple[int, str]:
        """Return what stands up to the cursor's row from the row where that text begins."""
        number = self._screen.place[0]
        texts: list[str] = []
        while (row := self._screen.row(number)) is not None:
            texts.append(row.text())
            # Behind a full row an editor is in the next one already: Enter takes no other.
            if not row.goes_on or number == self._waits_from:
                break
            number -= 1
        return number, "".join(reversed(texts))

    def _read(self, place: _Place) -> tuple[str, str]:
        """Return the line that stands at the prompt, or why it is not certain."""
        buffer = self._buffer
        if buffer.known is Known.LOST:
            return "", buffer.why
        if buffer.known is Known.TYPED:
            if self._agrees(place):
                return buffer.text, ""
            return "", "the screen shows something else than what was typed"
        if self._paints:
            return "", self._paints
        if not place.is_bracketed:
            return "", f"{buffer.why} without a line editor that is known"
        if self._is_unasked or self._screen.oddities != place.oddities:
            return "", "something else was written to the screen"
        if self._screen.marks != place.marks:
            # Editors lose marks when they draw a part of a line again.
            return "", "letters without width"
        text, why = self._shown(place)
        if not why and (_AMBIGUOUS.search(text) or text.rstrip(" ").endswith("\\")):
            why = "characters that the screen does not tell apart"
        return text, why

    def _agrees(self, place: _Place) -> bool:
        """Whether the screen shows what the keys say."""
        expected = self._lay_out(self._buffer.text, place.column)
        cursor = self._screen.place[0]
        first = max(cursor - len(expected) + 1, cursor - _ROWS_BACK)
        return any(
            self._shows(place, expected, number)
            for number in dict.fromkeys([place.row, *range(cursor, first - 1, -1)])
        )

    def _shows(self, place: _Place, expected: list[str], number: int) -> bool:
        screen = self._screen
        first, last = screen.row(number), screen.row(number + len(expected) - 1)
        if first is None or last is None:
            return False
        begin = place.column if len(expected) == 1 else 0
        if last.text(begin).rstrip() != expected[-1].rstrip():
            return False
        if first.text(0, place.column) != place.before:
            return False
        below = screen.row(number + len(expected))
        if below is not None and below.goes_on and below.text().strip():
            return False
        column = place.column
        for at, each in enumerate(expected):
            row = screen.row(number + at)
            if row is None or row.text(column).rstrip() != each.rstrip():
                return False
            column = 0
        return True

    def _lay_out(self, text: str, column: int) -> list[str]:
        """Return the rows that a line editor shows a text in, the first from its column on."""
        columns = self._screen.columns
        wanted = (text, column, columns)
        if self._laid_out is not None and self._laid_out[0] == wanted:
            return self._laid_out[1]
        rows: list[list[str]] = [[]]
        for character in text:
            if character == "\n":
                rows.append([])
                column = 0
                continue
            shown = " " * (8 - column % 8) if character == "\t" else character
            for each in shown:
                width = width_of(each)
                if column + width > columns:
                    rows.append([])
                    column = 0
                rows[-1].append(each)
                column += width
        found = ["".join(row) for row in rows]
        self._laid_out = (wanted, found)
        return found

    def _shown(self, place: _Place) -> tuple[str, str]:
        """Return the line that the screen shows behind the prompt, or why that is not clear."""
        screen, buffer = self._screen, self._buffer
        cursor = screen.place[0]
        if buffer.is_search:
            text, why = self._rows_from(place, place.top, 0)
            for head in _SEARCH:
                if text.startswith(head + buffer.sought + "': "):
                    return text[len(head) + len(buffer.sought) + 3 :], why
            return "", why or "a search that is not over"
        found = [
            number
            for number in range(max(place.row, cursor - _ROWS_BACK), cursor + 1)
            if (row := screen.row(number)) is not None and row.text(0, place.column) == place.before
        ]
        if not found or found[-1] < cursor - screen.cursor[1]:
            # Of a line that is longer than the screen an editor draws its end alone.
            return "", "the prompt is not found again"
        head = buffer.before[: buffer.before.rfind(" ") + 1]
        text, why = self._rows_from(place, found[-1], place.column)
        is_completion = buffer.known is Known.SHOWN and buffer.why == "completion"
        if not why and is_completion and not text.startswith(head):
            why = "what is shown does not begin with what was typed"
        if not why and len(found) > 1 and not is_completion:
            why = "more than one prompt"
        return text, why

    def _rows_from(self, place: _Place, number: int, column: int) -> tuple[str, str]:
        """Return the text from a place to its end, over the rows that go on with it."""
        screen = self._screen
        pieces: list[str] = []
        is_full = has_newline = False
        while (row := screen.row(number)) is not None:
            text = row.text(column)
            if pieces and row.goes_on and not text.strip():
                # Behind a full row readline writes a blank into the next one, to get there.
                break
            if pieces and not row.goes_on:
                if not text.strip():
                    break
                has_newline = True
                pieces.append("\n")
                is_full = is_full or len(screen.row(number - 1).cells) >= screen.columns  # type: ignore[union-attr]
            pieces.append(text)
            column = 0
            number += 1
        while row is not None:
            if row.text().strip():
                return "", "something stands below"
            number += 1
            row = screen.row(number)
        if has_newline and (is_full or not place.is_clear or self._buffer.why == "completion"):
            return "", "something stands below"
        return "".join(pieces), ""

    def _expanded(self, text: str) -> str | None:
        """Return the line after history expansion; None where that is not known."""
        if "!" not in text and not text.startswith("^"):
            return text
        if text.startswith("^"):
            return None
        quote = ""
        pieces: list[str] = []
        at = 0
        while at < len(text):
            character = text[at]
            follows = text[at + 1 : at + 2]
            if character == "\\" and quote != "'":
                pieces.append(text[at : at + 2])
                at += 2
                continue
            if character == "'" and quote != '"':
                quote = "" if quote else "'"
            elif character == '"' and quote != "'":
                quote = "" if quote else '"'
            is_active = (
                character == "!" and quote != "'" and follows not in ("", " ", "\t", "\n", "=", "(")
            )
            if is_active and not (quote == '"' and follows == '"'):
                if self._last is None or not self._is_bash or follows not in ("!", "$"):
                    return None
                last = self._last if follows == "!" else self._last.split()[-1]
                # What follows may choose words of it; and each row of a paste is a line of its own.
                if (text[at + 2 : at + 3] or " ") not in ' ;/."' or "\n" in text[:at]:
                    return None
                if follows == "$" and re.search(r"['\"\\$`();|&<>]", self._last):
                    return None
                pieces.append(last)
                at += 2
                continue
            pieces.append(character)
            at += 1
        return "".join(pieces)

    def _leave(self, line: Line) -> None:
        """Follow what a line that was let through leaves behind."""
        self._parts.clear()
        self._last = None
        if not line.is_certain:
            self._doubt = self._doubt or f"a line before it was not certain: {line.why}"
            return
        self._after = after = survey(line.text)
        self._doubt = self._doubt or after.doubt
        if after.paints:
            self._paints = self._paints or "a job in the background may write to the screen"
        self._inner, self._has_quit = b"", False
        is_kept = "\n" not in line.text and not line.text.startswith(" ") and not after.is_shell
        self._last = line.text if is_kept else None
        if after.is_shell:
            self._prompt = ""
