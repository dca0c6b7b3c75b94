"""Plays the attacks, one after the other, each on a copy of its own, and asks `verify`.

The real `verify` is asked as an auditor would: fast, and in depth where that found nothing.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentaudit.archive.drill.attacker import Attacker
from agentaudit.archive.drill.attacks import ATTACKS, Answer, Attack, Base, Knows
from agentaudit.archive.drill.machine import Machine
from agentaudit.archive.drill.stage import Stage, Taken, build
from agentaudit.archive.verify import verify
from agentaudit.errors import AgentauditError, ArchiveError

_MAX_WORDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What one auditor was told: the answer, by which check, in which words."""

    answer: Answer
    expected: Answer
    deep: bool
    checks: tuple[str, ...]
    words: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether what is promised was kept: caught, or at least not vouched for."""
        if self.expected is Answer.MISSED or self.answer is self.expected:
            return True
        return self.answer is Answer.CAUGHT

    def to_json(self) -> dict[str, Any]:
        """Return what is printed of it as JSON."""
        return {
            "answer": self.answer,
            "expected": self.expected,
            "deep": self.deep,
            "checks": list(self.checks),
            "words": list(self.words[:_MAX_WORDS]),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one attack; `failed` says why it could not be played."""

    attack: Attack
    without: Reply | None = None
    anchored: Reply | None = None
    failed: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether what is promised was kept; None where it could not be played."""
        if self.without is None or self.anchored is None:
            return None
        return self.without.holds and self.anchored.holds

    def to_json(self) -> dict[str, Any]:
        """Return what is printed of it as JSON."""
        attack = self.attack
        return {
            "attack": attack.name,
            "power": attack.power,
            "does": attack.does,
            "knows": attack.knows,
            "catchable": attack.is_catchable,
            "holds": self.holds,
            "without": None if self.without is None else self.without.to_json(),
            "anchored": None if self.anchored is None else self.anchored.to_json(),
            "why": attack.why,
            "failed": self.failed,
        }


@dataclass(frozen=True, slots=True)
class Report:
    """The drill's result."""

    taken: Taken
    outcomes: tuple[Outcome, ...]

    @property
    def ok(self) -> bool | None:
        """True: all that is listed as catchable was caught. None: some could not be played."""
        kept = [outcome.holds for outcome in self.outcomes]
        if False in kept:
            return False
        return None if None in kept else True


Progress = Callable[[str, int, int], None]
"""Takes which attack is played, how many were, and how many there are."""


def drill(
    archive: Path | str,
    *,
    attacks: Sequence[Attack] = tuple(ATTACKS),
    progress: Progress | None = None,
) -> Report:
    """Play `attacks` on a copy of the archive at `archive`, which is only read.

    The copy lies in a temporary folder; its log is signed anew with keys of the drill.

    Raises:
        ArchiveError: there is no sound archive there.
        RecordingError: the copy cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="agentaudit-drill-") as folder:
        try:
            stage = build(Path(archive), Path(folder))
        except OSError as error:
            raise ArchiveError(f"the drill's copy in {folder}: {error.strerror}") from error
        outcomes = []
        for number, one in enumerate(attacks):
            if progress is not None:
                progress(one.name, number, len(attacks))
            outcomes.append(play(stage, one))
        if progress is not None:
            progress("drill", len(attacks), len(attacks))
        return Report(stage.taken, tuple(outcomes))


def play(stage: Stage, attack: Attack) -> Outcome:
    """Play one attack on a copy of the stage, and return what auditors were told."""
    machines = {
        Base.YESTERDAY: stage.yesterday,
        Base.LIVE: stage.live,
        Base.TODAY: stage.today,
        Base.PURGED: stage.purged,
    }
    gateway = stage.other if attack.base is Base.PURGED else stage.gateway
    machine = machines[attack.base].copy_to(stage.folder / attack.name)
    try:
        attack.play(Attacker(machine, stage, attack.power, gateway))
        kept = machines[attack.kept or _last_seen(attack)].checkpoint(gateway)
        return Outcome(
            attack=attack,
            without=_ask(stage, machine, attack, None),
            anchored=_ask(stage, machine, attack, kept),
        )
    except (AgentauditError, OSError) as error:
        return Outcome(attack=attack, failed=str(error))
    finally:
        shutil.rmtree(machine.folder)


def _last_seen(attack: Attack) -> Base:
    """Return the last time at which the attacked log could be seen before it was attacked."""
    return Base.TODAY if attack.base is Base.YESTERDAY else attack.base


def _ask(stage: Stage, machine: Machine, attack: Attack, kept: str | None) -> Reply:
    keys: list[str] = {
        Knows.KEYS: stage.verifier_keys(),
        Knows.WITNESS: stage.verifier_keys(),
        Knows.LOG_KEY: [key for key in stage.verifier_keys() if "/epoch+" not in key],
        Knows.ONE_GATEWAY: stage.today.verifier_keys(stage.other),
        Knows.NOTHING: [],
    }[attack.knows]
    policy = stage.trust_policy() if attack.knows is Knows.WITNESS else None
    expected = attack.without if kept is None else attack.anchored
    for deep in (False, True):
        try:
            found = verify(
                machine.archive, key=keys, since=kept, policy=policy, deep=deep, remember=False
            )
        except ArchiveError as error:
            return Reply(
                answer=Answer.UNSURE, expected=expected, deep=deep, checks=(), words=(str(error),)
            )
        if found.findings:
            break
    answer = {False: Answer.CAUGHT, None: Answer.UNSURE, True: Answer.MISSED}[found.ok]
    return Reply(
        answer=answer,
        expected=expected,
        deep=deep,
        checks=tuple(dict.fromkeys(finding.check for finding in found.findings)),
        words=tuple(str(finding) for finding in found.findings),
    )
