"""The client of the control API, against servers that are broken, hostile or not there.

What it is for is tested beside a gateway, in `tests/test_cli_access.py`.
"""

from __future__ import annotations

import json
import time
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from agentaudit.archive import canonical
from agentaudit.cli import main
from agentaudit.client import control as module
from agentaudit.client.control import Control
from agentaudit.errors import AgentauditError, ControlError, QuestionError, RefusedError
from tests.client.served import Says, served
from tests.peers.certificates import Authority

ID = UUID("01a2048e-a9f5-706c-b9f0-0d3c7f0bd1b7")


def request(id: object = ID, **changes: Any) -> dict[str, Any]:
    """Return a hold as the API tells of it."""
    statement = {"operation": "DELETE", "class": "write", "resources": ["t"], "text": "DELETE …"}
    shown = {"statements": [statement], "user": "ana", "target": "orders"}
    now_us = time.time_ns() // 1000
    return {
        "id": str(id),
        "kind": "hold",
        "state": "pending",
        "target": "orders",
        "rule": "r",
        "requester": {"user": "ana", "subject": "ana", "issuer": "https://idp.test"},
        "class": "write",
        "shown": shown,
        "digest": sha256(canonical.encode(shown)).hexdigest(),
        "requested_at": now_us,
        "expires_at": now_us + 60_000_000,
        "may_decide": True,
    } | changes


def test_what_is_asked_carries_the_token_and_nothing_is_asked_twice() -> None:
    with served({"GET /v1/requests": Says([request()])}) as api:
        (one,) = Control(api.url + "/", "t0ken").requests(state="pending", target="a&b")
    assert (one.id, one.cls, one.is_what_it_says) == (ID, "write", True)
    (asked,) = api.asked
    assert asked.path == "/v1/requests?state=pending&target=a%26b&limit=1000"
    assert asked.headers["Authorization"] == "Bearer t0ken"


def test_a_newer_gateway_may_say_more_and_an_older_one_less() -> None:
    told = request(news={"a": 1})
    del told["may_decide"]
    with served({f"GET /v1/requests/{ID}": Says(told)}) as api:
        one = Control(api.url, "t").request(ID)
    assert not one.may_decide
    assert one.model_dump(mode="json", by_alias=True)["news"] == {"a": 1}


def test_a_redirect_is_not_followed() -> None:
    with served({"GET /v1/grants": Says([])}) as elsewhere:
        to = {"Location": f"{elsewhere.url}/v1/grants"}
        with served({"GET /v1/grants": Says(b"", 307, to)}) as api, pytest.raises(ControlError):
            Control(api.url, "t").grants()
    assert elsewhere.asked == []


def test_no_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with served() as proxy, served({"GET /v1/grants": Says([])}) as api:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", "")
        assert Control(api.url, "t").grants() == []
    assert proxy.asked == []


