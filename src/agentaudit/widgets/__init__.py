"""Views of an archive for notebooks: one class a widget, each over a `Case`, each usable alone."""

from agentaudit.widgets.approvals import Approvals
from agentaudit.widgets.explorer import CommandFilter, Explorer, Timeline
from agentaudit.widgets.integrity import Integrity
from agentaudit.widgets.masking_preview import MaskingPreview
from agentaudit.widgets.replay import Replay
from agentaudit.widgets.retention_report import RetentionReport

__all__ = [
    "Approvals",
    "CommandFilter",
    "Explorer",
    "Integrity",
    "MaskingPreview",
    "Replay",
    "RetentionReport",
    "Timeline",
]
