"""What stands in a line editor after the keys that were typed, told from the keys alone.

It is the emacs keymap of readline, which bash has by default. What a key does that cannot be told
from keys (completion, history, search) is not guessed: such a line is `SHOWN`, known by the screen
alone, and a key that this keymap does not have makes it `LOST`.

Source: the readline and bash manuals, "Command Line Editing"; keys as Debian's /etc/inputrc has
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

from agentaudit.protocols.ssh_screen import width_of

# Longer lines are typed by no one, and bash takes seconds over each of their keys.
MAX_LINE: Final = 65_536

_PASTE: Final = b"\x1b[200~"
_PASTED: Final = b"\x1b[201~"

_KEY: Final = re.compile(
    rb"[ -~]+"
    rb"|(?:[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3})+"
    rb"|\x1b\[[0-?]{0,24}[ -/]{0,4}[@-~]"
    rb"|\x1bO[ -~]"
    rb"|\x1b[^\x1b\[O]"
    rb"|[^\x1b]",
    re.S,
)

_BEGUN: Final = re.compile(
    rb"\x1b(?:\[[0-?]{0,24}[ -/]{0,4}|O)?"
    rb"|[\xc2-\xdf]|[\xe0-\xef][\x80-\xbf]?|[\xf0-\xf4][\x80-\xbf]{0,2}"
)

_LEFT: Final = {b"\x02", b"\x1b[D", b"\x1bOD"}
_RIGHT: Final = {b"\x06", b"\x1b[C", b"\x1bOC"}
_HOME: Final = {b"\x01", b"\x1b[H", b"\x1bOH", b"\x1b[1~", b"\x1b[7~"}
_END: Final = {b"\x05", b"\x1b[F", b"\x1bOF", b"\x1b[4~", b"\x1b[8~"}
_BACK: Final = {b"\x7f", b"\x08"}
_DELETE: Final = {b"\x04", b"\x1b[3~"}
_WORD_LEFT: Final = {b"\x1bb", b"\x1b[1;5D", b"\x1b[5D"}
_WORD_RIGHT: Final = {b"\x1bf", b"\x1b[1;5C", b"\x1b[5C"}
_NOTHING: Final = {b"\x0c", b"\x07"}

_BY_SCREEN: Final = {
    b"\t": "completion",
    b"\x0e": "history",
    b"\x10": "history",
    b"\x12": "search",
    b"\x1f": "undo",
    b"\x1b[A": "history",
    b"\x1b[B": "history",
    b"\x1bOA": "history",
    b"\x1bOB": "history",
    b"\x1b[5~": "history",
    b"\x1b[6~": "history",
    **dict.fromkeys([b"\x1b.", b"\x1b_", b"\x1b<", b"\x1b>", b"\x1bp", b"\x1bn"], "history"),
    **dict.fromkeys([b"\x1b?", b"\x1b*", b"\x1b=", b"\x1b~", b"\x1b/"], "completion"),
    **dict.fromkeys([b"\x1bt", b"\x1bu", b"\x1bl", b"\x1bc", b"\x1by", b"\x1b\\"], "editing"),
    **{b"\x1b%d" % digit: "editing" for digit in range(10)},
}


class Known(Enum):
    """By what a line is known."""

    TYPED = "by the keys"
    SHOWN = "by the screen alone"
    LOST = "not at all"


class Buffer:
    """The line as the editor has it, if it does what its manual says."""

    def __init__(self) -> None:
        self._killed = ""
        self.clear()

    def clear(self, known: Known = Known.TYPED, why: str = "") -> None:
        """Begin another line. What was cut stays, to be put into this one."""
        self.text = ""
        self.point = 0
        self.known = known
        self.why = why
        self.is_search = False
        self.sought = ""
        self.before = ""
        """What stood before the point when the line was known by its keys for the last time."""
        self.is_pasting = False
        self.newlines = False
        """Whether a newline may be in it."""
        self.is_quoting = False
        self._kills = False

    def press(self, key: bytes) -> None:
        """Follow one key, or a run of letters."""
        kills, self._kills = self._kills, False
        if key == _PASTE and (self.is_quoting or self.known is not Known.TYPED):
            # Something else may have got it: what comes then are keys.
            self.known, self.why = Known.LOST, "a paste that may be none"
            self.is_quoting = False
        elif key == _PASTE:
            self.is_pasting = True
        elif key == _PASTED and self.is_pasting:
            self.is_pasting = False
        elif self.is_pasting or self.is_quoting:
            self._take_literally(key)
        elif self.is_search:
            self._search(key)
        elif key >= b" " and key != b"\x7f" and key[:1] != b"\x1b":
            self._insert(key)
        elif key in _BY_SCREEN:
            self._leave(_BY_SCREEN[key])
            self.is_search = key == b"\x12"
        else:
            self._edit(key, kills)

    def _edit(self, key: bytes, kills: bool) -> None:
        text, at = self.text, self.point
        if key in _LEFT:
            self.point = max(at - 1, 0)
        elif key in _RIGHT:
            self.point = min(at + 1, len(text))
        elif key in _HOME:
            self.point = 0
        elif key in _END:
            self.point = len(text)
        elif key in _WORD_LEFT:
            self.point = self._word_before()
        elif key in _WORD_RIGHT:
            self.point = self._word_behind()
        elif key in _BACK:
            self._cut(max(at - 1, 0), at)
        elif key in _DELETE:
            self._cut(at, min(at + 1, len(text)))
        elif key == b"\x0b":
            self._kill(at, len(text), kills)
        elif key == b"\x15":
            self._kill(0, at, kills)
        elif key == b"\x17":
            self._kill(self._blank_before(), at, kills)
        elif key in (b"\x1b\x7f", b"\x1b\x08"):
            self._kill(self._word_before(), at, kills)
        elif key == b"\x1bd":
            self._kill(at, self._word_behind(), kills)
        elif key == b"\x19":
            self._put(self._killed)
        elif key == b"\x14":
            self._transpose()
        elif key == b"\x16":
            self.is_quoting = True
        elif key not in _NOTHING:
            self.known, self.why = Known.LOST, "a key that this keymap does not have"
        if not text.isascii() and any(width_of(each) == 0 for each in text):
            # Readline moves over a letter with its marks as one; which are marks, the host says.
            self._leave("marks")

    def _leave(self, why: str) -> None:
        """The screen alone knows from here on."""
        if self.known is Known.TYPED:
            self.before = self.text[: self.point]
            self.known, self.why = Known.SHOWN, why
        elif why != "completion":
            self.why = why

    def _insert(self, key: bytes) -> None:
        try:
            self._put(key.decode())
        except UnicodeDecodeError:
            self.known, self.why = Known.LOST, "bytes that are no UTF-8"

    def _put(self, text: str) -> None:
        self.text = self.text[: self.point] + text + self.text[self.point :]
        self.point += len(text)
        if len(self.text) > MAX_LINE:
            self.text, self.point = "", 0
            self.known, self.why = Known.LOST, "too long"

    def _take_literally(self, key: bytes) -> None:
        if self.is_quoting:
            # Of a run only the first letter is quoted, which for a letter changes nothing.
            self.is_quoting = False
            if (key < b" " and key != b"\t") or key[:1] in b"\x1b\x7f":
                self.known, self.why = Known.LOST, "control characters"
                return
        if key in (b"\r", b"\n"):
            self.newlines = True
            self._put("\n")
        elif key == b"\t":
            self._put("\t")
        elif key < b" " or key[:1] in b"\x1b\x7f":
            self.known, self.why = Known.LOST, "control characters"
        else:
            self._insert(key)

    def _search(self, key: bytes) -> None:
        if key >= b" " and key != b"\x7f" and key[:1] != b"\x1b":
            self.sought += key.decode(errors="replace")
        elif key in _BACK or key == b"\x12":
            # Where a search that was taken back a letter stands, only the screen knows.
            self.sought = self.sought[:-1] if key in _BACK else self.sought
        else:
            self.is_search = False

    # --- pieces of the line ----------------------------------------------------------------------

    def _cut(self, start: int, end: int) -> None:
        self.text = self.text[:start] + self.text[end:]
        self.point = start

    def _kill(self, start: int, end: int, joins: bool) -> None:
        killed = self.text[start:end]
        if not joins:
            self._killed = killed
        elif start < self.point:
            self._killed = killed + self._killed
        else:
            self._killed += killed
        self._killed = self._killed[-MAX_LINE:]
        self._cut(start, end)
        self._kills = True

    def _blank_before(self) -> int:
        at = self.point
        while at and self.text[at - 1] in " \t":
            at -= 1
        while at and self.text[at - 1] not in " \t":
            at -= 1
        return at

    def _word_before(self) -> int:
        at = self.point
        while at and not self.text[at - 1].isalnum():
            at -= 1
        while at and self.text[at - 1].isalnum():
            at -= 1
        return at

    def _word_behind(self) -> int:
        at, end = self.point, len(self.text)
        while at < end and not self.text[at].isalnum():
            at += 1
        while at < end and self.text[at].isalnum():
            at += 1
        return at

    def _transpose(self) -> None:
        at = min(self.point, len(self.text) - 1)
        if self.point and len(self.text) > 1:
            text = self.text
            self.text = text[: at - 1] + text[at] + text[at - 1] + text[at + 1 :]
            self.point = at + 1


def key_at(data: bytes, at: int) -> bytes:
    """Return the key that begins at a place, a run of letters as one; b"" where its end is missing.

    >>> key_at(b"ls\\x1b[D\\x1b[", 0), key_at(b"ls\\x1b[D\\x1b[", 2), key_at(b"ls\\x1b[D\\x1b[", 5)
    (b'ls', b'\\x1b[D', b'')
    """
    if _BEGUN.fullmatch(data, at):
        return b""
    key = _KEY.match(data, at)
    # An escape that nothing known follows is a key by itself.
    return key.group() if key else data[at : at + 1]
