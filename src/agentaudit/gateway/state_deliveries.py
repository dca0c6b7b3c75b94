"""What webhooks were told, and what they are still to be told; a part of `State`.

There is no queue: what is to be told follows from the requests, and a row here says that it was. So
a process that dies between a delivery and its row tells it once more, and never too little.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, Literal
from uuid import UUID

from sqlalchemy import ColumnElement, insert, select

from agentaudit.gateway import state_rows as rows
from agentaudit.gateway.state_database import Part
from agentaudit.gateway.state_requests import requests_that
from agentaudit.gateway.state_rows import Request
from agentaudit.gateway.state_tables import deliveries, requests

Told = Literal["hold", "access", "decision"]
"""What a webhook is told of: a statement that waits, access that was asked for, how it ended."""

MOST: Final = 200


class Deliveries(Part):
    """What webhooks were told; a part of `State`."""

    def undelivered(
        self,
        webhook: str,
        *,
        gateways: Collection[str],
        events: Collection[Told],
        now_us: int,
        since_us: int,
        limit: int = MOST,
    ) -> list[tuple[Told, Request]]:
        """Return what `webhook` is still to be told of the requests of `gateways`, oldest first.

        Of a request that waits, where it was made after `since_us`; of one that ended, where that
        was after it. At most `limit` of each event, which are the newest.
        """
        found: list[tuple[Told, Request]] = []
        with self._database.reading() as connection:
            for event in events:
                told = select(deliveries.c.request_id).where(
                    deliveries.c.webhook == webhook, deliveries.c.event == event
                )
                wanted: list[ColumnElement[bool]] = [
                    requests.c.gateway.in_(list(gateways)),
                    requests.c.id.not_in(told),
                ]
                if event == "decision":
                    wanted += [requests.c.state != "pending", requests.c.decided_us > since_us]
                else:
                    wanted += [
                        requests.c.state == "pending",
                        requests.c.kind == event,
                        requests.c.requested_us > since_us,
                        requests.c.expires_us > now_us,
                    ]
                found += [(event, each) for each in requests_that(connection, *wanted, limit=limit)]
        return sorted(found, key=_began)

    def delivered(self, webhook: str, event: Told, request_id: UUID, *, now_us: int) -> None:
        """Keep that `webhook` was told; a request that is gone needs no such row."""
        key = {"request_id": request_id, "webhook": rows.name("the webhook", webhook)}
        key["event"] = event
        with self._database.writing() as connection:
            there = select(deliveries.c.request_id).filter_by(**key)
            known = select(requests.c.id).where(requests.c.id == request_id)
            if connection.execute(there).first() or not connection.execute(known).first():
                connection.rollback()
                return
            connection.execute(
                insert(deliveries), key | {"delivered_us": rows.time("the time", now_us)}
            )


def _began(told: tuple[Told, Request]) -> int:
    event, request = told
    return request.decided_us if event == "decision" else request.requested_us
