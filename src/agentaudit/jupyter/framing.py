"""One answer as one body of HTTP: a head in JSON, and buffers of bytes as they are.

    offset 0    4 bytes   "AAQ1"
    offset 4    4 bytes   length of the head, unsigned, little-endian
    offset 8    head      JSON, ASCII: {"answer": {...}, "buffers": [length, ...]}
    then        buffers   each at the next multiple of 8 bytes from the start of the body

`answer` is that of `widgets.questions`; lengths are in bytes. What fills up to a multiple of 8 is
zeros, so that Arrow's buffers, and arrays of numbers, can be read where they lie.

Content-Type: application/vnd.agentaudit.answer
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any, Final

CONTENT_TYPE: Final = "application/vnd.agentaudit.answer"

_MAGIC: Final = b"AAQ1"
_ALIGNED: Final = 8


def frame(answer: dict[str, Any], buffers: Sequence[bytes]) -> bytes:
    """Return an answer and its buffers as one body.

    >>> frame({"id": 1}, [])
    b'AAQ1 \\x00\\x00\\x00{"answer":{"id":1},"buffers":[]}'
    """
    told = {"answer": answer, "buffers": [len(buffer) for buffer in buffers]}
    head = json.dumps(told, separators=(",", ":"), allow_nan=False).encode("ascii")
    parts = [_MAGIC, struct.pack("<I", len(head)), head]
    place = 8 + len(head)
    for buffer in buffers:
        filling = -place % _ALIGNED
        parts += [bytes(filling), buffer]
        place += filling + len(buffer)
    return b"".join(parts)
