"""What SSH hands to a shell, as a command of the archive: what it does, and what is hidden."""

from __future__ import annotations

from agentaudit.masking.masks import Masks
from agentaudit.model import Command, Span
from agentaudit.risk import shell


def classify(command: Command, text: str, state: shell.State = shell.EXEC) -> shell.State:
    """Say what a shell in `state` does that is handed `text`; return what its next line finds."""
    line = shell.classify(text, state)
    command.cls, command.confidence, command.parser = line.cls, line.confidence, line.parser
    command.fingerprint, command.resources = line.fingerprint, line.resources
    command.paths = tuple(path for path in line.writes if path.startswith(("/", "~")))
    first = f"contains {line.operation}"
    found = (risk for risk in line.risk if risk != first)
    command.risk = (first, *found) if line.operation else tuple(found)
    return line.after


def hide(command: Command, masks: Masks, text: str) -> tuple[bytes, tuple[Span, ...]]:
    """Give a command its text, masked, and mask what is told of it; return that text as bytes."""
    raw = text.encode("utf-8", "replace")
    shown, found = masks.mask(raw)
    command.text = shown.decode("utf-8", "replace")
    hidden = {raw[each.start : each.stop].decode("utf-8", "replace") for each in found}

    def without(words: str) -> str:
        for each in hidden:
            words = words.replace(each, "***")
        return masks.mask_text(words)

    command.resources = tuple(map(without, command.resources))
    command.paths = tuple(map(without, command.paths))
    command.risk = tuple(map(without, command.risk))
    if found:
        command.fingerprint = ""  # it could be tried for what is hidden
    spans = []
    for number, each in enumerate(found):
        before = masks.replaced(raw[: each.start], found[:number])
        spans.append(Span(each.rule, "payload", len(before), each.stop - each.start))
    return shown, tuple(spans)
