"""The process around the doors: what it logs of the unexpected, and how it fails to start."""

from __future__ import annotations

import gc
import socket
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from structlog.testing import capture_logs

from agentaudit.archive.keys import create_key
from agentaudit.archive.note import CosigningKey
from agentaudit.demo import processes
from agentaudit.errors import RecordingError, SettingsError
from agentaudit.gateway.connections import Connection
from agentaudit.gateway.operational_log import without_content
from agentaudit.gateway.postgres import Door
from agentaudit.gateway.server import Gateway
from agentaudit.gateway.wire import Wire
from agentaudit.model import Side, Step
from agentaudit.protocols.postgres import Conversation
from agentaudit.settings.file import load
from agentaudit.settings.tables import Witness as WitnessSettings
from agentaudit.settings.whole import Settings
from tests.archive.recording import until
from tests.gateway.hosted import hosted
from tests.gateway.raw import error_fields, startup
from tests.gateway.recorded import read
from tests.peers.issuers import SigningIssuer
from tests.peers.postgres import PostgresPeer


def test_an_unexpected_error_is_logged_without_what_it_quotes() -> None:
    try:
        b"\xffs3cret".decode()
    except UnicodeDecodeError as error:
        logged = without_content(error)

    assert logged["error"] == "UnicodeDecodeError"
    assert "s3cret" not in str(logged)
    assert logged["at"][0].startswith("test_server.py:")


def settings(tmp_path: Path, postgres: str) -> Settings:
    create_key(tmp_path / "keys", "gw1", "audit.test")
    document = {
        "gateway": {"name": "gw1", "origin": "audit.test"},
        "listen": {"postgres": postgres},
    }
    return Settings.model_validate(document, context={"root": tmp_path})


async def test_an_address_in_use_ends_the_start_and_names_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"

        with pytest.raises(SettingsError, match=f"listen.postgres {address}: address already"):
            await Gateway(settings(tmp_path, address)).__aenter__()


async def test_a_witness_that_is_away_is_a_line_of_the_log_and_stops_nothing(
    tmp_path: Path,
) -> None:
    key = str(CosigningKey.generate("witness.example/w1").cosigner)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
    made = settings(tmp_path, "127.0.0.1:0")
    made = made.model_copy(update={"witness": (WitnessSettings(url=url, key=key),)})

    with capture_logs() as lines:
        async with Gateway(made):
            pass

    (line,) = [line for line in lines if "witness" in line["event"]]
    assert line == {
        "event": "witness does not answer as it should",
        "log_level": "warning",
        "url": url,
        "reason": "Connection refused",
    }


async def test_a_witness_without_a_key_of_its_kind_ends_the_start(tmp_path: Path) -> None:
    made = settings(tmp_path, "127.0.0.1:0")
    witness = WitnessSettings(url="https://w.example.com", key="no key")

    with pytest.raises(SettingsError, match=r"witness https://w\.example\.com: witness key"):
        await Gateway(made.model_copy(update={"witness": (witness,)})).__aenter__()


async def test_a_missing_log_key_ends_the_start(tmp_path: Path) -> None:
    made = settings(tmp_path, "127.0.0.1:0")
    (tmp_path / "keys" / "gw1.key").unlink()

    with pytest.raises(RecordingError, match=r"gw1\.key"):
        await Gateway(made).__aenter__()


