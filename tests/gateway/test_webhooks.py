"""Webhooks, against receivers on loopback that answer, fail, hang and say anything."""

from __future__ import annotations

import hmac
import http.server
import json
import os
import signal
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agentaudit.demo.processes import until
from agentaudit.errors import SettingsError
from agentaudit.gateway import webhooks
from agentaudit.gateway.webhooks import escaped, message
from agentaudit.settings.tables import Webhook
from tests.gateway.test_control import DELETES, People, Waiting, control_pids
from tests.peers.certificates import Authority
from tests.peers.gateway import GatewayFactory
from tests.peers.issuers import SigningIssuer
from tests.peers.postgres import PostgresPeer
from tests.peers.states import a_request, an_access, person

SECRET = "0123456789abcdef-secret"

Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


def status(number: int, **headers: str) -> Answer:
    def answer(to: http.server.BaseHTTPRequestHandler) -> None:
        to.send_response(number)
        for name, value in headers.items():
            to.send_header(name, value)
        to.end_headers()

    return answer


def garbage(to: http.server.BaseHTTPRequestHandler) -> None:
    to.wfile.write(b"\x00\xff" * 50_000)


class Receiver:
    """An HTTP server that keeps what it was sent, and answers as `answers` say, then 200."""

    def __init__(self, *answers: Answer, context: ssl.SSLContext | None = None) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.answers = list(answers)
        self.is_released = threading.Event()
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append((dict(self.headers) | {"path": self.path}, body))
                answer = receiver.answers.pop(0) if receiver.answers else status(200)
                answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if context is not None:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self._thread.start()

    @property
    def port(self) -> int:
        return self.server.server_address[1]

    @property
    def told(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.got]

    def events(self) -> list[str]:
        return [each["event"] for each in self.told]

    def hang(self, _: http.server.BaseHTTPRequestHandler) -> None:
        self.is_released.wait(60)

    def close(self) -> None:
        self.is_released.set()
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


@contextmanager
def receiving(*answers: Answer, context: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    receiver = Receiver(*answers, context=context)
    try:
        yield receiver
    finally:
        receiver.close()


Site = Callable[..., People]


@pytest.fixture
def site(
    gateway: GatewayFactory,
    postgres18: PostgresPeer,
    signing_issuer: SigningIssuer,
    tmp_path: Path,
) -> Iterator[Site]:
    """Start gateways whose deletes are held, with webhooks."""
    postgres18.execute(
        "DROP TABLE IF EXISTS victim",
        "CREATE TABLE victim AS SELECT generate_series(1, 5) AS n",
        "GRANT ALL ON victim TO PUBLIC",
        database="orders",
    )
    secret = tmp_path / "webhook"
    secret.write_text(SECRET + "\n")
    made: list[People] = []

    def start(*hooks: dict[str, Any]) -> People:
        gw = gateway(
            postgres18.target(),
            issuer=signing_issuer,
            listen={"control": "127.0.0.1:0"},
            tables={
                "rule": [DELETES],
                "roles": {"admin": ["root"]},
                "webhook": [{"secret_file": secret} | hook for hook in hooks],
            },
        )
        made.append(People(gw, signing_issuer))
        return made[-1]

    yield start
    for people in made:
        people.http.close()


def hold(people: People, sql: str = "DELETE FROM victim WHERE n > 99") -> dict[str, Any]:
    """Let a statement be held and denied; return its request."""
    waiting = Waiting(people, sql=sql)
    (request,) = people.pending(people.reviewer())
    people.decide(request, people.reviewer(), verdict="deny", reason="no <b>")
    waiting.result()
    return request


def test_a_receiver_is_told_what_waits_and_how_it_ended_with_a_signature(site: Site) -> None:
    with receiving() as receiver:
        people = site({"url": f"http://127.0.0.1:{receiver.port}/a b?"})
        waiting = Waiting(people, sql="DELETE FROM victim WHERE 'a<b' > '&`'")
        (request,) = people.pending(people.reviewer())
        until(lambda: receiver.events() == ["hold"], "it is told")
        people.decide(request, people.reviewer(), verdict="deny", reason="no <!channel>")
        waiting.result()
        until(lambda: len(receiver.got) == 2, "it is told how it ended")
        first, second = receiver.told
    assert first["request"]["id"] == request["id"]
    assert first["request"]["effects"][0]["operation"] == "DELETE"
    text = first["text"]
    assert text.index("DELETE (write)") < text.index("a&lt;b")
    assert f"`agentaudit approve {request['id']}`" in text
    assert "'a&lt;b' &gt; '&amp;''" in text
    assert (second["event"], second["request"]["state"]) == ("decision", "denied")
    assert "no &lt;!channel&gt;" in second["text"]
    for headers, body in receiver.got:
        assert headers["path"] == "/a%20b"
        at, _, v1 = headers["X-Agentaudit-Signature"].removeprefix("t=").partition(",v1=")
        assert abs(int(at) - time.time()) < 60
        mine = hmac.new(SECRET.encode(), at.encode() + b"." + body, "sha256").hexdigest()
        assert hmac.compare_digest(mine, v1)
    assert (
        receiver.got[0][0]["X-Agentaudit-Delivery"] != receiver.got[1][0]["X-Agentaudit-Delivery"]
    )


def test_over_tls_only_with_a_certificate_of_the_authority(
    site: Site, authority: Authority, tmp_path: Path
) -> None:
    own = authority.server()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own.certificate_file, own.key_file)
    with receiving(context=context) as receiver, receiving(context=context) as other:
        people = site(
            {"url": f"https://localhost:{receiver.port}/", "ca_file": authority.file},
            {"url": f"https://localhost:{other.port}/"},
        )
        hold(people)
        until(lambda: "decision" in receiver.events(), "it is told")
        until(lambda: "TLS: certificate verify failed" in people.gw.log_text(), "it is refused")
        assert other.got == []


