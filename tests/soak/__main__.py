"""`python -m tests.soak --minutes 60`: see the package's own words."""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import uvloop

from agentaudit.archive.verify import verify
from agentaudit.demo.database import embedded_postgres
from agentaudit.demo.gateways import Gateway
from agentaudit.demo.processes import PeerError, temporary_folder
from tests.peers.issuers import SigningIssuer
from tests.peers.serverlog import TellingPostgres
from tests.soak import accounts
from tests.soak.clients import Client
from tests.soak.samples import MIB, Sample, take, trend
from tests.soak.traffic import Numbers, Seen, Traffic

PEAK_MIB = 300
"""What a gateway may take at most, whoever reads slowly (`make bench` has the same limit)."""

TOKEN_AGE_S = 600.0
BENCH_USER = "md5"


@dataclass
class Verdict:
    """What was checked: a line of the report each, and whether all of it held."""

    lines: list[str] = field(default_factory=list)
    holds: bool = True

    def add(self, claim: str, problems: Sequence[str], seen: str) -> None:
        """Note a claim: it holds if there are no problems."""
        self.holds = self.holds and not problems
        self.lines.append(f"  {'yes' if not problems else 'NO '}  {claim}: {seen}")
        self.lines += [f"         {problem}" for problem in problems]


class Tokens:
    """One token a user, until it is ten minutes old: an hour outlives them."""

    def __init__(self, issuer: SigningIssuer) -> None:
        self._issuer = issuer
        self._made: dict[str, tuple[float, str]] = {}

    def __call__(self, name: str) -> str:
        # A user each, for an actor's connections are counted.
        user = name.rstrip("0123456789-")
        at, token = self._made.get(user, (0.0, ""))
        if not token or time.monotonic() - at > TOKEN_AGE_S:
            token = self._issuer.token(user)
            self._made[user] = (time.monotonic(), token)
        return token


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    print(f"seed {arguments.seed}; --seed repeats who does what, not when", flush=True)
    with temporary_folder("agentaudit-soak-") as directory, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(directory))
        try:
            verdict = _soak(arguments, directory)
        except (PeerError, TimeoutError, ExceptionGroup) as error:
            print(f"soak: {error!r}", file=sys.stderr)
            raise
    print(*verdict.lines, sep="\n")
    return 0 if verdict.holds else 1


def _soak(arguments: argparse.Namespace, directory: Path) -> Verdict:
    numbers = Numbers(arguments.connections)
    with ExitStack() as stack:
        issuer = SigningIssuer()
        stack.callback(issuer.close)
        server = stack.enter_context(
            TellingPostgres(binaries=embedded_postgres(), max_connections=numbers.connections + 50)
        )
        _fill(server)
        gateway = Gateway(directory / "gateway", _settings(arguments, server, issuer, directory))
        gateway.start()
        stack.callback(gateway.terminate)
        tokens = Tokens(issuer)

        def restart() -> None:
            server.stop()
            server.start()

        traffic = Traffic(
            address=(gateway.host, gateway.port),
            token=tokens,
            superuser=server.superuser_dsn,
            restart=restart,
            binaries=embedded_postgres(),
            numbers=numbers,
            seconds=arguments.minutes * 60,
            rate=arguments.rate,
            seed=arguments.seed,
        )
        at_rest = asyncio.run(_one_session(gateway, tokens))
        samples = uvloop.run(_watched(traffic, gateway))
        gateway.wait_until_idle()
        after = take(gateway.pid, samples[-1].at, 0)
        status = gateway.terminate()
        began = time.monotonic()
        verdict = Verdict()
        _judge_traffic(verdict, traffic.seen, samples)
        judge_memory(verdict, samples, at_rest, after)
        _judge_records(verdict, gateway, server, traffic.seen)
        judge_end(verdict, gateway, status)
        verdict.lines.append(f"  held against each other in {time.monotonic() - began:.0f} s")
        return verdict


