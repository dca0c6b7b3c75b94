"""Where the times of an archive come from: the machine's clock, or one that a script moves.

A gateway that users run has the machine's clock: no setting, client or environment names another.
A `ScriptedClock` is given in code, by the entry that makes the sample archive
(`agentaudit.demo.scripted`). What was recorded under one says so for good: `genesis`, `start` and
`seal` name the kind of clock, and `verify` tells it.
"""

from __future__ import annotations

import mmap
import struct
import time
from pathlib import Path
from typing import Protocol

_SHIFTS = struct.Struct("=qq")


class Clock(Protocol):
    """Where time comes from; `genesis` names its kind, so that a scripted one shows."""

    kind: str

    def now_us(self) -> int:
        """Return microseconds since 1970, UTC."""
        ...

    def mono_ns(self) -> int:
        """Return nanoseconds that never go back."""
        ...


class SystemClock:
    """The machine's clock."""

    __slots__ = ("kind",)

    def __init__(self) -> None:
        self.kind = "system"

    def now_us(self) -> int:
        return time.time_ns() // 1000

    def mono_ns(self) -> int:
        return time.monotonic_ns()


class ScriptedClock:
    """The machine's clock, set to another time, and moved ahead whenever its script says so.

    It runs as the machine's does, so durations are real; the file at `path` says by how much it
    differs, to every process that has it open: the gateway, its sealer, the control API, and
    whatever else must agree with them.
    """

    def __init__(self, path: Path) -> None:
        """Follow the clock whose file `set_up` has made.

        Raises:
            OSError, ValueError: there is no such file, or it is none of a clock's.
        """
        self.kind = "scripted"
        self.path = path
        with path.open("r+b") as file:
            self._file = mmap.mmap(file.fileno(), _SHIFTS.size)

    @classmethod
    def set_up(cls, path: Path, start_us: int) -> ScriptedClock:
        """Make the file at `path` of a clock that says `start_us` now, and return the clock."""
        shift_us = start_us - time.time_ns() // 1000
        path.write_bytes(_SHIFTS.pack(shift_us, shift_us))
        return cls(path)

    def now_us(self) -> int:
        return time.time_ns() // 1000 + self._shifts()[1]

    def mono_ns(self) -> int:
        began_us, shift_us = self._shifts()
        # By what it was moved since it was set up, which is never back.
        return time.monotonic_ns() + (shift_us - began_us) * 1000

    def move(self, ahead_us: int) -> None:
        """Let it say so much more from now on, in all processes.

        Raises:
            ValueError: that would be back.
        """
        if ahead_us < 0:
            raise ValueError(f"{ahead_us} µs: a clock is moved ahead only")
        began_us, shift_us = self._shifts()
        _SHIFTS.pack_into(self._file, 0, began_us, shift_us + ahead_us)

    def _shifts(self) -> tuple[int, int]:
        began_us, shift_us = _SHIFTS.unpack_from(self._file, 0)
        return began_us, shift_us
