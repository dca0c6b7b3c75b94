"""The texts of sealed commands' statements, and which commands hold what somebody looks for.

The distinct texts, as they are and in lower case, and the commands once more, lie beside the index
as Arrow files, which are mapped and not read. To find a text is then to look through one run of
bytes, and to pick the commands that have it by their places: the index's own tables are compressed,
and to have ten thousand commands out of ten million they would all be read.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Final, Literal

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from agentaudit import _native

_TEXTS: Final = 16_384
"""In a batch: a text has at most 64 KiB, and a batch's offsets have 31 bits."""
_COMMANDS: Final = 122_880
_THREADS: Final = min(4, os.cpu_count() or 1)
_SMALLER: Final = ((1 << 8, "UTINYINT"), (1 << 16, "USMALLINT"))


@dataclass(frozen=True, slots=True)
class Found:
    """What holds a text: the texts' `codes`, how many commands, and these, where they are few."""

    codes: pa.Array
    n: int
    commands: pa.Table | None


class Texts:
    """The texts of one index, and the commands that have them."""

    def __init__(self, folder: Path) -> None:
        _, self._texts = _mapped(folder / "texts.arrow")
        self._first_codes = [0, *accumulate(batch.num_rows for batch in self._texts)]
        self._schema, self._commands = _mapped(folder / "commands.arrow")

    @classmethod
    def write(cls, cursor: duckdb.DuckDBPyConnection, folder: Path, codes: Sequence[str]) -> Texts:
        """Make the files of the tables `texts_base` and `base`, whose columns `codes` are codes.

        Raises:
            duckdb.Error: it was interrupted.
        """
        texts = "SELECT text, lower(text) FROM texts_base ORDER BY code"
        _write(cursor, folder / "texts.arrow", texts, _TEXTS)
        most = cursor.execute(
            f"SELECT {', '.join(f'coalesce(max({code}), 0)' for code in codes)} FROM base"
        ).fetchall()[0]
        small = [
            f"{code}::{type_} AS {code}"
            for code, last in zip(codes, most, strict=True)
            if (type_ := next((type_ for size, type_ in _SMALLER if last < size), None))
        ]
        replaced = f" REPLACE ({', '.join(small)})" if small else ""
        _write(cursor, folder / "commands.arrow", f"SELECT *{replaced} FROM base", _COMMANDS)
        return cls(folder)

    def shown(self, code: int, characters: int) -> tuple[str, int]:
        """Return how the text that has `code` begins, and how many characters it has."""
        number = bisect_right(self._first_codes, code) - 1
        text = self._texts[number].column(0).slice(code - self._first_codes[number], 1)
        begins = pc.utf8_slice_codeunits(text, 0, characters)
        return begins[0].as_py(), pc.utf8_length(text)[0].as_py()

    def search(self, text: str, most: int) -> Found:
        """Return what holds `text`, which is in lower case, with its commands if at most `most`."""
        needle = text.encode()
        with ThreadPoolExecutor(_THREADS) as pool:
            marks = b"".join(pool.map(lambda batch: _holders(batch, needle), self._texts))
            places = list(pool.map(lambda batch: _places(batch, marks), self._commands))
            n = sum(map(len, places))
            commands = None
            if n <= most:
                picked = pool.map(pa.RecordBatch.take, self._commands, places)
                commands = pa.Table.from_batches(picked, self._schema)
        return Found(pc.indices_nonzero(_array(pa.uint8(), marks)), n, commands)


def _holders(batch: pa.RecordBatch, needle: bytes) -> bytearray:
    texts = batch.column(1)
    _, offsets, data = texts.buffers()
    at = _numbers(offsets, "i")[texts.offset : texts.offset + len(texts) + 1]
    return _native.holders(b"" if data is None else _numbers(data, "B"), at, needle)


def _places(batch: pa.RecordBatch, marks: bytes) -> pa.Array:
    codes = batch.column("text")
    at = _numbers(codes.buffers()[1], "I")[codes.offset : codes.offset + len(codes)]
    return _array(pa.uint32(), _native.marked(marks, at))


def _numbers(buffer: pa.Buffer, form: Literal["B", "i", "I"]) -> memoryview[int]:
    return memoryview(buffer).cast("B").cast(form)


def _array(type_: pa.DataType, values: bytes | bytearray) -> pa.Array:
    size = len(values) * 8 // type_.bit_width
    return pa.Array.from_buffers(type_, size, [None, pa.py_buffer(values)])


def _write(cursor: duckdb.DuckDBPyConnection, path: Path, sql: str, rows: int) -> None:
    reader = cursor.sql(sql).to_arrow_reader(rows)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch)


def _mapped(path: Path) -> tuple[pa.Schema, list[pa.RecordBatch]]:
    file = pa.ipc.open_file(pa.memory_map(str(path)))
    return file.schema, [file.get_batch(number) for number in range(file.num_record_batches)]