def _fill(server: TellingPostgres) -> None:
    server.create_users()
    database = server.database
    server.execute("CREATE TABLE soak (said text)", database=database)
    server.execute("GRANT ALL ON soak TO PUBLIC", database=database)
    # What pgbench runs is counted by pgbench: the log has room for what carries a mark.
    server.execute(f"ALTER ROLE {BENCH_USER} SET log_min_duration_statement = -1")
    subprocess.run(
        [server.binaries / "pgbench", "--initialize", "--quiet", "--scale=2"]
        + [server.superuser_dsn(database)],
        check=True,
        capture_output=True,
    )
    server.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC", database=database)


def _settings(
    arguments: argparse.Namespace,
    server: TellingPostgres,
    issuer: SigningIssuer,
    directory: Path,
) -> dict[str, Any]:
    targets = [server.target("orders"), server.target("bench", user=BENCH_USER)]
    for target in targets:
        secret = directory / f"{target['name']}.password"
        secret.touch(mode=0o600)
        secret.write_text(target.pop("password"), encoding="utf-8")
        target["password_file"] = str(secret)
    return {
        "gateway": {
            "name": "gw1",
            "origin": "soak.test",
            "durability": arguments.durability,
            # Segments that are sealed in the middle of it all.
            "segment_bytes": "32MiB",
        },
        "listen": {"postgres": "127.0.0.1:0"},
        "issuer": [{"url": issuer.issuer, "audience": [issuer.audience]}],
        "target": targets,
    }


async def _one_session(gateway: Gateway, tokens: Tokens) -> Sample:
    """Return what an idle gateway takes that has served somebody."""
    client = await Client.connect((gateway.host, gateway.port), tokens("first"), "first")
    await client.leave()
    await asyncio.to_thread(gateway.wait_until_idle)
    return take(gateway.pid, 0.0, 0)


async def _watched(traffic: Traffic, gateway: Gateway) -> list[Sample]:
    """Run the traffic; return samples of the gateway, one a second."""
    samples: list[Sample] = []
    began = time.monotonic()

    async def watch() -> None:
        while True:
            await asyncio.sleep(1)
            at = time.monotonic() - began
            samples.append(take(gateway.pid, at, traffic.seen.open))
            if len(samples) % 60 == 0:
                _tell_progress(samples[-1], len(traffic.seen.told))

    async with asyncio.TaskGroup() as group:
        watching = group.create_task(watch())
        await traffic.run()
        watching.cancel()
    return samples


def _tell_progress(now: Sample, told: int) -> None:
    print(
        f"{now.at / 60:.0f} min: {told:,} answers, {now.connections} connections, "
        f"{now.resident / MIB:.0f} + {now.children_resident / MIB:.0f} MiB, "
        f"{now.descriptors} + {now.children_descriptors} open files",
        file=sys.stderr,
        flush=True,
    )


# --- what must hold


def _judge_traffic(verdict: Verdict, seen: Seen, samples: Sequence[Sample]) -> None:
    told = Counter(seen.told.values())
    answered = sum(told.values()) + sum(bench.processed for bench in seen.benches)
    verdict.lines.append(
        f"\n{answered:,} answers; at most {max(one.connections for one in samples)} connections "
        f"of agents at once, and pgbench's; {dict(seen.counts.most_common())}"
    )
    verdict.lines.append(f"what clients were told: {dict(told.most_common())}")
    verdict.lines.append(f"connections that ended by themselves: {dict(seen.ended)}\n")
    verdict.add("every client got its own answers", accounts.some(seen.wrong), "marks agree")
    problems = list(_held_up(seen))
    longest = max(
        (b - a for times in seen.probed.values() for a, b in pairwise(times)), default=0.0
    )
    verdict.add(
        "nobody waits for slow readers and stalled writers",
        accounts.some(problems),
        f"{len(seen.holds)} slow reads, all probes answered in each; "
        f"longest pause of a probe {longest:.1f} s, restarts included",
    )


def _held_up(seen: Seen) -> Iterator[str]:
    """Yield the probes that had no answer while somebody read slowly."""
    if not seen.holds:
        yield "nobody read slowly"
    for began, ended in seen.holds:
        if any(began < up and down < ended for down, up in seen.outages):
            continue
        for name, times in seen.probed.items():
            if not any(began < at < ended for at in times):
                yield f"{name} had no answer for {ended - began:.0f} s"