def test_what_fails_is_told_again_with_the_same_delivery_and_redirections_lead_nowhere(
    site: Site,
) -> None:
    with receiving() as elsewhere:
        answers = [
            status(500),
            status(302, Location=f"http://127.0.0.1:{elsewhere.port}/"),
            garbage,
        ]
        with receiving(*answers) as receiver:
            people = site(
                {"url": f"http://127.0.0.1:{receiver.port}/hidden-path", "events": ["decision"]}
            )
            hold(people)
            until(lambda: len(receiver.got) == 4, "it is told until it says yes")
            token = people.issuer.token("root", ["root"])

            def counts() -> str:
                return people.ask("GET", "/metrics", token).text

            until(lambda: 'outcome="delivered",webhook="1"} 1.0' in counts(), "it is counted")
            assert 'outcome="failed",webhook="1"} 3.0' in counts()
            assert len({headers["X-Agentaudit-Delivery"] for headers, _ in receiver.got}) == 1
            assert receiver.events() == ["decision"] * 4
        assert elsewhere.got == []
    log = people.gw.log_text()
    assert "webhook answers again" in log
    for secret in ("hidden-path", "victim", SECRET):
        assert secret not in log


def test_one_that_hangs_delays_nobody_else(site: Site) -> None:
    with receiving() as good, receiving() as bad:
        bad.answers = [bad.hang] * 9
        people = site(
            {"url": f"http://127.0.0.1:{bad.port}/"}, {"url": f"http://127.0.0.1:{good.port}/"}
        )
        began = time.monotonic()
        hold(people)
        hold(people)
        until(lambda: good.events().count("decision") == 2, "the good one is told")
        assert time.monotonic() - began < webhooks.TIMEOUT_S
        assert len(bad.got) == 1


def test_after_a_restart_what_was_not_told_is_told_and_what_was_is_not(site: Site) -> None:
    with receiving() as receiver:
        hook = {"url": f"http://127.0.0.1:{receiver.port}/", "events": ["decision"]}
        people = site(hook)
        first = hold(people)
        until(lambda: len(receiver.got) == 1, "the first is told")
        receiver.answers = [status(503)] * 1000
        second = hold(people)
        until(lambda: len(receiver.got) >= 2, "the second is refused")

        def pids() -> list[int]:
            return control_pids(people)

        (before,) = pids()
        os.kill(before, signal.SIGKILL)
        until(lambda: bool(pids()) and pids() != [before], "another one starts")
        tried = len(receiver.got)
        receiver.answers = []
        until(lambda: len(receiver.got) > tried, "the second is told")
        third = hold(people)
        until(lambda: receiver.told[-1]["request"]["id"] == third["id"], "the third is told")
        ids = [each["request"]["id"] for each in receiver.told]
    assert ids.count(first["id"]) == 1
    assert ids[-2:] == [second["id"], third["id"]]


# --- what is said


def test_a_message_is_bounded_whatever_was_asked() -> None:
    each = {"operation": "DELETE" * 50, "class": "write", "risk": ["r" * 9999] * 99}
    each |= {"resources": ["t" * 9999] * 99, "text": "x" * 900_000}
    huge = a_request(
        shown={"statements": [each] * 500},
        requester=person("u" * 60_000),
        reason="<" * 60_000,
        approvers=("g" * 200,) * 500,
    )
    said = message("hold", huge)
    assert len(json.dumps(said)) < 200_000
    assert len(said["request"]["statement"]) == webhooks.MAX_STATEMENT_CHARACTERS + 1
    assert said["request"]["is_cut"]
    assert "and 490 statements more" in said["text"]
    assert "access to `orders` for" in message("access", an_access())["text"]


def test_what_people_read_is_not_obeyed() -> None:
    said = escaped("\x1b[2J\u202ea\u3164b<&>", 100)
    assert said == "\\x1b[2J\\u202ea\\u3164b&lt;&amp;&gt;"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"url": "http://hooks.example.com/"}, "plain http"),
        ({"url": "https://user:pw@hooks.example.com/"}, "without user"),
        ({"events": []}, "at least 1"),
        ({"events": ["session"]}, "'hold', 'access' or 'decision'"),
    ],
)
def test_settings_that_will_not_do(changes: dict[str, Any], said: str) -> None:
    given = {"url": "https://hooks.example.com/x", "secret_file": "s"} | changes
    with pytest.raises(ValueError, match=said):
        Webhook.model_validate(given)


def test_a_secret_that_can_be_guessed_is_refused(tmp_path: Path) -> None:
    short = tmp_path / "short"
    short.write_text("hunter2\n")
    hook = Webhook(url="https://hooks.example.com/T0/B0/x", secret_file=short)
    with pytest.raises(SettingsError, match="shorter than 16") as refused:
        hook.read_secret()
    assert "hunter2" not in str(refused.value)
    assert "/T0" not in str(refused.value)
    short.unlink()
    with pytest.raises(SettingsError, match=r"secret_file .*: No such file"):
        hook.read_secret()
