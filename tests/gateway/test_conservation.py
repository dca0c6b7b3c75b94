"""Whatever agents do at once: what is recorded is what was on both wires, byte for byte.

The pumps on either side are the witnesses. Where a side speaks TLS, they are one end of it.
"""

from __future__ import annotations

import random
import secrets
import ssl
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from agentaudit.archive.verify import verify
from tests import tries
from tests.gateway.conserved import is_conserved, session_wires
from tests.gateway.recorded import read
from tests.gateway.scripts import SETUP
from tests.gateway.workloads import WORKLOADS, Door
from tests.peers.certificates import Authority
from tests.peers.gateway import GatewayFactory
from tests.peers.issuers import SigningIssuer
from tests.peers.postgres import PostgresPeer
from tests.peers.pump import PumpFactory


@pytest.fixture(scope="module")
def server(postgres18: PostgresPeer) -> Iterator[PostgresPeer]:
    """A server with what the scripts need."""
    postgres18.execute(*SETUP, database=postgres18.database)
    yield postgres18
    postgres18.execute("DROP TABLE copied; DROP FUNCTION note, fail", database=postgres18.database)


@pytest.mark.parametrize(
    "sessions",
    [
        6,
        pytest.param(
            tries.of(24, share=12), id="many", marks=[pytest.mark.full, pytest.mark.timeout(900)]
        ),
    ],
)
@pytest.mark.parametrize(
    ("durability", "encrypted"),
    [("strict", False), ("writes", False), ("relaxed", False), ("relaxed", True)],
)
def test_every_byte_of_random_workloads_is_on_both_wires_and_in_the_archive(
    sessions: int,
    durability: str,
    encrypted: bool,
    server: PostgresPeer,
    gateway: GatewayFactory,
    pump: PumpFactory,
    authority: Authority,
    signing_issuer: SigningIssuer,
) -> None:
    certified = trusting = None
    target = {}
    if encrypted:
        certified = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        certificate = authority.server()
        certified.load_cert_chain(certificate.certificate_file, certificate.key_file)
        trusting = ssl.create_default_context(cafile=authority.file)
        target = {"tls": "verify-full", "tls_ca_file": str(authority.file)}
    back = pump(server.host, server.port, certified=certified)
    gw = gateway(
        server.target(address=f"localhost:{back.port}", **target),
        issuer=signing_issuer,
        tls=encrypted,
        durability=durability,
    )
    front = pump(gw.host, gw.port, trusting=trusting)
    door = Door(front.host, front.port, signing_issuer.token("ana"))
    seed = secrets.token_hex(4)

    def work(number: int) -> str:
        kind = list(WORKLOADS)[number % len(WORKLOADS)]
        application = f"{kind} {seed} {number}"
        WORKLOADS[kind](random.Random(application), door, application)
        return application

    with ThreadPoolExecutor(3) as pool:
        applications = list(pool.map(work, range(sessions)))

    front.wait_until_closed()
    back.wait_until_closed()
    gw.wait_until_idle()
    assert gw.terminate() == 0
    recorded = read(gw.archive)
    fronts, backs = session_wires(front.wires), session_wires(back.wires)
    for application in applications:
        session = recorded.session(client_app=application)
        assert session["close_reason"] == "client"
        is_conserved(recorded, session, fronts[application], backs[application])
    mode = {"strict": 0, "writes": 1, "relaxed": 2}[durability]
    assert Counter(event["flags"] >> 5 & 3 for event in recorded.events).keys() == {mode}
    verified = verify(gw.archive, key=gw.verifier_key, deep=True)
    assert (verified.ok, verified.findings) == (True, [])
