"""`agentaudit.toml`: what is accepted, what is refused, and in which words."""

from __future__ import annotations

import json
import stat
import tomllib
from datetime import timedelta
from pathlib import Path

import pytest
import rfc8785

from agentaudit.demo.gateways import to_toml
from agentaudit.errors import SettingsError
from agentaudit.model import Durability
from agentaudit.settings import secrets
from agentaudit.settings.default import write_default
from agentaudit.settings.file import load
from agentaudit.settings.tables import Issuer, PostgresTarget, SshTarget
from agentaudit.settings.values import Address
from agentaudit.settings.whole import Settings

MINIMAL = """
[gateway]
name = "gw1"
origin = "audit.example.com"
"""

RULE = '[[rule]]\nname = "x"\n'
TARGET = """
[[target]]
name = "orders"
address = "db.internal:5432"
database = "orders"
user = "orders_rw"
"""

HOST = """
[[target]]
name = "host-1"
protocol = "ssh"
address = "10.0.0.7:22"
user = "agents"
"""

HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHqzY3Yq"

WITNESS = """
[[witness]]
url = "https://w.example.com"
key = "w.example.com+00000000+AAAA"
"""

ISSUER = """
[[issuer]]
url = "https://idp.example.com"
audience = ["agentaudit"]
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "agentaudit.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(tmp_path: Path, text: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load(written(tmp_path, text))
    return str(caught.value)


def test_a_minimal_file_gets_the_documented_defaults(tmp_path: Path) -> None:
    settings = load(written(tmp_path, MINIMAL + TARGET + ISSUER))

    assert settings.gateway.durability is Durability.STRICT
    assert settings.gateway.archive == tmp_path / "archive"
    assert settings.gateway.segment_bytes == 256 * 1024 * 1024
    assert settings.limits.max_session == timedelta(hours=12)
    assert settings.target[0].tls == "verify-full"
    assert settings.target[0].require_auth == ("scram-sha-256",)
    assert settings.target[0].groups == ()
    assert settings.issuer[0].algorithms == ("RS256", "ES256")
    assert settings.listen.postgres is None


def test_what_init_writes_loads_and_its_folders_are_private(tmp_path: Path) -> None:
    toml, archive, keys, secrets = write_default(tmp_path / "new", origin="audit.example.com")

    settings = load(toml)

    assert settings.path == toml
    assert settings.listen.postgres == Address("127.0.0.1", 6432)
    assert settings.gateway.origin == "audit.example.com"
    assert stat.S_IMODE(archive.stat().st_mode) == 0o750
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in (keys, secrets)} == {0o700}


def test_what_init_writes_shows_no_key_that_is_not_there(tmp_path: Path) -> None:
    toml = write_default(tmp_path)[0]
    lines = toml.read_text(encoding="utf-8").splitlines()
    uncommented = [
        line.removeprefix("# ")
        for line in lines
        if line.startswith(("# [[", "# tls_")) or " = " in line.partition("#")[2][:40]
    ]
    text = "\n".join(uncommented)

    shown = tomllib.loads(text)

    postgres, ssh = shown["target"]
    assert set(postgres) <= set(PostgresTarget.model_fields)
    assert set(ssh) <= set(SshTarget.model_fields)
    assert set(shown["issuer"][0]) <= set(Issuer.model_fields)


def test_init_overwrites_nothing(tmp_path: Path) -> None:
    path = written(tmp_path, "mine")

    with pytest.raises(SettingsError, match="exists already"):
        write_default(tmp_path)

    assert path.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("name", "origin", "place"),
    [
        ("GW 1", "audit.example.com", "gateway.name"),
        ("gw1", 'x"\nkeys = "/', "gateway.origin"),
        ("gw1", "https://audit.example.com", "gateway.origin"),
    ],
)
def test_init_takes_no_names_that_would_not_load(
    tmp_path: Path, name: str, origin: str, place: str
) -> None:
    with pytest.raises(SettingsError, match=place):
        write_default(tmp_path / "new", name=name, origin=origin)

    assert not (tmp_path / "new").exists()


def test_init_says_where_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(SettingsError, match="file/new"):
        write_default(tmp_path / "file" / "new")


@pytest.mark.parametrize(
    ("text", "place", "nearest"),
    [
        (MINIMAL + 'durabilty = "strict"', "gateway.durabilty", "durability"),
        (MINIMAL + TARGET + 'pasword_file = "x"', "target[1].pasword_file", "password_file"),
        (MINIMAL + "[listen]\npostgress = 1", "listen.postgress", "postgres"),
        (MINIMAL + "[limit]\n", "limit", "limits"),
        # A key in the wrong table: the nearest one of all tables is named with its own.
        ("actor_connections = 5" + MINIMAL, "actor_connections", "limits.actor_connections"),
        (MINIMAL + "zzz = 1", "gateway.zzz", ""),
    ],
)
def test_an_unknown_key_names_itself_the_file_and_the_nearest_valid_key(
    tmp_path: Path, text: str, place: str, nearest: str
) -> None:
    said = refusal(tmp_path, text)

    assert f"{tmp_path / 'agentaudit.toml'}: {place}: unknown key" in said
    assert f'"{nearest}' in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (MINIMAL + '[listen]\nhttp = "127.0.0.1:2222"', "listen.http: not available yet"),
        (
            MINIMAL + '[listen]\nssh = "127.0.0.1:2222"',
            "listen.ssh needs gateway.ssh_host_key_file",
        ),
        (MINIMAL + HOST + 'host_keys = ["ssh-dss AAAA"]', "host_keys"),
        (MINIMAL + HOST + f"host_keys = {[HOST_KEY]}", "one of key_file, user_ca_key_file and the"),
        (
            MINIMAL + HOST + f'host_keys = {[HOST_KEY]}\nkey_file = "k"\nuser_ca_key_file = "c"',
            "one of key_file, user_ca_key_file and the",
        ),
        (MINIMAL + 'ssh_cert_life = "16m"', "ssh_cert_life"),
        (
            MINIMAL + HOST + f'host_keys = {[HOST_KEY]}\nkey_file = "k"\ndatabase = "x"',
            "target[1].database: unknown key",
        ),
        (
            MINIMAL + '[[rule]]\nname = "x"\naction = "allow"\nwhen.rows_over = 5',
            "rule[1]: rows_over is for what is not to pass: deny or hold it",
        ),
        (
            MINIMAL + '[[mask]]\nname = "x"\nheader = ["authorization"]',
            "mask[1].header: not available yet",
        ),
        (MINIMAL + '[[mask]]\nname = "x"', "mask[1]: it hides nothing"),
        (MINIMAL + TARGET + 'protocol = "aws"', 'protocol: "aws" is not available yet'),
        (MINIMAL + TARGET + "enforce_read_only = true", "enforce_read_only: not available yet"),
        # The number 1 equals True in Python and means something else in a file.
        (MINIMAL + TARGET + "enforce_read_only = 0", "enforce_read_only: not available yet"),
    ],
)
def test_a_key_of_a_later_release_is_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    assert said in refusal(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (MINIMAL + 'state = "mysql://h/d"', "gateway.state: expected sqlite:///state.db or"),
        (MINIMAL + 'state = "sqlite://"', "the path of a file"),
        (MINIMAL + 'state = "postgresql://u:pw@h/d"', "a password does not belong here"),
        (MINIMAL + 'state = "postgresql://u@h/d?password=pw"', "a password does not belong here"),
        (MINIMAL + RULE + 'action = "deny"\napprovers = ["dba"]', 'only with action = "hold"'),
        (MINIMAL + RULE + 'action = "allow"\ntimeout = "5m"', 'only with action = "hold"'),
        (MINIMAL + RULE + 'action = "hold"\ntimeout = "0s"', "rule[1].timeout: "),
        (MINIMAL + RULE + 'action = "hold"\ntimeout = "13h"', "rule[1].timeout: "),
        (MINIMAL + RULE + 'action = "hold"\napprovals = 0', "rule[1].approvals: "),
        (MINIMAL + RULE + 'action = "hold"\napprovals = true', "rule[1].approvals: "),
        (MINIMAL + '[[rule]]\nname = "grant"\naction = "deny"', "what is recorded where no rule"),
        (MINIMAL + TARGET + 'wait = "50s"', 'wait means something only with access = "request"'),
        (MINIMAL + TARGET + "single_window = 0", "target[1].single_window: "),
        (MINIMAL + TARGET + 'max_window = "0s"', "target[1].max_window: "),
        (MINIMAL + '[listen]\ncontrol = "0.0.0.0:8470"', "listen.control is 0.0.0.0:8470"),
    ],
)
def test_what_is_decided_by_people_is_set_as_it_can_be(
    tmp_path: Path, text: str, said: str
) -> None:
    found = refusal(tmp_path, text)

    assert said in found
    assert "pw" not in found


def test_a_state_is_needed_where_people_decide(tmp_path: Path) -> None:
    def needs(text: str) -> bool:
        return load(written(tmp_path, MINIMAL + text)).needs_state

    assert not needs(TARGET)
    assert needs(TARGET + 'access = "request"')
    assert needs(TARGET + "single_window = true")
    assert needs(TARGET + 'default = "hold"')
    assert needs('[listen]\ncontrol = "127.0.0.1:8470"')
    assert needs(RULE + 'action = "hold"')


def test_a_key_of_a_later_release_may_say_that_it_is_off(tmp_path: Path) -> None:
    text = MINIMAL + "[listen]\nproxy_protocol = []\n"
    text += TARGET + 'access = "standing"\ndefault = "allow"\ntags = {}\nrecheck = false\n'

    assert load(written(tmp_path, text)).target[0].access == "standing"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[gateway]\nname = 'gw1'\n", "gateway.origin: missing"),
        (MINIMAL.replace("gw1", "GW 1"), "gateway.name: "),
        (MINIMAL + 'durability = "fast"', 'expected "strict", "writes" or "relaxed"'),
        (MINIMAL + 'segment_age = "24"', "expected a duration like 30s"),
        (MINIMAL + "segment_age = 24", "expected a duration like 30s"),
        (MINIMAL + 'segment_bytes = "256MB"', "expected a size like 512KiB"),
        (MINIMAL + "segment_bytes = true", "expected a size like 512KiB"),
        (MINIMAL + "segment_bytes = 0", "segment_bytes: "),
        (
            MINIMAL + 'segment_bytes = "1GiB"\n[limits]\njournal_max = "2047MiB"',
            "journal_max must be at least twice gateway.segment_bytes",
        ),
        (MINIMAL + 'tls_cert_file = "a"', "given together or not at all"),
        (MINIMAL + "[listen]\npostgres_oauth = true", "there is no [[issuer]] to name"),
        (MINIMAL + "[listen]\npostgres_oauth = 1", "listen.postgres_oauth: "),
        (MINIMAL + TARGET + 'replication = "yes"', "target[1].replication: "),
        (MINIMAL + "workers = 0", "gateway.workers: input should be greater than or equal to 1"),
        (MINIMAL + "workers = 65", "gateway.workers: input should be less than or equal to 64"),
        (MINIMAL + 'workers = "2"', "gateway.workers: input should be a valid integer"),
        (
            MINIMAL.replace("gw1", "g" * 61) + "workers = 10",
            "name is too long for 10 workers",
        ),
        (MINIMAL + 'keys = "archive/keys"', "keys must lie outside archive"),
        (MINIMAL + TARGET + 'payload_limit = "1 MB"', "expected a size like 512KiB"),
        (MINIMAL + TARGET + 'payload_limit = "1023B"', "target[1].payload_limit: "),
        (MINIMAL + '[listen]\npostgres = "6432"', "host:port"),
        (MINIMAL + '[listen]\npostgres = ":6432"', "host:port"),
        (MINIMAL + '[listen]\npostgres = "::1:6432"', "host:port"),
        (MINIMAL + '[listen]\npostgres = "127.0.0.1:70000"', "a port up to 65535"),
        (MINIMAL + "[listen]\npostgres = 6432", "host:port"),
        (MINIMAL + '[listen]\npostgres = "0.0.0.0:6432"', "only loopback may be listened on"),
        (MINIMAL + '[listen]\npostgres = "gw.example.com:1"', "only loopback may be listened on"),
        (MINIMAL + ISSUER.replace("https", "http"), "plain http is for loopback only"),
        (MINIMAL + ISSUER.replace("https", "ftp"), "expected an https address"),
        (MINIMAL + ISSUER.replace("idp.", "u:p@idp."), "without user, query or fragment"),
        (MINIMAL + ISSUER.replace('.com"', '.com:0"'), "a port up to 65535"),
        (MINIMAL + ISSUER.replace('.com"', '.com:x"'), "issuer[1].url"),
        (MINIMAL + ISSUER + 'algorithms = ["none"]', '"none" is not one of'),
        (MINIMAL + ISSUER + 'algorithms = ["HS256"]', '"HS256" is not one of'),
        (MINIMAL + ISSUER.replace('["agentaudit"]', "[]"), "issuer[1].audience"),
        (MINIMAL + ISSUER + ISSUER, 'issuer url "https://idp.example.com" is given twice'),
        (MINIMAL + TARGET + TARGET, 'target name "orders" is given twice'),
        (MINIMAL + WITNESS + WITNESS, 'witness url "https://w.example.com" is given twice'),
        (MINIMAL + WITNESS.replace("https", "http"), "plain http is for loopback only"),
        (MINIMAL + '[[witness]]\nurl = "https://w.example.com"', "witness[1].key: missing"),
        (MINIMAL + WITNESS + 'interval = "1h"', "unknown key, the nearest valid one is"),
        (MINIMAL + '[[anchor]]\nurl = "ftp://tsa.example.com"', "expected an https address"),
        (
            MINIMAL + '[[webhook]]\nurl = "https://h.example.com"\nsecret_file = "s"',
            "[[webhook]] needs listen.control",
        ),
        (MINIMAL + '[[anchor]]\nurl = "http://t.example.com"\ninterval = "0s"', "interval"),
        (MINIMAL + TARGET + 'tls = "prefer"', "target[1].tls"),
        (MINIMAL + TARGET + 'tls_cert_file = "a"', "given together or not at all"),
        (MINIMAL + TARGET + 'tls = "disable"\ntls_ca_file = "a"', 'with tls = "disable"'),
        (MINIMAL + TARGET + 'require_auth = ["gss"]', "target[1].require_auth"),
        (
            MINIMAL + TARGET + 'password_file = "a"\npassword_env = "B"',
            "at most one of password_file, password_env and password_command",
        ),
    ],
)
def test_a_bad_value_says_where_and_what_is_expected(tmp_path: Path, text: str, said: str) -> None:
    assert said in refusal(tmp_path, text)


def test_all_problems_of_a_file_come_at_once(tmp_path: Path) -> None:
    said = refusal(tmp_path, MINIMAL + "workers = 0\nx = 1\n" + TARGET + 'tls = "no"')

    assert len(said.splitlines()) == 3


def test_an_error_never_repeats_a_value(tmp_path: Path) -> None:
    said = refusal(tmp_path, MINIMAL + TARGET + 'password = "hunter2"\ndatabase2 = "hunter3"')

    assert "target[1].password" in said
    assert "hunter" not in said


@pytest.mark.parametrize(("content", "said"), [(b"\xff", "not UTF-8"), (b"[gateway", "not TOML")])
def test_a_file_that_is_no_toml_says_so(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "agentaudit.toml").write_bytes(content)

    with pytest.raises(SettingsError, match=said):
        load(tmp_path / "agentaudit.toml")


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path / "none.toml")

    assert "init" in caught.value.hint


@pytest.mark.parametrize("address", ["127.0.0.1:1", "localhost:65535", "[::1]:0"])
def test_an_address_is_written_as_it_was_read(tmp_path: Path, address: str) -> None:
    settings = load(written(tmp_path, MINIMAL + f'[listen]\npostgres = "{address}"'))

    assert str(settings.listen.postgres) == address


def test_with_a_certificate_any_address_may_be_listened_on(tmp_path: Path) -> None:
    text = MINIMAL + 'tls_cert_file = "c"\ntls_key_file = "k"\n[listen]\npostgres = "0.0.0.0:1"'

    assert load(written(tmp_path, text)).gateway.tls_cert_file == tmp_path / "c"


def test_settings_cannot_be_changed(tmp_path: Path) -> None:
    settings = load(written(tmp_path, MINIMAL))

    with pytest.raises(ValueError, match="frozen"):
        settings.gateway.name = "other"  # type: ignore[misc]


# --- secrets


def target_with(tmp_path: Path, keys: str) -> PostgresTarget:
    target = load(written(tmp_path, MINIMAL + TARGET + keys)).target[0]
    assert isinstance(target, PostgresTarget)
    return target


@pytest.mark.parametrize("content", ["s3cret", "s3cret\n", "s3cret\r\n"])
def test_a_password_file_may_end_in_a_newline(tmp_path: Path, content: str) -> None:
    (tmp_path / "secret").write_bytes(content.encode())

    assert target_with(tmp_path, 'password_file = "secret"').read_password() == "s3cret"


def test_only_one_newline_is_not_part_of_the_password(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b" s3cret \n\n")

    assert target_with(tmp_path, 'password_file = "secret"').read_password() == " s3cret \n"


def test_a_password_may_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORDERS_PASSWORD", "s3cret")

    assert target_with(tmp_path, 'password_env = "ORDERS_PASSWORD"').read_password() == "s3cret"


def test_a_password_may_come_from_a_command(tmp_path: Path) -> None:
    target = target_with(tmp_path, """password_command = ["sh", "-c", "echo s3cret"]""")

    assert target.read_password() == "s3cret"


def test_a_target_without_a_password_has_none(tmp_path: Path) -> None:
    assert target_with(tmp_path, "").read_password() is None


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ('password_file = "none"', "no such file"),
        ('password_env = "NOT_SET_ANYWHERE"', "the environment has no NOT_SET_ANYWHERE"),
        ('password_command = ["/no/such/command"]', "cannot run"),
        ('password_command = ["sh", "-c", "echo s3cret; exit 3"]', "exit status 3"),
        ('password_file = "long"', "longer than"),
        ('password_file = "empty"', "empty or holds a NUL"),
        ('password_file = "nul"', "empty or holds a NUL"),
        ('password_file = "latin1"', "not UTF-8"),
    ],
)
def test_a_secret_that_cannot_be_read_says_so_and_stays_secret(
    tmp_path: Path, keys: str, said: str
) -> None:
    (tmp_path / "long").write_bytes(b"s3cret" * 20_000)
    (tmp_path / "empty").write_bytes(b"\n")
    (tmp_path / "nul").write_bytes(b"s3cret\0")
    (tmp_path / "latin1").write_bytes(b"s3cret\xe9")

    with pytest.raises(SettingsError) as caught:
        target_with(tmp_path, keys).read_password()

    assert said in str(caught.value).lower().replace(
        "not_set_anywhere", "NOT_SET_ANYWHERE"
    ).replace("nul", "NUL").replace("utf", "UTF")
    assert "s3cret" not in str(caught.value)


def test_a_command_that_takes_too_long_is_named_without_its_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secrets, "SECRET_COMMAND_TIMEOUT_S", 0.01)
    target = target_with(tmp_path, """password_command = ["sleep", "60"]""")

    with pytest.raises(SettingsError, match="password_command sleep: took too long"):
        target.read_password()


# --- what sessions refer to


def test_the_policy_digest_changes_with_who_may_connect_and_with_nothing_else(
    tmp_path: Path,
) -> None:
    def digest(text: str) -> str:
        return load(written(tmp_path, text)).policy_digest()

    base = digest(MINIMAL + TARGET)

    assert digest(MINIMAL + TARGET + 'groups = ["data-agents"]') != base
    assert digest(MINIMAL + TARGET + 'replication = "pass"') != base
    assert digest(MINIMAL + TARGET + 'replication = "refuse"') == base
    assert digest(MINIMAL + TARGET + 'password_file = "other"') == base
    assert len(base) == 64


def test_the_policy_document_is_canonical_and_holds_no_secret(tmp_path: Path) -> None:
    text = MINIMAL + TARGET + 'password_env = "ORDERS_PASSWORD"\ngroups = ["données", "a"]'
    document = load(written(tmp_path, text)).policy_document()

    assert document == rfc8785.dumps(json.loads(document))
    assert b"PASSWORD" not in document


def test_an_anchor_may_be_asked_in_clear_and_its_files_lie_beside_the_settings(
    tmp_path: Path,
) -> None:
    text = MINIMAL + WITNESS + 'ca_file = "w.pem"\n'
    text += '[[anchor]]\nurl = "http://tsa.example.com/tsr"\nca_file = "t.pem"\n'
    settings = load(written(tmp_path, text))
    assert settings.witness[0].ca_file == tmp_path / "w.pem"
    assert settings.anchor[0].ca_file == tmp_path / "t.pem"
    assert settings.anchor[0].interval == timedelta(hours=1)


@pytest.mark.parametrize("scope", ["openid", "openid orders:read", "api://a/.default !x[]~"])
def test_oauth_clients_are_told_a_scope_of_the_rfc(tmp_path: Path, scope: str) -> None:
    text = MINIMAL + ISSUER + f"oauth_scope = '{scope}'\n[listen]\npostgres_oauth = true\n"
    settings = load(written(tmp_path, text))

    assert (settings.listen.postgres_oauth, settings.issuer[0].oauth_scope) == (True, scope)
    for wrong in ("", " a", "a ", "a  b", 'a"b', "a\\b", "a\tb", "é"):
        assert "issuer[1].oauth_scope: " in refusal(
            tmp_path, MINIMAL + ISSUER + f"oauth_scope = {json.dumps(wrong)}"
        )


def test_settings_made_in_code_have_no_file() -> None:
    settings = Settings.model_validate({"gateway": {"name": "gw1", "origin": "o"}})

    assert settings.path is None


RETENTION = """
[[retention]]
name = "standard"
keep = "400d"
payload_keep = "90d"
"""


def test_the_policy_document_says_how_long_each_target_is_kept(tmp_path: Path) -> None:
    short = '[[retention]]\nname = "short"\nkeep = "12h"\nnotice = "0s"\n'
    text = MINIMAL + TARGET + 'retention = "standard"\n' + RETENTION + short

    document = json.loads(load(written(tmp_path, text)).policy_document())

    day_us = 86_400_000_000
    assert document["retention"] == {
        "classes": {
            "standard": {
                "keep_us": 400 * day_us,
                "payload_keep_us": 90 * day_us,
                "notice_us": 7 * day_us,
            },
            "short": {"keep_us": day_us // 2, "payload_keep_us": None, "notice_us": 0},
        },
        "targets": {"orders": "standard"},
    }


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            TARGET + 'retention = "standard1"' + RETENTION,
            'target "orders": retention "standard1" is no class, the nearest is "standard"',
        ),
        (TARGET + 'retention = "x"', 'retention "x" is no class, there is no [[retention]]'),
        ('[[retention]]\nname = "x"', "retention[1].keep: missing"),
        (RETENTION + RETENTION, 'retention name "standard" is given twice'),
        ('[[retention]]\nname = "x"\nkeep = "0s"', "keep must be more than nothing"),
        ('[[retention]]\nname = "x"\nkeep = "36526d"', "at most 36525d"),
        ('[[retention]]\nname = "x"\nkeep = "1d"\nnotice = "36526d"', "at most 36525d"),
        ('[[retention]]\nname = "x"\nkeep = "1d"\npayload_keep = "2d"', "longer than keep"),
        ('[[retention]]\nname = "x"\nkep = "1d"', 'the nearest valid one is "keep"'),
    ],
)
def test_a_slip_in_a_retention_class_is_named(tmp_path: Path, text: str, problem: str) -> None:
    assert problem in refusal(tmp_path, MINIMAL + text)


def test_each_worker_has_a_name_of_its_own_and_one_alone_has_the_gateways(tmp_path: Path) -> None:
    assert load(written(tmp_path, MINIMAL)).gateway.names == ("gw1",)
    assert load(written(tmp_path, MINIMAL + "workers = 2\n")).gateway.names == ("gw1-1", "gw1-2")
    long = MINIMAL.replace("gw1", "g" * 61)
    assert len(load(written(tmp_path, long + "workers = 9\n")).gateway.names[-1]) == 63


# --- rules


def rule(name: str, action: str, **when: object) -> str:
    return to_toml({"rule": [{"name": name, "action": action, "when": when}]})


def test_rules_are_part_of_the_policy_document_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = MINIMAL + TARGET + 'default = "deny"\ntags = { env = "prod" }\n'
    text += rule("no DDL", "deny", **{"class": ["schema", "admin"], "target": ["orders"]})
    text += rule("the rest", "allow")
    document = json.loads(load(written(tmp_path, text)).policy_document())

    assert document["rules"] == [
        {
            "action": "deny",
            "name": "no DDL",
            "when": {"class": ["admin", "schema"], "target": ["orders"]},
        },
        {"action": "allow", "name": "the rest", "when": {}},
    ]
    (target,) = document["targets"]
    assert (target["default"], target["tags"]) == ("deny", {"env": "prod"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (rule("a", "deny", klass=["read"]), 'unknown key, the nearest valid one is "class"'),
        (rule("a", "deny", **{"class": ["writes"]}), "rule[1].when.class[1]: "),
        (rule("a", "deny", operation=[]), "rule[1].when.operation: "),
        (rule("a", "allow", target=["order"]), 'no target, the nearest is "orders"'),
        (rule("a", "deny", text="(drop"), "rule[1].when.text: no pattern of RE2: missing )"),
        (rule("a", "deny", text="(?=drop)"), "rule[1].when.text: no pattern of RE2"),
        (rule("a", "deny", resource=["a.b.c.d"]), "rule[1].when.resource[1]: "),
        (rule("a", "allow", resource=["a.b.c.d:22", "a.b.c.d:x"]), "rule[1].when.resource[2]: "),
        (rule("a", "allow", resource=["[::1]:22", "[::g]:22"]), "rule[1].when.resource[2]: "),
        (rule("a", "deny", tags={}), "rule[1].when.tags: "),
        (rule("default", "deny"), "rule[1].name: "),
        (rule("a", "deny") * 2, 'rule name "a" is given twice'),
        (rule("a", "ask"), "rule[1].action: "),
        ('[[rule]]\nname = "a"', "rule[1].action: missing"),
    ],
)
def test_a_rule_that_is_not_understood_fails_with_its_place(
    tmp_path: Path, text: str, said: str
) -> None:
    assert said in refusal(tmp_path, MINIMAL + TARGET + text)


@pytest.mark.parametrize(
    ("first", "second", "is_reached"),
    [
        (rule("a", "deny"), rule("b", "allow", groups=["x"]), False),
        (rule("a", "allow"), rule("b", "deny", operation=["DROP TABLE"]), False),
        (
            rule("a", "deny", operation=["DELETE", "UPDATE"]),
            rule("b", "allow", operation=["UPDATE"], resource=["t"]),
            False,
        ),
        (
            rule("a", "deny", tags={"env": "prod"}),
            rule("b", "allow", tags={"env": "prod", "team": "x"}),
            False,
        ),
        (rule("a", "allow", resource=["t", "u"]), rule("b", "allow", resource=["t"]), False),
        (rule("a", "deny", text="x"), rule("b", "deny", text="x", groups=["g"]), False),
        # Of the same words the one that allows is about less than the one that denies.
        (rule("a", "allow", resource=["t"]), rule("b", "deny", resource=["t"]), True),
        (rule("a", "allow", operation=["SELECT"]), rule("b", "deny", operation=["SELECT"]), True),
        (
            rule("a", "allow", text="x"),
            rule("b", "allow", text="x", **{"class": ["unknown"]}),
            True,
        ),
        (rule("a", "deny", operation=["DELETE"]), rule("b", "allow", groups=["x"]), True),
        (rule("a", "deny", groups=["x"]), rule("b", "allow", groups=["x", "y"]), True),
        (rule("a", "deny", tags={"env": "prod"}), rule("b", "deny", tags={"env": "test"}), True),
        (rule("a", "deny", rows_over=5), rule("b", "deny", rows_over=9), False),
        (rule("a", "deny", rows_over=9), rule("b", "deny", rows_over=5), True),
        (rule("a", "deny", rows_over=5), rule("b", "deny"), True),
    ],
)
def test_a_rule_that_is_never_reached_is_refused(
    tmp_path: Path, first: str, second: str, is_reached: bool
) -> None:
    text = MINIMAL + TARGET + first + second

    if is_reached:
        assert len(load(written(tmp_path, text)).rule) == 2
    else:
        assert refusal(tmp_path, text).endswith(
            'rule "b" is never reached: all that it is about, rule "a" decides before it'
        )
