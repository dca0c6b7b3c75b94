"""Detectors that somebody else wrote: the entry points of the group `agentaudit.maskers`.

An entry point is called once without arguments and returns a `masking.scan.Finder`. Its name, in a
mask's `detect`, is what asks for it; docs/masking.md has one around Microsoft Presidio.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from importlib.metadata import entry_points
from typing import Final

from agentaudit.masking.scan import Finder

GROUP: Final = "agentaudit.maskers"


def plugged_in(names: Collection[str]) -> Mapping[str, Finder]:
    """Return the plug-ins among `names`.

    Raises:
        Exception: whatever a plug-in raises when it is loaded: without it, nothing starts.
    """
    if not names:
        return {}
    return {each.name: each.load()() for each in entry_points(group=GROUP) if each.name in names}
