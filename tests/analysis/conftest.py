"""Fixtures of these tests: an archive with two known sessions, and a case over it."""

from __future__ import annotations

import pytest

import agentaudit
from tests.analysis.recording import Recorded, recorded

__all__ = ["case", "recorded"]


@pytest.fixture
def case(recorded: Recorded) -> agentaudit.Case:
    return agentaudit.load(recorded.path)
