"""The server extension's routes, asked by HTTP: who may, what is given, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
import uuid
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
from jupyter_server.base.handlers import APIHandler

import agentaudit
from agentaudit.demo.processes import until
from agentaudit.jupyter.components import COMPONENTS, FIRST_RULES
from agentaudit.jupyter.routes import MAX_BODY_BYTES, ROUTES
from agentaudit.widgets.replay import ReplayQuestions
from tests.analysis.recording import Recorded
from tests.archive.purging import apply_for_days, split
from tests.archive.purging import recorded as record_for_days
from tests.archive.recording import new_site, retention
from tests.jupyter.conftest import SAMPLE, Server, serving, unframed

CASE = agentaudit.load(SAMPLE)
SESSION = str(CASE.sql("FROM sessions ORDER BY commands DESC LIMIT 1").fetchall()[0][0])
(RETURNS,) = CASE.sql(
    "SELECT min(command_no) FROM commands WHERE session_id = $s AND rows_returned > 1",
    {"s": SESSION},
).fetchall()[0]
SOME = {
    "archive": "0" * 24,
    "job": "0" * 24,
    "component": "replay",
    "session": SESSION,
}


def every_request() -> Iterator[tuple[str, str]]:
    """Yield method and address of each thing that a route of ours does."""
    for pattern, route in ROUTES:
        address = re.sub(r"\(\?P<(\w+)>(?:\[[^]]*\](?:\{\d+\}|\+)-?)+\)", _sample, pattern)
        address = address.replace("(?:", "").replace(")?", "").lstrip("/")
        assert re.fullmatch(pattern, "/" + address), (pattern, address)
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"):
            if getattr(route, method.lower()) is not getattr(APIHandler, method.lower()):
                yield method, address


def _sample(match: re.Match[str]) -> str:
    return SOME[match[1]]


REQUESTS = sorted(every_request())


def test_every_route_is_looked_at() -> None:
    assert len({address for _, address in REQUESTS}) == len(ROUTES)
    assert len(REQUESTS) >= len(ROUTES)


@pytest.mark.parametrize(("method", "address"), REQUESTS)
def test_nobody_gets_anything_without_jupyters_authentication(
    server: Server, method: str, address: str
) -> None:
    for headers in ({}, {"Authorization": "token wrong"}):
        said = httpx.request(method, server.url + address, headers=headers, content=b"{}")
        # Without a token and without a cookie XSRF is looked at first; both are 403.
        assert said.status_code == 403, (method, address)
        assert "archives" not in said.text


@pytest.mark.parametrize(
    ("method", "address"), [one for one in REQUESTS if one[0] not in ("GET", "HEAD")]
)
def test_what_changes_anything_needs_the_xsrf_token_of_a_browser(
    server: Server, method: str, address: str
) -> None:
    with httpx.Client(base_url=server.url) as browser:
        # As a browser does: log in by the address, and have a cookie from then on.
        browser.get("login", params={"token": server.token}, follow_redirects=True)
        assert browser.get("agentaudit/archives").status_code == 200
        said = browser.request(method, address, content=b"{}")
        assert said.status_code == 403
        assert "XSRF" in said.text or "_xsrf" in said.text
        token = browser.cookies.get("_xsrf")
        assert token
        said = browser.request(method, address, content=b"{}", headers={"X-XSRFToken": token})
        assert said.status_code != 403


def test_archives_below_the_root_are_found_and_named_by_an_id(server: Server) -> None:
    (one,) = server.archives().values()
    assert (one["path"], one["name"], one["is_below_root"]) == ("work/archive", "archive", True)
    assert one["key"] == "archive.vkey"
    assert str(server.root) not in json.dumps(one)


def test_archives_elsewhere_are_those_of_the_configuration_alone(
    tmp_path: Path, recorded: Recorded
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(recorded.path)
    (root / ".hidden").mkdir()
    shutil.copytree(SAMPLE, root / ".hidden" / "archive")
    with serving(root, tmp_path, f"--AgentauditApp.archives={recorded.path}") as server:
        (one,) = server.archives().values()
        assert one["path"] == str(recorded.path)
        assert not one["is_below_root"]
        rows = server.ask(f"{one['id']}/sessions", "list").data["rows"]
        assert [row["session_id"] for row in rows] == list(recorded.sessions[::-1])
        for path in ("link", ".hidden/archive"):
            assert server.http.post("agentaudit/archives", json={"path": path}).status_code == 404


@pytest.mark.parametrize(
    "path",
    ["..", "../..", "work/../../..", "/etc", "work/archive/../../../x", "~", "work\\..", "a\0b"]
    + ["plain", "missing", "work/archive/FORMAT", "x" * 5_000, "/".join("x" * 3_000)],
)
def test_a_path_that_leads_elsewhere_is_refused(server: Server, path: str) -> None:
    said = server.http.post("agentaudit/archives", json={"path": path})
    assert said.status_code == 404
    assert str(server.root.parent) not in said.text
    (one,) = server.archives().values()
    asked = {"archive": one["id"], "folder": path}
    if path not in ("plain",):
        said = server.http.post("agentaudit/investigation", json=asked)
        assert said.status_code == 400, said.text


def test_a_folder_of_the_file_browser_becomes_an_archive_by_its_path(server: Server) -> None:
    (one,) = server.archives().values()
    assert server.http.post("agentaudit/archives", json={"path": "work/archive"}).json() == one


def test_an_archive_that_became_a_link_is_no_longer_asked(tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(SAMPLE, root / "archive")
    outside = tmp_path / "outside"
    shutil.copytree(SAMPLE, outside)
    with serving(root, tmp_path) as server:
        (one,) = server.archives().values()
        shutil.rmtree(root / "archive")
        (root / "archive").symlink_to(outside)
        said = server.http.post(
            f"agentaudit/questions/{one['id']}/sessions", json={"v": 1, "id": 1, "op": "open"}
        )
        assert said.status_code == 404


def test_a_replay_answers_as_it_does_in_a_notebook(server: Server) -> None:
    (one,) = server.archives().values()
    session = CASE.session(SESSION)
    where = f"{one['id']}/replay/{session.id}"
    expected: list[tuple[dict[str, Any], list[bytes]]] = []

    def ask(op: str, **args: Any) -> tuple[dict[str, Any], list[bytes]]:
        ReplayQuestions(session).answer(
            {"v": 1, "id": 7, "op": op, "args": args},
            lambda answer, buffers: expected.append((answer, buffers)),
        )
        return expected[-1]

    for op, args in (
        ("open", {}),
        ("index", {"offset": 0, "limit": 1000}),
        ("index", {"offset": 3, "limit": 5}),
        ("find", {"text": "select"}),
        ("command", {"command_no": RETURNS}),
        ("result", {"command_no": RETURNS, "offset": 0, "limit": 50}),
    ):
        answer = server.ask(where, op, **args)
        told, buffers = ask(op, **args)
        assert answer.told == json.loads(json.dumps(told))
        assert list(answer.buffers) == buffers
    assert any(buffers for _, buffers in expected)


def test_arrow_passes_through_a_frame_unchanged() -> None:
    from agentaudit.jupyter.framing import frame

    table = pa.table({"n": [1, 2, 3], "text": ["a", None, "\ud7ff"]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    stream = sink.getvalue().to_pybytes()
    answer = unframed(frame({"id": 1, "text": "\ud800é"}, [b"", stream, b"x"]))
    assert answer.told == {"id": 1, "text": "\ud800é"}
    assert answer.buffers == (b"", stream, b"x")
    assert pa.ipc.open_stream(answer.buffers[1]).read_all() == table


@pytest.mark.parametrize(
    ("where", "status"),
    [
        ("0" * 24 + "/sessions", 404),
        ("{id}/nothing", 404),
        ("{id}/__class__", 404),
        ("{id}/replay/not-a-session", 404),
        ("{id}/../archives", 405),
        ("work%2Farchive/sessions", 404),
        ("{id}/sessions?page=../../x", 404),
        ("{id}/sessions?page=" + "x" * 65, 404),
    ],
)
def test_what_is_no_view_of_an_archive_is_not_found(
    server: Server, where: str, status: int
) -> None:
    (one,) = server.archives().values()
    address = f"agentaudit/questions/{where.format(id=one['id'])}"
    said = server.http.post(address, json={"v": 1, "id": 1, "op": "open"})
    assert said.status_code in (status, 404)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"open"',
        b"\xff\xfe",
        b'{"v": 2, "id": 1, "op": "open"}',
        b'{"v": 1, "batch": [{"v": 1, "id": 1, "op": "open"}]}',
        b'{"id": 1, "op": "open"}',
        b"[" * 100_000,
        b'{"v": 1, "id": 1, "op": "open", "args": ' + b"[" * 30 + b"]" * 30 + b"}",
    ],
)
def test_what_is_no_question_is_refused(server: Server, body: bytes) -> None:
    (one,) = server.archives().values()
    said = server.http.post(f"agentaudit/questions/{one['id']}/sessions", content=body)
    assert said.status_code == 400
    assert "message" in said.json()


def test_a_body_that_is_too_long_is_refused(server: Server) -> None:
    (one,) = server.archives().values()
    body = json.dumps({"v": 1, "id": 1, "op": "list", "args": {"text": "x" * MAX_BODY_BYTES}})
    said = server.http.post(f"agentaudit/questions/{one['id']}/sessions", content=body)
    assert said.status_code == 413


@pytest.mark.parametrize(
    ("op", "args"),
    [
        ("answer", {}),
        ("_ask", {"name": "open", "args": {}}),
        ("__init__", {}),
        (None, {}),
        ({"a": 1}, {}),
        ("list", {"sql": "select 1"}),
        ("list", {"before": "'; drop table sessions"}),
        ("list", {"limit": "many"}),
        ("list", {"limit": 10**40}),
        ("list", [1, 2]),
        ("list", {"self": 1}),
        ("open", "text"),
    ],
)
def test_hostile_messages_get_an_error_and_nothing_else(server: Server, op: Any, args: Any) -> None:
    (one,) = server.archives().values()
    said = server.http.post(
        f"agentaudit/questions/{one['id']}/sessions",
        json={"v": 1, "id": "x", "op": op, "args": args},
    )
    assert said.status_code == 200
    answer = unframed(said.content)
    if op == "list" and args == {"limit": 10**40}:
        assert answer.told["ok"]  # bounded
        return
    assert not answer.told["ok"]
    assert answer.told["error"]
    assert "Traceback" not in server.log.read_text()


def test_a_session_that_is_not_there_is_an_answer_that_says_so(server: Server) -> None:
    (one,) = server.archives().values()
    answer = server.ask(f"{one['id']}/replay/{uuid.uuid4()}", "open")
    assert not answer.told["ok"]
    assert "not in this archive" in answer.told["error"]
    assert "a replay is of a session" in server.ask(f"{one['id']}/replay", "open").told["error"]


def test_a_purged_session_is_refused_and_the_rest_is_there(tmp_path: Path) -> None:
    policy = retention(orders={"keep": 30}, billing={"keep": 4000, "payload_keep": 30})
    site = new_site(tmp_path / "root" / "site")
    split(site, policy)
    record_for_days(site, policy)
    before = {row[0]: str(row[1]) for row in _users(site.archive)}
    apply_for_days(site)
    after = {row[0]: str(row[1]) for row in _users(site.archive)}
    gone = set(before) - set(after)
    assert gone
    with serving(tmp_path / "root", tmp_path) as server:
        one = next(iter(server.archives().values()))
        for user in gone:
            answer = server.ask(f"{one['id']}/replay/{before[user]}", "open")
            assert "not in this archive" in answer.told["error"]
            said = server.http.post(
                "agentaudit/investigation", json={"archive": one["id"], "session": before[user]}
            )
            assert said.status_code == 400
        assert server.ask(f"{one['id']}/replay/{after['pay0']}", "open").data["total"] == 2


def _users(archive: Path) -> list[Any]:
    case = agentaudit.load(archive)
    return list(case.sql('SELECT "user", session_id FROM sessions').fetchall())


def test_sessions_are_listed_and_searched(server: Server) -> None:
    (one,) = server.archives().values()
    where = f"{one['id']}/sessions"
    totals = server.ask(where, "open").data
    everything = CASE.sessions().pl()
    assert (totals["sessions"], totals["live"]) == (len(everything), 0)
    assert totals["commands"] == everything["commands"].sum()
    rows = server.ask(where, "list").data["rows"]
    assert [row["opened_at"] for row in rows] == sorted(
        (row["opened_at"] for row in rows), reverse=True
    )
    ids = [str(one) for one in everything["session_id"][:100]]
    assert [row["session_id"] for row in rows] == ids
    expected = CASE.sql("""
        SELECT DISTINCT session_id FROM commands WHERE text ILIKE '%integration_keys%'
    """).fetchall()
    assert expected
    found = server.ask(where, "list", text="INTEGRATION_keys", limit=500).data["rows"]
    assert {row["session_id"] for row in found} == {str(id) for (id,) in expected}
    found = server.ask(where, "list", text=SESSION[:13].upper()).data["rows"]
    assert SESSION in [row["session_id"] for row in found]
    rest = server.ask(where, "list", before=rows[1]["session_id"]).data["rows"]
    assert rest[: len(rows) - 2] == rows[2:]
    assert server.ask(where, "list", live=True).data["rows"] == []
    assert server.ask(where, "list", text="no such text").data["rows"] == []


def test_masks_are_tried_and_each_page_has_rules_of_its_own(server: Server) -> None:
    (one,) = server.archives().values()
    where = f"{one['id']}/masking"
    rules = '[[mask]]\nname = "mail"\ndetect = ["email"]\n'
    assert server.ask(where, "open", page="a").data["text"] == FIRST_RULES
    assert server.ask(where, "run", page="a", text=rules).told["ok"]
    assert server.ask(where, "open", page="a").data["text"] == rules
    assert server.ask(where, "open", page="b").data["text"] == FIRST_RULES


@pytest.mark.parametrize("component", sorted(COMPONENTS))
def test_every_component_can_be_asked(server: Server, component: str) -> None:
    (one,) = server.archives().values()
    session = f"/{SESSION}" if component == "replay" else ""
    assert server.ask(f"{one['id']}/{component}{session}", "open").told["ok"]


def verified(server: Server, archive: str, **asked: Any) -> dict[str, Any]:
    """Return a verification that has come to its end."""
    said = server.http.post("agentaudit/verify", json={"archive": archive} | asked)
    assert said.status_code == 202
    job = said.json()

    def told() -> dict[str, Any]:
        return dict(server.http.get(f"agentaudit/verify/{job['id']}").json())

    until(lambda: told()["state"] not in ("waiting", "running"), "verified")
    return told()


def test_an_archive_is_verified_and_the_list_says_so(server: Server) -> None:
    (one,) = server.archives().values()
    job = verified(server, one["id"], deep=True)
    assert job["state"] == "done", job
    result = job["result"]
    assert (result["ok"], result["is_consistent"], result["findings"]) == (None, True, [])
    assert result["sessions"] >= len(CASE.sessions().fetchall())
    assert (result["keys"], result["is_key_beside"]) == ([], True)
    (one,) = server.archives().values()
    assert (one["checked"]["ok"], one["checked"]["is_consistent"]) == (None, True)
    assert one["checked"]["job"] == job["id"]


def test_a_key_that_lies_beside_an_archive_never_counts_as_one_from_outside(
    tmp_path: Path,
) -> None:
    root = tmp_path / "root"
    shutil.copytree(SAMPLE, root / "archive")
    shutil.copy(SAMPLE.with_name("archive.vkey"), root)
    with serving(root, tmp_path) as server:
        (one,) = server.archives().values()
        assert verified(server, one["id"])["result"]["ok"] is None
    key = SAMPLE.with_name("archive.vkey")
    with serving(root, tmp_path, f"--AgentauditApp.keys={key}") as server:
        (one,) = server.archives().values()
        result = verified(server, one["id"])["result"]
        assert (result["ok"], result["keys"]) == (True, ["archive.vkey"])
        (one,) = server.archives().values()
        assert (one["checked"]["ok"], one["checked"]["is_consistent"]) == (True, False)
        # And a notebook that is begun there has it, too.
        written = server.http.post("agentaudit/investigation", json={"archive": one["id"]}).json()
        (cell,) = [
            "".join(each["source"])
            for each in json.loads((root / written["path"]).read_text())["cells"]
            if "parameters" in each["metadata"].get("tags", ())
        ]
        named: dict[str, Any] = {}
        exec(cell, named)
        assert (root / named["key"]).resolve() == key.resolve()


def test_what_was_changed_is_the_first_broken_link(tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(SAMPLE, root / "archive")
    shutil.copy(SAMPLE.with_name("archive.vkey"), root)
    changed = sorted((root / "archive" / "events").rglob("*.parquet"))[0]
    data = bytearray(changed.read_bytes())
    data[len(data) // 2] ^= 1
    changed.write_bytes(data)
    with serving(root, tmp_path) as server:
        (one,) = server.archives().values()
        result = verified(server, one["id"])["result"]
        assert result["ok"] is False
        assert changed.name in result["findings"][0]["place"]
        assert result["findings_count"] >= 1
        (one,) = server.archives().values()
        assert one["checked"]["ok"] is False


def test_an_investigation_is_a_notebook_of_its_own(server: Server) -> None:
    (one,) = server.archives().values()
    asked = {"archive": one["id"], "folder": "plain", "session": SESSION, "command": 12}
    paths = [server.http.post("agentaudit/investigation", json=asked).json()["path"] for _ in "ab"]
    assert paths[0] == f"plain/investigation-{SESSION[:13]}.ipynb"
    assert paths[1] == f"plain/investigation-{SESSION[:13]}-2.ipynb"
    document = json.loads((server.root / paths[0]).read_text())
    (parameters,) = [
        "".join(cell["source"])
        for cell in document["cells"]
        if "parameters" in cell["metadata"].get("tags", ())
    ]
    found: dict[str, Any] = {}
    exec(parameters, found)
    assert found["session"] == SESSION
    assert found["command"] == 12
    assert agentaudit.load(server.root / "plain" / found["archive"]).session(found["session"])
    # One lies beside the archive, and would vouch for whoever wrote it last.
    assert found["key"] is None
    for wrong in ({"command": -1}, {"command": True}, {"session": "x"}, {"command": "1; import"}):
        said = server.http.post("agentaudit/investigation", json=asked | wrong)
        assert said.status_code == 400


def reported(server: Server, asked: dict[str, Any]) -> dict[str, Any]:
    """Have a report made; return the job at its end."""
    said = server.http.post("agentaudit/report", json=asked)
    assert said.status_code == 202, said.text
    job = said.json()

    def told() -> dict[str, Any]:
        return dict(server.http.get(f"agentaudit/report/{job['id']}").json())

    until(lambda: told()["state"] not in ("waiting", "running"), "reported")
    return told()


def test_a_report_is_written_below_the_root_for_the_servers_user_alone(server: Server) -> None:
    (one,) = server.archives().values()
    asked = {"archive": one["id"], "folder": "plain", "scope": "sessions", "sessions": [SESSION]}
    for name in (f"report-{SESSION[:13]}", f"report-{SESSION[:13]}-2"):
        job = reported(server, asked)
        assert job["state"] == "done", job
        (file,) = job["result"]["files"]
        assert (file["path"], file["kind"]) == (f"plain/{name}.html", "html")
        path = server.root / file["path"]
        assert path.stat().st_mode & 0o777 == 0o600
        assert sha256(path.read_bytes()).hexdigest() == file["sha256"]
        assert f'data-session="{SESSION}"'.encode() in path.read_bytes()
        # The key that lies beside the archive came with it.
        assert (job["result"]["ok"], job["result"]["keys"]) == (None, [])
        assert str(server.root) not in json.dumps(job)


def test_a_report_is_about_what_was_asked_and_held_against_the_operators_keys(
    tmp_path: Path, recorded: Recorded
) -> None:
    root = tmp_path / "root"
    shutil.copytree(SAMPLE, root / "archive")
    shutil.copytree(recorded.path, root / "small")
    key = SAMPLE.with_name("archive.vkey")
    facts = CASE.session(SESSION).facts
    times = {"since": facts["opened_at"].isoformat(), "until": facts["closed_at"].isoformat()}
    with serving(root, tmp_path, f"--AgentauditApp.keys={key}") as server:
        one = server.archives()["archive"]
        about = {"scope": "time", **times, "user": facts["user"], "pdf": True}
        result = reported(server, {"archive": one["id"], **about})["result"]
        assert (result["ok"], result["verdict"], result["keys"]) == (True, "Verified", [key.name])
        assert result["sessions_asked"] == 1
        day = f"{facts['opened_at']:%Y-%m-%d}"
        names = [each["path"] for each in result["files"]]
        assert names == [f"report-{day}.html", f"report-{day}.pdf"]
        assert (root / names[1]).read_bytes().startswith(b"%PDF-1.7")
        # What a page asks for is what is asked in Python: the same bytes.
        mine = CASE.report(
            **times, user=facts["user"], key=key, names={"report": names[0], "keys": key.name}
        )
        assert mine.digests["html"] == result["files"][0]["sha256"]
        # The whole of another archive, which that key is not of.
        small = server.archives()["small"]
        result = reported(server, {"archive": small["id"], "scope": "archive"})["result"]
        assert result["sessions_asked"] == len(recorded.sessions)
        assert result["files"][0]["path"] == "report.html"
        assert result["ok"] is not True


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"scope": "sql"}, "scope: sessions, request, time or archive expected"),
        ({"scope": ["sessions"]}, "scope"),
        ({"scope": "sessions"}, "sessions: one id expected"),
        ({"scope": "sessions", "sessions": []}, "sessions: one id expected"),
        ({"scope": "sessions", "sessions": ["../../etc"]}, "a whole id expected"),
        ({"scope": "sessions", "sessions": [{"x": 1}]}, "a whole id expected"),
        ({"scope": "sessions", "sessions": [SESSION] * 51}, "up to 50"),
        ({"scope": "request", "request": "x"}, "a whole id expected"),
        ({"scope": "request"}, "a whole id expected"),
        ({"scope": "time"}, "a time, a user, an agent or a target expected"),
        ({"scope": "time", "since": "yesterday"}, "ISO 8601"),
        ({"scope": "time", "since": 5}, "since: text expected"),
        ({"scope": "time", "since": "2026-11-23", "until": "2026-11-22"}, "not before until"),
        ({"scope": "time", "user": "x" * 1_001}, "at most 1,000 characters"),
        ({"scope": "archive", "disclose": "secrets"}, "disclose"),
        ({"scope": "archive", "folder": ".."}, "no such folder"),
        ({"scope": "archive", "folder": "/etc"}, "no such folder"),
        ({"scope": "archive", "folder": "plain/none"}, "no such folder"),
        ({"scope": "archive", "folder": 3}, "folder: text expected"),
        ({"scope": "archive", "folder": "work/archive"}, "lies in an archive"),
        ({"scope": "archive", "folder": "work/archive/events"}, "lies in an archive"),
    ],
)
def test_what_no_report_is_about_or_nowhere_written_is_refused(
    server: Server, wrong: dict[str, Any], said: str
) -> None:
    (one,) = server.archives().values()
    answer = server.http.post("agentaudit/report", json={"archive": one["id"], **wrong})
    assert answer.status_code == 400, answer.text
    assert said in answer.json()["message"]


def test_a_report_that_cannot_be_made_says_why_and_leaves_no_file(server: Server) -> None:
    (one,) = server.archives().values()
    before = sorted(server.root.rglob("*.html"))
    other = str(uuid.uuid4())
    for about, said in (
        ({"scope": "sessions", "sessions": [other]}, other),
        ({"scope": "request", "request": other}, "not in this archive"),
    ):
        job = reported(server, {"archive": one["id"], **about})
        assert (job["state"], job["result"]) == ("failed", None)
        assert said in job["error"]
    # An investigation is not written into an archive either.
    asked = {"archive": one["id"], "folder": "work/archive", "session": SESSION}
    said = server.http.post("agentaudit/investigation", json=asked)
    assert (said.status_code, "lies in an archive" in said.json()["message"]) == (400, True)
    assert sorted(server.root.rglob("*.html")) == before


def test_nothing_recorded_and_no_token_is_in_the_servers_log(server: Server) -> None:
    (one,) = server.archives().values()
    where = f"{one['id']}/replay/{SESSION}"
    server.ask(where, "command", command_no=RETURNS)
    server.ask(f"{one['id']}/sessions", "list", text="a secret that is searched for", limit="x")
    log = server.log.read_text()
    assert "a question failed: ValueError" in log
    assert "a secret that is searched for" not in log
    assert str(CASE.session(SESSION).facts["user"]) not in log
    assert "SELECT" not in log


def test_without_a_control_api_there_are_no_approvals_and_no_error(server: Server) -> None:
    told = server.http.get("agentaudit/approvals").json()
    assert told == {"has_control": False, "may_decide": True}
    said = server.http.post("agentaudit/approvals", json={"v": 1, "id": 1, "op": "pending"})
    answer = unframed(said.content)
    assert "no control API is named" in answer.told["error"]
