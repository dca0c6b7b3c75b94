"""Makes the documentation's pictures of what `make story` kept: the same, a few times smaller.

    python -m tools.pictures [artifacts]

A screenshot of a user interface has few colours, so a palette of 256 loses next to nothing.
Format: www.w3.org/TR/png-3.
"""

from __future__ import annotations

import struct
import sys
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

CHOSEN = (
    "story-archive-light",
    "story-incident-light",
    "story-incident-dark",
    "story-hold-light",
    "story-hold-dark",
    "story-export-light",
    "story-auditor-light",
)
PLACE = Path("docs/pictures")
COLOURS = 256
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def read(data: bytes) -> list[bytes]:
    """Return the lines of a picture, each of three bytes a pixel.

    Raises:
        ValueError: it is no PNG of eight bits a channel in colour, or it is interlaced.
    """
    if not data.startswith(_SIGNATURE):
        raise ValueError("no PNG")
    place, packed, head = len(_SIGNATURE), b"", b""
    while place < len(data):
        (length,) = struct.unpack_from(">I", data, place)
        kind, body = data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        head = body if kind == b"IHDR" else head
        packed += body if kind == b"IDAT" else b""
        place += length + 12
    width, _, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", head)
    if depth != 8 or colour not in (2, 6) or interlaced:
        raise ValueError("eight bits a channel expected, in colour, line by line")
    deep = 3 if colour == 2 else 4
    filtered, size = zlib.decompress(packed), 1 + width * deep
    lines, above = [], bytearray(width * deep)
    for at in range(0, len(filtered), size):
        above = _undo(filtered[at], bytearray(filtered[at + 1 : at + size]), above, deep)
        line = bytearray(3 * width)
        for channel in range(3):
            line[channel::3] = above[channel::deep]
        lines.append(bytes(line))
    return lines


def _undo(kind: int, line: bytearray, above: bytearray, deep: int) -> bytearray:
    """Return a line without its filter (section 9.2 of the format)."""
    for x, given in enumerate(line):
        left = line[x - deep] if x >= deep else 0
        up, corner = above[x], above[x - deep] if x >= deep else 0
        if kind == 1:
            guess = left
        elif kind == 2:
            guess = up
        elif kind == 3:
            guess = (left + up) // 2
        elif kind == 4:
            near = left + up - corner
            guess = min((left, up, corner), key=lambda each: abs(near - each))
        else:
            guess = 0
        line[x] = (given + guess) & 255
    return line


def write(lines: Sequence[bytes]) -> bytes:
    """Return a PNG of at most 256 colours: the most frequent ones, and for others the nearest."""
    pixels = [[line[at : at + 3] for at in range(0, len(line), 3)] for line in lines]
    counts = Counter(pixel for line in pixels for pixel in line)
    kept = [colour for colour, _ in counts.most_common(COLOURS)]
    places = {colour: place for place, colour in enumerate(kept)}
    for colour in counts.keys() - places.keys():
        places[colour] = min(
            range(len(kept)),
            key=lambda place: sum((a - b) ** 2 for a, b in zip(kept[place], colour, strict=True)),
        )
    packed = zlib.compress(
        b"".join(b"\0" + bytes(places[one] for one in line) for line in pixels), 9
    )
    size = struct.pack(">II", len(pixels[0]), len(pixels))
    chunks = (
        (b"IHDR", size + bytes([8, 3, 0, 0, 0])),
        (b"PLTE", b"".join(kept)),
        (b"IDAT", packed),
        (b"IEND", b""),
    )
    return _SIGNATURE + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def main(argv: Sequence[str]) -> int:
    """Make those of the documentation anew."""
    kept = Path(argv[0] if argv else "artifacts")
    PLACE.mkdir(exist_ok=True)
    for name in CHOSEN:
        made = write(read((kept / f"{name}.png").read_bytes()))
        (PLACE / f"{name.removeprefix('story-')}.png").write_bytes(made)
        print(f"{name}: {len(made):,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
