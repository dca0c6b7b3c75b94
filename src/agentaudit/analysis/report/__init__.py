"""The evidence report: one HTML file, and the same as PDF/A, for an auditor who does not trust us.

`gather` computes all facts once, bounded; `page` and `paper` only draw them, so both say the same.
Nothing in it depends on the clock or the machine that made it: from the same archive, question
and keys come the same bytes, and whoever has those can make it again and compare.
"""

from agentaudit.analysis.report.facts import Facts
from agentaudit.analysis.report.made import Report

__all__ = ["Facts", "Report"]
