"""Explorer and Timeline at scale, without a widget: filters, an index of all commands, answers.

`Filter` says which commands are meant, and which SQL and Python stand for that. `Index` keeps what
a screen of ten million commands needs in a private file, and answers named questions with a few
facts and with Arrow for what is drawn. Nothing here takes SQL from whoever asks.
"""

from __future__ import annotations

from agentaudit.analysis.explore.answers import Rebuilt, Superseded
from agentaudit.analysis.explore.filters import Filter
from agentaudit.analysis.explore.index import Answer, Index

__all__ = ["Answer", "Filter", "Index", "Rebuilt", "Superseded"]
