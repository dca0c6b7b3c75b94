"""What Prometheus is told: counts of what the state knows, and no label that a client chooses."""

from __future__ import annotations

from collections import Counter as Count
from functools import partial
from typing import Final

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from agentaudit.gateway.state import State
from agentaudit.gateway.webhooks import COUNTS
from agentaudit.settings.whole import Settings

__all__ = ["CONTENT_TYPE_LATEST", "exposition"]

_KINDS: Final = ("hold", "access")


def exposition(state: State, settings: Settings) -> bytes:
    """Return the counts of now, in Prometheus's text format.

    Labels are names of the settings: targets and gateways that they do not know are counted as
    `other`.
    """
    counts = CollectorRegistry()
    gauge = partial(Gauge, registry=counts)
    targets = {target.name for target in settings.target}
    sessions = gauge(
        "agentaudit_sessions_open",
        "Sessions that are open",
        ["gateway", "target"],
    )
    names = set(settings.gateway.names)
    open_: Count[tuple[str, str]] = Count()
    for live in state.live():
        gateway = live.gateway if live.gateway in names else "other"
        open_[gateway, live.target if live.target in targets else "other"] += 1
    for (gateway, target), count in open_.items():
        sessions.labels(gateway, target).set(count)
    pending = gauge(
        "agentaudit_requests_pending",
        "Holds and access requests that wait for a decision",
        ["kind", "target"],
    )
    waiting: Count[tuple[str, str]] = Count()
    for request in state.requests(state="pending"):
        waiting[request.kind, request.target if request.target in targets else "other"] += 1
    for kind in _KINDS:
        for target in [*sorted(targets), "other"]:
            pending.labels(kind, target).set(waiting[kind, target])
    gauge("agentaudit_blocks", "Actors that may open no session").set(len(state.blocks()))
    return generate_latest(counts) + generate_latest(COUNTS)
