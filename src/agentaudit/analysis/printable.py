"""Makes recorded text safe to show: what a terminal or a reader would obey becomes visible.

An agent chooses what it sends, so a statement may hold escape sequences that retitle the window
of whoever investigates it, or bidirectional controls that show `DROP` as something else. They are
written out (`\\x1b`, `\\u202e`) rather than dropped: that they were sent is evidence. A page in a
browser does the same (`components/src/text.ts`); `tests/vectors/shown.json` holds both to one
table.

Sources: ECMA-48 (C0 and C1 controls); Unicode UAX 9 and CVE-2021-42574 (bidirectional controls);
Default_Ignorable_Code_Point of Unicode's DerivedCoreProperties (what is there and draws nothing).
"""

from __future__ import annotations

import re
import unicodedata

_OBEYED = (
    r"\x00-\x1f\x7f-\x9f"  # C0, DEL, C1
    r"\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"  # invisible, or turns what follows
    r"\u200b-\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164\ufeff\uffa0\ufff0-\ufffb"
    r"\ud800-\udfff"  # lone surrogates: no encoding could print them
    r"\U00016fe4\U0001bca0-\U0001bca3"  # a filler, and controls of shorthand
    r"\U0001d159\U0001d173-\U0001d17a"  # a note without a head, and controls of music
    r"\ufe00-\ufe0f\U000e0000-\U000e0fff"  # variation selectors and tags, which hide whole texts
)
_LINE = re.compile(f"[{_OBEYED}]")
_BLOCK = re.compile(f"(?![\\n\\t])[{_OBEYED}]")
_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_BLANKS = re.compile(r"(?:\r\n|[ \t\n])+")


def printable(text: str, *, block: bool = False) -> str:
    r"""Return `text` with each character that a terminal obeys written as an escape.

    With `block`, line feeds and tabs stay, for text that is shown over several lines. A backslash
    of the text itself stays single: this is for eyes, not for reading back.

    >>> printable("a\x1b[2Jb\u202e")
    'a\\x1b[2Jb\\u202e'
    """
    return (_BLOCK if block else _LINE).sub(_escape, text)


def flat(text: str) -> str:
    r"""Return `text` with each run of blanks, tabs and ends of lines as one blank.

    Of what is there without being seen nothing goes: `str.split` would take controls for blanks.

    >>> flat("a\t\r\n b\rc\x1cd")
    'a b\rc\x1cd'
    """
    return _BLANKS.sub(" ", text).strip(" ")


def width(text: str) -> int:
    """Return how many columns of a terminal a printable `text` takes (UAX 11).

    >>> width("abc"), width("日本"), width("e\u0301")
    (3, 4, 1)
    """
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    named = _NAMED.get(character)
    if named is not None:
        return named
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