@pytest.mark.parametrize(
    ("says", "said"),
    [
        (Says(b"[", headers={"Content-Length": "100"}), "IncompleteRead"),
        (Says(b"<html>"), "no JSON"),
        (Says(b"[" * 100_000), "no JSON"),
        (Says(b"[" + b" " * 5_000), "more than 4,000 bytes"),
        (Says({"a": 1}), "makes no sense"),
        (Says([{"id": "s3cret"}]), "makes no sense"),
        (Says(b"[", headers={"Content-Length": "99999"}, drips=True), "no answer within"),
        (Says(b"", 500), "HTTP status 500"),
        (Says({"error": "the state does not answer"}, 503), "the state does not answer"),
        (Says("no", 403), "HTTP status 403"),
    ],
)
def test_an_answer_that_is_of_no_use_is_an_error_in_time_and_without_its_content(
    says: Says, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ANSWER_BYTES", 200_000 if len(says.body) > 9_999 else 4_000)
    with served({"GET /v1/grants": says}) as api, pytest.raises(ControlError) as error:
        Control(api.url, "t", timeout_s=0.5 if says.drips else 30).grants()
    assert said in str(error.value)
    assert "s3cret" not in str(error.value)
    assert not isinstance(error.value, RefusedError)


def test_what_may_have_been_done_is_said_to_be_unknown() -> None:
    place = f"POST /v1/requests/{ID}/decision"
    with served({place: Says(b"")}) as api, pytest.raises(ControlError) as error:
        Control(api.url, "t").decide(ID, "approve", "r", "0" * 64)
    assert "whether it was done is not known" in error.value.hint


def test_a_refusal_is_the_apis_with_its_hint_and_status() -> None:
    says = Says({"error": "no such grant", "hint": "look", "kind": "NoSuchGrant"}, 404)
    with served({f"DELETE /v1/grants/{ID}": says}) as api, pytest.raises(RefusedError) as error:
        Control(api.url, "t").revoke(ID)
    refused = error.value
    assert (str(refused), refused.hint, refused.status) == ("no such grant", "look", 404)
    assert refused.is_final


@pytest.mark.parametrize(
    ("url", "token"),
    [
        ("http://gw.example.com", "t"),
        ("https://user:pass@gw.example.com", "t"),
        ("ftp://127.0.0.1", "t"),
        ("127.0.0.1:8470", "t"),
        ("http://127.0.0.1:1", "s3cret\r\nX-Evil: 1"),
        ("http://127.0.0.1:1", "s3cret é"),
        ("http://127.0.0.1:1", ""),
    ],
)
def test_no_token_goes_where_it_could_be_read_or_says_more_than_a_token(
    url: str, token: str
) -> None:
    with pytest.raises(QuestionError) as error:
        Control(url, token)
    assert "s3cret" not in str(error.value)


def test_a_certificate_is_checked_against_the_given_authority(
    authority: Authority, tmp_path: Path
) -> None:
    other = Authority(tmp_path, "another authority")
    with served({"GET /v1/grants": Says([])}, authority.server()) as api:
        assert Control(api.url, "t", ca_file=authority.file).grants() == []
        for wrong, said in ((other.file, "TLS:"), (None, "TLS:"), (tmp_path / "no", "No such")):
            with pytest.raises(ControlError, match=said):
                Control(api.url, "t", ca_file=wrong).grants()
        assert len(api.asked) == 1


# --- deciding, where the API is not what it should be ---------------------------------------------


def decide(
    api: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object
) -> tuple[int, str]:
    monkeypatch.setenv("AGENTAUDIT_TOKEN", "t")
    monkeypatch.setenv("AGENTAUDIT_CONTROL", api)
    status = main([*map(str, words), "--reason", "checked"])
    return status, capsys.readouterr().err


def test_nothing_is_decided_whose_digest_is_of_something_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    doctored = request()
    doctored["shown"]["statements"][0]["text"] = "DELETE FROM t WHERE false"
    with served({f"GET /v1/requests/{ID}": Says(doctored)}) as api:
        status, err = decide(api.url, monkeypatch, capsys, "approve", ID)
    assert status == 2
    assert "its digest is not that of what is shown" in err
    assert [asked.method for asked in api.asked] == ["GET"]


def test_what_is_sent_is_the_digest_of_what_was_fetched(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = request()
    with served({"GET /v1/requests": Says([one])}) as api:
        api.at(f"POST /v1/requests/{ID}/decision", Says(one | {"state": "approved"}))
        status, _ = decide(api.url, monkeypatch, capsys, "approve", str(ID)[:13])
    assert status == 0
    body = {"verdict": "approve", "reason": "checked", "digest": one["digest"]}
    assert json.loads(api.asked[-1].body) == body


def test_a_beginning_that_several_have_is_of_none_though_only_one_of_them_waits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # What somebody has seen is over, and what waits now begins like it.
    listed = [request(state="expired"), request(UUID(int=ID.int + 1))]
    with served({"GET /v1/requests": Says(listed)}) as api:
        status, err = decide(api.url, monkeypatch, capsys, "deny", str(ID)[:35])
    assert status == 2
    assert "several begin so" in err
    assert str(ID) in err
    assert "state=" not in api.asked[0].path
    assert len(api.asked) == 1


@pytest.mark.parametrize(
    "second", [{"class": "schema"}, {"target": "billing"}, {"kind": "access"}, {"class": ""}]
)
def test_a_mixed_batch_is_refused_here(
    second: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = [ID, UUID(int=ID.int + 1)]
    first = {"class": ""} if second == {"class": ""} else {}  # several statements each
    both = [request(ids[0], **first), request(ids[1], **second)]
    with served() as api:
        for id, one in zip(ids, both, strict=True):
            api.at(f"GET /v1/requests/{id}", Says(one))
        status, _ = decide(api.url, monkeypatch, capsys, "approve", *ids)
    assert status == 2
    assert {asked.method for asked in api.asked} == {"GET"}


def test_of_a_batch_some_may_not_be_decided(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = [ID, UUID(int=ID.int + 1)]
    answers = [{"id": str(ids[0]), "state": "denied"}, {"id": str(ids[1]), "error": "is over"}]
    with served({"POST /v1/decisions": Says(answers)}) as api:
        for id in ids:
            api.at(f"GET /v1/requests/{id}", Says(request(id)))
        status, err = decide(api.url, monkeypatch, capsys, "deny", *ids)
    assert status == 1
    assert "is over" in err


@pytest.mark.parametrize(("says", "status"), [(429, 2), (401, 2), (409, 1), (403, 1), (503, 2)])
def test_the_status_says_whether_the_answer_is_no_or_none(
    says: int, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with served({f"GET /v1/requests/{ID}": Says(request())}) as api:
        api.at(f"POST /v1/requests/{ID}/decision", Says({"error": "\x1b[2Jno"}, says))
        ended, err = decide(api.url, monkeypatch, capsys, "approve", ID)
    assert ended == status
    assert r"\x1b[2Jno" in err


def test_the_token_is_in_no_text_of_ours() -> None:
    api = Control("http://127.0.0.1:1", "s3cret")
    assert "s3cret" not in repr(api)
    with pytest.raises(AgentauditError) as error:
        api.grants()
    assert "s3cret" not in str(error.value) + error.value.hint
