"""`agentaudit check`: tries everything, and one thing that is wrong hides no other."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from agentaudit.archive.keys import create_key
from agentaudit.gateway.check import Check, _retention, _uncounted, check
from agentaudit.settings.values import parse_address
from agentaudit.settings.whole import Settings
from agentaudit.witness.server import WitnessServer, create_witness
from tests.peers.certificates import Authority
from tests.peers.issuers import SigningIssuer
from tests.peers.postgres import PostgresPeer
from tests.peers.tsa import TimeStamper


def settings(tmp_path: Path, **tables: Any) -> Settings:
    document: dict[str, Any] = {
        "gateway": {"name": "gw1", "origin": "audit.test"},
        "listen": {"postgres": "127.0.0.1:0"},
        "limits": {"disk_warn": 1, "disk_stop": 1},
    }
    return Settings.model_validate(document | tables, context={"root": tmp_path})


def target(server: PostgresPeer, folder: Path, name: str = "orders", **keys: Any) -> dict[str, Any]:
    table = server.target(name, **keys)
    secret = folder / f"{name}.password"
    secret.write_text(table.pop("password"))
    return table | {"password_file": str(secret)}


def issuer_table(issuer: SigningIssuer, **keys: Any) -> dict[str, Any]:
    return {"url": issuer.issuer, "audience": ["agentaudit"]} | keys


def named(findings: list[Check], name: str) -> Check:
    (found,) = [each for each in findings if each.name.startswith(name)]
    return found


def test_settings_that_will_do_are_all_ok_and_say_what_was_seen(
    tmp_path: Path, postgres15: PostgresPeer, authority: Authority, signing_issuer: SigningIssuer
) -> None:
    create_key(tmp_path / "keys", "gw1", "audit.test")
    tls = {"tls": "verify-full", "tls_ca_file": str(authority.file)}
    findings = check(
        settings(
            tmp_path,
            issuer=[issuer_table(signing_issuer)],
            target=[target(postgres15, tmp_path, **tls)],
        )
    )

    assert [each for each in findings if not each.ok] == []
    seen = named(findings, "target orders").message
    assert "PostgreSQL 15" in seen
    assert "logged in as scram with TLS" in seen
    assert "1 keys" in named(findings, f"issuer {signing_issuer.issuer}").message
    assert "audit.test/gw1" in named(findings, "keys").message
    assert "kept for ever" in named(findings, "retention").message
    assert named(findings, "rules").message == "0 rules; orders: the rest is allowed"
    assert not (tmp_path / "archive").exists(), "looking leaves nothing behind"


def test_the_workers_are_counted_and_each_has_its_key_or_is_named(tmp_path: Path) -> None:
    create_key(tmp_path / "keys", "gw1-2", "audit.test")
    gateway = {"name": "gw1", "origin": "audit.test", "workers": 3}
    findings = check(settings(tmp_path, gateway=gateway))

    assert named(findings, "workers").message.startswith("3, gw1-1 to gw1-3, on ")
    told = [(each.ok, each.message) for each in findings if each.name.startswith("keys")]
    assert [ok for ok, _ in told] == [False, True, False]
    assert "audit.test/gw1-2" in told[1][1]
    assert f"{tmp_path}/keys/gw1-3.key" in told[2][1]


def test_each_thing_that_is_wrong_is_named_with_its_place(
    tmp_path: Path, postgres18: PostgresPeer, signing_issuer: SigningIssuer
) -> None:
    gone = SigningIssuer()
    gone.close()
    (tmp_path / "file").touch()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        down = f"127.0.0.1:{taken.getsockname()[1]}"
        findings = check(
            settings(
                tmp_path,
                listen={"postgres": "192.0.2.1:6432"},  # TEST-NET-1: nobody's address
                gateway={
                    "name": "gw1",
                    "origin": "audit.test",
                    "archive": "file/archive",
                    "tls_cert_file": "none.pem",
                    "tls_key_file": "none.key",
                },
                issuer=[
                    issuer_table(gone),
                    issuer_table(signing_issuer, algorithms=["ES384"]),
                ],
                target=[
                    target(postgres18, tmp_path, "down", address=down),
                    target(postgres18, tmp_path, "wrong", user="md5", require_auth=["password"]),
                    target(postgres18, tmp_path, "nobody", groups=[]),
                    target(postgres18, tmp_path, "unread")
                    | {"password_file": str(tmp_path / "none")},
                    target(postgres18, tmp_path, "fine"),
                ],
            )
        )

    bad = {each.name for each in findings if not each.ok}
    assert bad == {
        f"archive {tmp_path}/file/archive",
        f"keys {tmp_path}/keys",
        "listen postgres 192.0.2.1:6432",
        f"issuer {gone.issuer}",
        f"issuer {signing_issuer.issuer}",
        "target down",
        "target wrong",
        "target nobody",
        "target unread",
    }
    assert "none.pem" in named(findings, "listen").message
    assert "connection refused" in named(findings, "target down").message
    assert "connection refused" in named(findings, f"issuer {gone.issuer}").message
    assert (
        "none of its 1 keys is for ES384"
        in named(findings, f"issuer {signing_issuer.issuer}").message
    )
    assert "require_auth allows password" in named(findings, "target wrong").message
    assert "nobody may connect" in named(findings, "target nobody").message
    assert "no such file" in named(findings, "target unread").message.lower()


def test_settings_without_issuer_target_or_listener_say_that_nobody_can_connect(
    tmp_path: Path,
) -> None:
    create_key(tmp_path / "keys", "gw1", "audit.test")
    findings = check(settings(tmp_path, listen={}))

    assert {each.name for each in findings if not each.ok} == {"issuer", "target", "listen"}


def test_a_listener_that_cannot_be_had_and_one_that_is_taken_are_told_apart(
    tmp_path: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        findings = check(settings(tmp_path, listen={"postgres": taken}))
    assert named(findings, "listen").ok
    assert "in use" in named(findings, "listen").message


def test_little_space_is_a_warning_and_too_little_a_failure(tmp_path: Path) -> None:
    warned = check(settings(tmp_path, limits={"disk_warn": 1 << 60, "disk_stop": 1}))
    stopped = check(settings(tmp_path, limits={"disk_warn": 1 << 60, "disk_stop": 1 << 60}))

    assert named(warned, "archive").ok
    assert "disk_warn" in named(warned, "archive").message
    assert not named(stopped, "archive").ok


def test_a_key_of_another_origin_is_found_before_the_first_start(tmp_path: Path) -> None:
    create_key(tmp_path / "keys", "gw1", "before.test")

    found = named(check(settings(tmp_path)), "keys")

    assert not found.ok
    assert "made for before.test/gw1, the settings say audit.test/gw1" in found.message


def test_each_target_is_said_to_be_kept_for_how_long(tmp_path: Path) -> None:
    table = {"address": "127.0.0.1:1", "database": "d", "user": "u"}
    targets = [
        table | {"name": "orders", "retention": "long"},
        table | {"name": "billing", "retention": "short"},
        table | {"name": "other"},
    ]
    classes = [
        {"name": "long", "keep": "400d", "payload_keep": "90d"},
        {"name": "short", "keep": "36h"},
    ]
    finding = _retention(settings(tmp_path, target=targets, retention=classes))
    assert finding.ok
    assert finding.message == (
        "orders kept for 400 d, payloads 90 d; billing kept for 1 day, 12:00:00; "
        "other kept for ever; what has no target is kept for ever"
    )


def test_witnesses_and_time_stamping_authorities_are_tried(tmp_path: Path) -> None:
    key = create_witness(tmp_path / "w", "witness.example/w1")
    server = WitnessServer(tmp_path / "w", parse_address("127.0.0.1:0"), say=lambda line: None)
    stamper = TimeStamper(tmp_path / "tsa")
    other = TimeStamper(tmp_path / "other")
    with stamper.served() as tsa:
        findings = check(
            settings(
                tmp_path,
                witness=[
                    {"url": f"http://{server.address}", "key": key},
                    {"url": f"http://{server.address}/elsewhere", "key": key + " "},
                    {"url": "http://127.0.0.1:1", "key": key + "\n"},
                    {"url": "http://127.0.0.1:2", "key": "no key"},
                ],
                anchor=[
                    {"url": f"{tsa}/", "ca_file": str(stamper.ca_file)},
                    {"url": f"{tsa}/bare"},
                    {"url": f"{tsa}/foreign", "ca_file": str(other.ca_file)},
                    {"url": f"{tsa}/down"},
                ],
            )
        )
    server.close()
    tried = [(each.ok, each.message) for each in findings if each.name.startswith("witness")]
    assert [ok for ok, _ in tried] == [True, False, False, False]
    assert "answers 404" in tried[1][1]
    assert "witness key" in tried[3][1]
    stamped = [(each.ok, each.message) for each in findings if each.name.startswith("anchor")]
    assert [ok for ok, _ in stamped] == [True, True, False, False]
    assert "verified with its ca_file" in stamped[0][1]
    assert "unverified" in stamped[1][1]
    assert "while verifying certificates" in stamped[2][1]
    assert "answers 503" in stamped[3][1]


def test_the_login_that_asks_planners_is_tried_and_must_not_be_a_superuser(
    postgres18: PostgresPeer, tmp_path: Path
) -> None:
    secret = tmp_path / "inspector"
    secret.write_text(postgres18.passwords["inspector"])
    asks = {"inspect_user": "inspector", "inspect_password_file": str(secret)}
    tables = [
        target(postgres18, tmp_path, "fine") | asks,
        target(postgres18, tmp_path, "wrong") | asks | {"inspect_user": "md5"},
    ]
    findings = check(settings(tmp_path, target=tables))

    assert named(findings, "target fine, inspect_user").ok
    assert "logged in as inspector" in named(findings, "target fine, inspect_user").message
    assert "the server asks for md5" in named(findings, "target wrong, inspect_user").message
    postgres18.execute("ALTER ROLE inspector SUPERUSER")
    try:
        findings = check(settings(tmp_path, target=tables[:1]))
    finally:
        postgres18.execute("ALTER ROLE inspector NOSUPERUSER")
    found = named(findings, "target fine, inspect_user")
    assert not found.ok
    assert "a superuser" in found.message


def test_rules_that_count_rows_where_nobody_can_are_named(tmp_path: Path) -> None:
    table = {"address": "127.0.0.1:1", "database": "d", "user": "u"}
    tables = [
        table | {"name": "orders"},
        table | {"name": "billing", "inspect_user": "inspector"},
        table | {"name": "other"},
    ]
    counts = {"rows_over": 5, "target": ["orders", "billing"]}
    rules = [{"name": "few", "when": counts, "action": "deny"}]
    found = _uncounted(settings(tmp_path, target=tables, rule=rules))
    assert [(each.name, each.ok) for each in found] == [("rows_over", False)]
    assert 'on target "orders" nobody counts' in found[0].message