def judge_memory(
    verdict: Verdict, samples: Sequence[Sample], before: Sample, after: Sample
) -> None:
    for name, value in (
        ("gateway", lambda one: one.resident),
        ("its children", lambda one: one.children_resident),
    ):
        # In a short run the buffers of what was never seen before still come into being.
        found = trend(samples, value, warm_up=0.25 if samples[-1].at > 300 else 0.5)
        flat = found.is_flat(floor=16 * MIB, share=0.1)
        seen = f"{found.typical / MIB:.0f} MiB, grew by {found.growth / MIB:+.1f} MiB"
        verdict.add(f"memory of {name} is flat", [] if flat else ["it grows"], seen)
        if name == "gateway":
            verdict.add(
                f"memory of {name} is bounded",
                [] if found.peak < PEAK_MIB * MIB else [f"over {PEAK_MIB} MiB"],
                f"peak {found.peak / MIB:.0f} MiB",
            )
    for name, value in (
        ("gateway", lambda one: one.descriptors),
        ("its children", lambda one: one.children_descriptors),
    ):
        found = trend(samples, value)
        flat = found.is_flat(floor=8, share=0.1)
        seen = f"{found.typical:.0f}, grew by {found.growth:+.1f}"
        verdict.add(f"open files of {name} are flat", [] if flat else ["they grow"], seen)
    left = after.descriptors - before.descriptors
    verdict.add(
        "no connection leaves a file open",
        [] if left <= 2 else [f"{left} more than before"],
        f"{before.descriptors} before the first, {after.descriptors} behind the last",
    )


def _judge_records(verdict: Verdict, gateway: Gateway, server: TellingPostgres, seen: Seen) -> None:
    archived = accounts.Archived(gateway.archive)
    verdict.add(
        "what clients were told is recorded",
        accounts.some(accounts.against_clients(archived, seen.told)),
        f"{len(seen.told):,} executions of {archived.commands:,} rows, "
        f"{archived.sessions:,} sessions, {archived.events:,} events",
    )
    verdict.add(
        "what the server says it ran is recorded, and nothing else as done",
        accounts.some(accounts.against_server(archived, server.account.read())),
        f"{dict(accounts.outcomes_of(archived).most_common())}",
    )
    verdict.add(
        "no transaction of pgbench's is missing",
        accounts.some(accounts.against_pgbench(archived, seen.benches)),
        f"{sum(bench.processed for bench in seen.benches):,} in {len(seen.benches)} runs",
    )


def judge_end(verdict: Verdict, gateway: Gateway, status: int | None) -> None:
    verdict.add("SIGTERM ends it in order", [] if status == 0 else ["not 0"], f"status {status}")
    log = gateway.log_text().splitlines()
    verdict.add(
        "its log holds nothing unexpected",
        accounts.some(line[:300] for line in log if _is_unexpected(line)),
        f"{len(log):,} lines",
    )
    verified = verify(gateway.archive, key=gateway.verifier_key, deep=True, remember=False)
    problems = [str(finding) for finding in verified.findings]
    if not verified.ok and not problems:
        problems = [f"it says {verified.ok}"]
    verdict.add("verify --deep", accounts.some(problems), f"ok {verified.ok}")


def _is_unexpected(line: str) -> bool:
    """Whether a line is no JSON object, as of a traceback, or tells of an error."""
    try:
        told = json.loads(line)
    except ValueError:
        return True
    return not isinstance(told, dict) or told.get("level") not in ("info", "warning")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long (default: 60)")
    parser.add_argument("--connections", type=int, default=200, help="at once (default: 200)")
    parser.add_argument(
        "--rate",
        type=float,
        default=150.0,
        help="statements a second of agents, and transactions of each of three pgbench",
    )
    parser.add_argument("--durability", default="relaxed", help="as in the settings")
    parser.add_argument("--seed", default=secrets.token_hex(4))
    return parser


if __name__ == "__main__":
    sys.exit(main())