def test_a_fault_of_ours_ends_one_session_and_no_other(
    tmp_path: Path,
    postgres18: PostgresPeer,
    signing_issuer: SigningIssuer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Faulty(Conversation):
        def receive(self, side: Side, data: bytes) -> list[Step]:
            if b"trip" in data:
                raise ZeroDivisionError
            return super().receive(side, data)

    monkeypatch.setattr("agentaudit.gateway.postgres.Conversation", Faulty)
    with hosted(tmp_path, postgres18.target(), issuer=signing_issuer) as gateway:
        token = signing_issuer.token
        unlucky = psycopg.connect(gateway.dsn("orders", token("ana")), autocommit=True)
        with psycopg.connect(gateway.dsn("orders", token("ben")), autocommit=True) as other:
            with pytest.raises(psycopg.OperationalError):
                unlucky.execute("SELECT 'trip'")
            assert other.execute("SELECT 1").fetchone() == (1,)
        gateway.close()
    assert read(gateway.archive).session(user="ana")["close_reason"] != "client"


def test_a_session_that_is_over_is_freed_at_once(
    tmp_path: Path, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    """Not when the collector comes: in compiled code it comes once in a thousand sessions."""

    def connections() -> int:
        return sum(type(one) is Connection for one in gc.get_objects())

    with hosted(tmp_path, postgres18.target(), issuer=signing_issuer) as gateway:
        dsn = gateway.dsn("orders", signing_issuer.token("ana"))
        gc.collect()
        before = connections()
        gc.disable()
        try:
            for _ in range(3):
                with psycopg.connect(dsn) as connection:
                    connection.execute("SELECT %s::int", [1], prepare=True)
                    assert connections() == before + 2
            processes.until(lambda: connections() == before, "the connections are freed")
        finally:
            gc.enable()


class FarTransport:
    """The transport of a client that is not on this machine; keeps what it is told."""

    def __init__(self) -> None:
        self.heard = b""
        self.is_closed = False
        self._socket = socket.socket()

    def get_extra_info(self, name: str) -> object:
        known = {"peername": ("192.0.2.7", 4711), "sockname": ("192.0.2.1", 6432)}
        return self._socket if name == "socket" else known.get(name)

    def is_closing(self) -> bool:
        return self.is_closed

    def write(self, data: bytes) -> None:
        self.heard += data

    def resume_reading(self) -> None:
        pass

    def close(self) -> None:
        self.is_closed = True
        self._socket.close()


async def test_a_token_is_not_asked_for_in_clear_from_another_machine(tmp_path: Path) -> None:
    async with Gateway(settings(tmp_path, "127.0.0.1:0")) as gateway:
        transport = FarTransport()
        wire = Wire()
        wire.connection_made(transport)  # type: ignore[arg-type]
        wire.data_received(startup())

        await Door(gateway.sessions).serve(wire)

    error = error_fields(transport.heard)
    assert (error["C"], "TLS is needed" in error["M"]) == ("28000", True)
    assert transport.is_closed
    assert any("192.0.2.7" in text for text in read(tmp_path / "archive").refusals())


async def test_a_reload_that_cannot_keep_its_rules_goes_on_with_the_old_issuers(
    tmp_path: Path, signing_issuer: SigningIssuer
) -> None:
    create_key(tmp_path / "keys", "gw1", "audit.test")
    file = tmp_path / "agentaudit.toml"
    file.write_text(
        '[gateway]\nname = "gw1"\norigin = "audit.test"\n[listen]\npostgres = "127.0.0.1:0"\n'
        f'[[issuer]]\nurl = "{signing_issuer.issuer}"\naudience = ["agentaudit"]\n'
    )
    async with Gateway(load(file)) as gateway:
        file.write_text(file.read_text() + 'user_claim = "email"\n')
        policies = tmp_path / "archive" / "policies"
        policies.rename(tmp_path / "away")
        policies.write_text("no folder")

        with capture_logs() as lines:
            gateway.reload()
            await until(lambda: bool(lines), "the reload fails")

        assert lines[0]["event"] == "reload failed, the old settings stay"
        # No key was fetched until now: this is where a verifier that was closed fails.
        actor = await gateway.sessions.serving.verifier.actor(signing_issuer.token("ana"))
        assert actor.user == "ana"
        policies.unlink()
        (tmp_path / "away").rename(policies)


def test_a_gateway_without_a_state_loads_no_database_library() -> None:
    code = "import sys, agentaudit.gateway.worker; print('sqlalchemy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"
