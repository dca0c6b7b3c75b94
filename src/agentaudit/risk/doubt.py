"""What may be otherwise than a catalogue says, since it was read.

A catalogue is of one moment, and statements change what names stand for. What is in doubt is known
by its name alone, in whatever schema: too much in doubt hides too much, too little shows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Doubt:
    """What may have been made, replaced, renamed or changed since a catalogue was read.

    `names` are those of relations and types in whatever schema; `settings` says that a setting,
    a sequence or an advisory lock may hold a masked value.
    """

    everything: bool = False
    names: frozenset[str] = frozenset()
    functions: frozenset[str] = frozenset()
    operators: frozenset[str] = frozenset()
    settings: bool = False

    def __or__(self, other: Doubt) -> Doubt:
        if other is NO_DOUBT or other == self:
            return self
        return Doubt(
            self.everything or other.everything,
            self.names | other.names,
            self.functions | other.functions,
            self.operators | other.operators,
            self.settings or other.settings,
        )


NO_DOUBT: Final = Doubt()
EVERYTHING: Final = Doubt(everything=True)
