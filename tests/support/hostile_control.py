"""A control API whose every answer is made of hostile texts: what agents wrote, or a liar says."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from hashlib import sha256
from typing import Any
from uuid import uuid4

from agentaudit.archive import canonical
from tests.client.served import Answer, Says, Served, served
from tests.support.hostile import CASES


def waiting(text: str) -> dict[str, Any]:
    """Return a request as a control API tells it, of which every text is this one."""
    statement = {
        "text": text,
        "params": [text, None],
        "class": "write",
        "operation": text,
        "resources": [text],
        "risk": [text],
        "decision": "hold",
        "estimate": {"rows": None, "why": text, "tables": {text: 7}},
        text: text,
    }
    shown = {
        "session": text,
        "command": 0,
        "target": text,
        "protocol": text,
        "user": text,
        "issuer": text,
        "agent": text,
        "actor_chain": [text, "somebody"],
        "client_addr": text,
        "client_app": text,
        "rule": text,
        "statements": [statement],
        "transaction": {"status": "T", "before": [{"text": text, "status": text}]},
        "reported": {"search_path": text, "session_authorization": text},
        "settings": [text],
        f"new {text}": {text: text},
    }
    person = {"user": text, "subject": text, "issuer": text, "agent": text}
    now_us = time.time_ns() // 1_000
    return {
        "id": str(uuid4()),
        "kind": "hold",
        "state": "pending",
        "target": text,
        "rule": text,
        "requester": person,
        "approvers": [text],
        "approvals": 2,
        "class": "write",
        "shown": shown,
        "digest": sha256(canonical.encode(shown)).hexdigest(),
        "reason": text,
        "session_id": str(uuid4()),
        "requested_at": now_us,
        "expires_at": now_us + 3_600_000_000,
        "votes": [{"approver": person, "verdict": text, "reason": text, "at": now_us}],
        "may_decide": True,
    }


def control_api(requests: list[dict[str, Any]]) -> AbstractContextManager[Served]:
    """Serve a control API at which `requests` wait, and that refuses decisions at length."""
    refused = {"error": CASES[0].text, "hint": CASES[1].text}
    texts = [case.text for case in CASES]
    person = requests[0]["requester"]
    answers: dict[str, Answer] = {
        "GET /v1/requests": Says(requests),
        "GET /v1/grants": Says([_grant(text, person) for text in texts]),
        "GET /v1/sessions/live": Says([_live(text) for text in texts]),
        "GET /v1/blocks": Says([_block(text) for text in texts]),
        "GET /v1/stream": Says(_stream(texts), headers={"Content-Type": "text/event-stream"}),
        "GET /v1/archive": Says({"logs": texts}),
    }
    for one in requests:
        answers[f"GET /v1/requests/{one['id']}"] = Says(one)
        answers[f"POST /v1/requests/{one['id']}/decision"] = Says(refused, 409)
    return served(answers)


def _grant(text: str, person: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": str(uuid4()),
        "request_id": str(uuid4()),
        "actor": person | {"user": text},
        "target": text,
        "classes": [text],
        "resources": [text],
        "starts_at": 1,
        "ends_at": 2,
        "revoked_at": 1,
        "revoked_by": text,
        "in_force": False,
    }


def _live(text: str) -> dict[str, Any]:
    names = dict.fromkeys(("gateway", "user", "agent", "target", "protocol", "client_addr"), text)
    return names | {"session_id": str(uuid4()), "opened_at": 1}


def _block(text: str) -> dict[str, Any]:
    names = dict.fromkeys(("issuer", "subject", "user", "by", "reason"), text)
    return names | {"id": str(uuid4()), "at": 1}


def _stream(texts: Sequence[str]) -> bytes:
    """Return what a stream says of each text, and that the token is over."""
    lines = []
    for text in texts:
        told = dict.fromkeys(("target", "user", "class", "status", "text", "state", "id"), text)
        told |= dict.fromkeys(("close_reason", "session_id", "statement", "why"), text)
        data = json.dumps(told | {text: 1})
        events = ("command", "session", "hold", "gap")
        lines += [f"event: {event}\ndata: {data}\n\n" for event in events]
    lines.append('event: end\ndata: {"why": "the token has expired"}\n\n')
    return "".join(lines).encode()
