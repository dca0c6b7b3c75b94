"""`python -m benchmarks.approvals`: what rules, statements that wait, and decisions cost.

pgbench -S, prepared, with 8 clients, in slices that alternate between gateways of one run: one with
neither rules nor control API, one with twenty rules, one on which 200 statements wait for a
decision. Then so many statements that wait, one after the other: milliseconds from the moment that
the decision is sent until the client has its answer.
"""

from __future__ import annotations

import argparse
import json
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import psycopg

from agentaudit.demo.gateways import Gateway
from benchmarks.slices import _RATE
from benchmarks.targets import DATABASE, Peers, pgbench
from tests.peers.issuers import SigningIssuer

HELD = 200
CLIENTS = 8

_HOLD = {
    "name": "deletes",
    "when": {"operation": ["DELETE"]},
    "action": "hold",
    "approvers": ["dba"],
    "timeout": "1h",
}
_RULES = [
    {
        "name": f"rule {number}",
        "when": {"operation": ["TRUNCATE"], "resource": [f"shop.table_{number}"]},
        "action": "deny",
    }
    for number in range(20)
]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the ratios and the times; return 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.approvals")
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--decisions", type=int, default=50)
    asked = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder, Peers(Path(folder), 10) as peers:
        site = _Site(peers, Path(folder))
        with ExitStack() as stack:
            plain = stack.enter_context(site.gateway("plain", []))
            ruled = stack.enter_context(site.gateway("ruled", _RULES))
            holding = stack.enter_context(site.gateway("holding", [_HOLD]))
            stack.enter_context(site.waiting(holding, HELD))
            gateways = {"plain": plain, "ruled": ruled, "holding": holding}
            rates: dict[str, list[float]] = {name: [] for name in gateways}
            for number in range(asked.rounds):
                # Each comes first in every third round: a machine is not as fast all the time.
                names = deque(gateways)
                names.rotate(number)
                for name in names:
                    rates[name].append(site.rate(gateways[name], asked.seconds))
        for name, what in (("ruled", "20 rules"), ("holding", f"{HELD} statements wait")):
            ratios = [a / b for a, b in zip(rates[name], rates["plain"], strict=True)]
            print(
                f"pgbench -S prepared, {CLIENTS} clients, {what}: {median(ratios):.3f} of without"
            )
        with site.gateway("deciding", [_HOLD]) as deciding:
            times = sorted(site.decision_ms(deciding) for _ in range(asked.decisions))
        print(
            f"approve to resume: median {median(times):.0f} ms, "
            f"most {times[-1]:.0f} ms of {len(times)}"
        )
    return 0


class _Site:
    """Gateways before one server, and those who decide."""

    def __init__(self, peers: Peers, folder: Path) -> None:
        self._peers = peers
        self._folder = folder
        self._provider = peers._provider
        # The provider of the others says nothing of when people have logged in.
        self._reviewers = SigningIssuer()
        peers.server.execute("CREATE TABLE victim (n int)", database=DATABASE)
        peers.server.execute("GRANT ALL ON victim TO PUBLIC", database=DATABASE)

    @contextmanager
    def gateway(self, name: str, rules: list[dict[str, Any]]) -> Iterator[Gateway]:
        made = self._peers._gateway(self._folder / name, "relaxed")
        text = made.config.read_text(encoding="utf-8")
        text = text.replace("[listen]", '[listen]\ncontrol = "127.0.0.1:0"') if rules else text
        text = text.replace("[limits]", f"[limits]\nmax_holds_per_actor = {HELD + 10}")
        text += f'\n[[issuer]]\nurl = "{self._reviewers.issuer}"\naudience = ["nobody"]\n'
        for rule in rules:
            text += "\n[[rule]]\n" + "".join(f"{k} = {_toml(v)}\n" for k, v in rule.items())
        made.config.write_text(text, encoding="utf-8")
        with made:
            yield made

    def rate(self, gateway: Gateway, seconds: int) -> float:
        command = [pgbench(), "-n", "-S", "-M", "prepared", "-c", CLIENTS, "-T", seconds]
        done = subprocess.run(
            [*map(str, command), gateway.dsn(DATABASE, self._token())],
            capture_output=True,
            text=True,
            check=True,
        )
        found = _RATE.search(done.stdout)
        assert found is not None, done.stdout
        return float(found[1])

    @contextmanager
    def waiting(self, gateway: Gateway, count: int) -> Iterator[None]:
        """Let so many connections wait for a decision during the block."""
        clients = [_connect(gateway, self._token()) for _ in range(count)]
        for client in clients:
            client.pgconn.send_query(b"DELETE FROM victim")
        while len(self.pending(gateway)) < count:
            time.sleep(0.2)
        try:
            yield
        finally:
            for client in clients:
                client.close()

    def decision_ms(self, gateway: Gateway) -> float:
        client = _connect(gateway, self._token())
        done = threading.Event()
        ended = 0.0

        def run() -> None:
            nonlocal ended
            client.execute("DELETE FROM victim")
            ended = time.perf_counter()
            done.set()

        threading.Thread(target=run, daemon=True).start()
        while not (found := self.pending(gateway)):
            time.sleep(0.05)
        begun = time.perf_counter()
        self._ask(
            gateway,
            f"/v1/requests/{found[0]['id']}/decision",
            {"verdict": "approve", "reason": "measured", "digest": found[0]["digest"]},
        )
        done.wait(60)
        client.close()
        return (ended - begun) * 1000

    def pending(self, gateway: Gateway) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._ask(
            gateway, "/v1/requests?state=pending&limit=1000", None
        )
        return found

    def _token(self) -> str:
        return self._provider.token("bench", ["data-agents"], agent="pgbench")

    def _ask(self, gateway: Gateway, path: str, body: Mapping[str, Any] | None) -> Any:
        fresh = {"aud": "agentaudit-review", "auth_time": int(time.time())}
        token = self._reviewers.token("dora", ["dba"], claims=fresh)
        request = urllib.request.Request(
            gateway.control_url.replace("http:", "https:") + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        )
        anybody = ssl._create_unverified_context()
        with urllib.request.urlopen(request, timeout=60, context=anybody) as answer:
            return json.load(answer)


def _connect(gateway: Gateway, token: str) -> psycopg.Connection[Any]:
    return psycopg.connect(gateway.dsn(DATABASE, token), autocommit=True)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + " }"
    return json.dumps(value)


if __name__ == "__main__":
    sys.exit(main())
