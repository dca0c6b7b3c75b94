"""SSH certificates: got from the control API, used by OpenSSH, and what is refused of them."""

from __future__ import annotations

import base64
import contextlib
import json
import shlex
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import asyncssh
import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agentaudit.cli import main
from agentaudit.demo.gateways import Gateway
from agentaudit.demo.processes import until
from agentaudit.errors import IdentityError, SettingsError
from agentaudit.gateway.ssh_authority import Authority as SshAuthority
from agentaudit.gateway.ssh_authority import has_signed, public_key
from agentaudit.protocols.ssh_certificates import parse_certificate, parse_certificate_line
from tests.gateway.test_control import People
from tests.peers.certificates import Authority
from tests.peers.gateway import gateways
from tests.peers.issuers import SigningIssuer
from tests.peers.sshd import Sshd
from tests.ssh.client import OpenSsh, make_key, recorded

FORWARDS = {
    "name": "to the host itself",
    "when": {"protocol": ["ssh"], "operation": ["forward"], "resource": ["127.0.0.1:*"]},
    "action": "allow",
}


@dataclass(frozen=True, slots=True)
class Site:
    """A gateway in front of three names of one host, and those who ask it."""

    folder: Path
    gw: Gateway
    people: People
    authority: Path

    def ask(self, key: Path, *targets: str, **claims: Any) -> httpx.Response:
        """Ask for a certificate for a public key."""
        token = claims.pop("token", None) or self.people.issuer.token(**claims)
        line = key.with_suffix(".pub").read_text()
        return self.people.ask(
            "POST", "/v1/ssh-certs", token, public_key=line, targets=list(targets)
        )

    def certificate(self, key: Path, *targets: str, **claims: Any) -> dict[str, Any]:
        """Get one, and write it beside the key."""
        answer = self.ask(key, *targets, **claims)
        assert answer.status_code == 201, answer.text
        got: dict[str, Any] = answer.json()
        beside(key).write_text(got["certificate"] + "\n")
        return got

    def forge(self, key: Path, *options: str, authority: Path | None = None) -> None:
        """Let `ssh-keygen` sign a certificate, as if somebody had the authority's key."""
        by = str(authority or self.authority)
        public = str(key.with_suffix(".pub"))
        subprocess.run(["ssh-keygen", "-q", "-s", by, "-I", "x", *options, public], check=True)

    def ssh(self, key: Path, *words: str, user: str = "host-1") -> Any:
        """Run `ssh` by a key and its certificate alone."""
        client = OpenSsh.of(self.folder, self.gw.ssh_port, "", self.folder / "gateway_key")
        options = [*client.options[:-4], "-o", "PreferredAuthentications=publickey"]
        argv = ["ssh", *options, "-i", str(key), "-o", f"CertificateFile={beside(key)}"]
        argv += ["-p", str(client.port), "-l", user, "127.0.0.1", *words]
        return client.run(argv)


def beside(key: Path) -> Path:
    return key.with_name(f"{key.name}-cert.pub")


@contextlib.contextmanager
def site_of(
    folder: Path, sshd: Sshd, tls: Authority, issuer: SigningIssuer, **own: Any
) -> Iterator[Site]:
    for name in ("gateway_key", "ca"):
        make_key(folder / name)
    with gateways(folder, tls, lambda: issuer) as make:
        gw = make(
            sshd.target(),
            sshd.target("asked", access="request", approvers=["dba"], max_window="1h"),
            sshd.target("elsewhere", groups=["others"]),
            sshd.target("certified", key_file=None, user_ca_key_file=str(sshd.user_ca_key_file)),
            issuer=issuer,
            listen={"ssh": "127.0.0.1:0", "control": "127.0.0.1:0"},
            tables={"rule": [FORWARDS], "roles": {"admin": ["root"]}},
            ssh_host_key_file=str(folder / "gateway_key"),
            ssh_ca_key_file=str(folder / "ca"),
            **own,
        )
        with contextlib.closing(People(gw, issuer)) as people:
            yield Site(folder, gw, people, folder / "ca")


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, authority: Authority, sshd: Sshd
) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("certificates")
    with (
        contextlib.closing(SigningIssuer()) as issuer,
        site_of(folder, sshd, authority, issuer) as found,
    ):
        yield found


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "id"
    make_key(path)
    return path


def shown(path: Path) -> str:
    """Return what OpenSSH reads in a certificate."""
    return subprocess.run(
        ["ssh-keygen", "-L", "-f", str(path)], capture_output=True, check=True, text=True
    ).stdout


@pytest.mark.parametrize(
    "kind",
    [["ed25519"], ["ecdsa", "-b", "256"], ["ecdsa", "-b", "521"], ["rsa", "-b", "3072"]],
    ids="-".join,
)
def test_a_certificate_lets_in_as_often_as_its_bearer_likes(
    site: Site, tmp_path: Path, kind: list[str]
) -> None:
    key = tmp_path / "id"
    subprocess.run(["ssh-keygen", "-q", "-N", "", "-t", *kind, "-f", str(key)], check=True)
    got = site.certificate(key, "host-1", user="ana", agent="copilot-7")
    assert got["key_id"] == f"{site.people.issuer.issuer} ana copilot-7"
    assert 0 < got["expires_at"] - got["valid_after"] <= 15 * 60 * 1_000_000
    text = shown(beside(key))
    for said in ("user certificate", "host-1", "permit-pty", got["key_id"], got["serial"]):
        assert said in text
    assert "Critical Options: (none)" in text
    for number in range(2):
        assert site.ssh(key, "echo", f"in {number}").stdout == f"in {number}\n".encode()
    other = site.ssh(key, "true", user="asked")
    assert other.returncode == 255
    assert b"for another target" in other.stderr
    beside(key).write_text("")
    bare = site.ssh(key, "true")
    assert bare.returncode == 255, "a public key alone opens nothing"


def test_a_certificate_without_names_is_for_all_that_its_bearer_may_use(
    site: Site, key: Path
) -> None:
    assert site.certificate(key)["targets"] == ["host-1", "asked", "certified"]
    assert site.ask(key, "host-1", "elsewhere").status_code == 403
    assert site.ask(key, "host-1", groups=["none"]).status_code == 403
    assert site.ask(key, groups=["none"]).status_code == 403
    refused = site.ask(key, token=site.people.reviewer())
    assert (refused.status_code, "connects" in refused.json()["error"]) == (403, True)


def test_keys_that_are_none_or_too_weak_are_refused(site: Site, tmp_path: Path) -> None:
    token = site.people.issuer.token()

    def said(line: str) -> tuple[int, str]:
        answer = site.people.ask("POST", "/v1/ssh-certs", token, public_key=line)
        return answer.status_code, answer.json()["error"]

    weak = tmp_path / "weak"
    subprocess.run(
        ["ssh-keygen", "-q", "-N", "", "-t", "rsa", "-b", "2048", "-f", str(weak)], check=True
    )
    off_curve = asyncssh.generate_private_key("ecdsa-sha2-nistp256").export_public_key().decode()
    words = off_curve.split()
    spoiled = words[1][:-8] + ("AAAA" if words[1][-8:-4] != "AAAA" else "BBBB") + words[1][-4:]
    for line, why in (
        (weak.with_suffix(".pub").read_text(), "3072"),
        ("ssh-dss AAAA", "that are taken"),
        ("ssh-ed25519 !!!", "base64"),
        ("ssh-ed25519 AAAA", "fewer bytes"),
        (f"{words[0]} {spoiled}", "none of a key"),
        ("command=x ssh-ed25519 AAAA", "base64"),
        (weak.read_text(), "one line"),
    ):
        status, error = said(line)
        assert (status, why in error) == (400, True), error
        assert line.split()[1][:40] not in error


def test_what_a_certificate_says_is_held_against_who_comes(site: Site, key: Path) -> None:
    own = key.with_name("own")
    make_key(own)
    cases: list[tuple[str, list[str], Path | None]] = [
        ("is over", ["-n", "host-1", "-V", "-2h:-1h"], None),
        ("not valid yet", ["-n", "host-1", "-V", "+1h:+2h"], None),
        ("for another target", ["-n", "asked"], None),
        ("for another target", [], None),
        ("critical option", ["-n", "host-1", "-O", "critical:x@example.com=1"], None),
        ("critical option", ["-n", "host-1", "-O", "force-command=true"], None),
        ("for another address", ["-n", "host-1", "-O", "source-address=10.0.0.0/8"], None),
        ("not known here", ["-n", "host-1", "-O", "source-address=127.0.0.0/8"], None),
        ("not known here", ["-n", "host-1"], None),
        ("", ["-n", "host-1"], own),
        ("", ["-n", "host-1"], key),
    ]
    wrong = []
    for why, options, authority in cases:
        site.forge(key, *options, authority=authority)
        tried = site.ssh(key, "true")
        said = b"agentaudit: the certificate" in tried.stderr
        if tried.returncode != 255 or why.encode() not in tried.stderr or said != bool(why):
            wrong.append((why, options, tried))
    assert wrong == []


def test_what_openssh_offers_to_nobody_is_refused_too(tmp_path: Path, key: Path) -> None:
    """A host's certificate, and one that was changed: its client holds them back."""
    make_key(tmp_path / "ca")
    authority = SshAuthority.read(tmp_path / "ca", "ca")
    public = str(key.with_suffix(".pub"))

    def verify(*options: str, spoil: int | None = None) -> None:
        argv = ["ssh-keygen", "-q", "-s", str(tmp_path / "ca"), "-I", "x", "-n", "host-1"]
        subprocess.run([*argv, *options, public], check=True)
        found = parse_certificate_line(beside(key).read_text())
        if spoil is not None:
            blob = bytearray(found.blob)
            blob[spoil] ^= 1
            found = parse_certificate(bytes(blob))
        now_us = time.time_ns() // 1000
        authority.verify(found, target="host-1", peer="127.0.0.1", now_us=now_us)

    verify()
    with pytest.raises(SettingsError, match="past the gateway"):
        authority.require_another(authority, "host-1")
    with pytest.raises(IdentityError, match="is a host's"):
        verify("-h")
    for place in (-1, 100, 110):  # of the signature, of the key, of the serial number
        with pytest.raises(IdentityError, match="signature is wrong"):
            verify(spoil=place)


def test_a_security_key_must_have_been_touched() -> None:
    """As PROTOCOL.u2f has it: of the application, flags, a counter and the message."""
    private = Ed25519PrivateKey.generate()
    raw = private.public_key().public_bytes_raw()
    words = (b"sk-ssh-ed25519@openssh.com", raw, b"ssh:")
    blob = b"".join(len(word).to_bytes(4, "big") + word for word in words)
    key = public_key(f"{words[0].decode()} {base64.b64encode(blob).decode()}")

    def has_signed_with(flags: int) -> bool:
        tail = bytes([flags]) + (7).to_bytes(4, "big")
        told = sha256(b"ssh:").digest() + tail + sha256(b"data").digest()
        parts = (words[0], private.sign(told))
        signature = b"".join(len(part).to_bytes(4, "big") + part for part in parts) + tail
        return has_signed(key, b"data", signature)

    assert has_signed_with(1)
    assert not has_signed_with(0)


async def test_a_certificate_is_of_no_use_without_its_key(site: Site, key: Path) -> None:
    site.certificate(key, "host-1")
    thief = asyncssh.generate_private_key("ssh-ed25519")
    stolen = asyncssh.read_certificate(str(beside(key)))
    # The library holds the two against each other, a thief does not.
    pair = asyncssh.load_keypairs([str(key)])[0]
    pair.set_certificate(stolen)
    pair._key = thief
    with pytest.raises(asyncssh.PermissionDenied):
        await asyncssh.connect(
            "127.0.0.1",
            site.gw.ssh_port,
            username="host-1",
            client_keys=[pair],
            known_hosts=None,
            preferred_auth="publickey",
            config=[],
        )


async def test_a_client_that_offers_keys_without_end_is_sent_away(site: Site) -> None:
    keys = [asyncssh.generate_private_key("ssh-ed25519") for _ in range(100)]
    with pytest.raises((asyncssh.DisconnectError, asyncssh.PermissionDenied)) as ended:
        await asyncssh.connect(
            "127.0.0.1",
            site.gw.ssh_port,
            username="host-1",
            client_keys=keys,
            agent_path=None,
            known_hosts=None,
            config=[],
        )
    assert "too many public keys" in str(ended.value)


def test_who_is_blocked_or_whose_record_is_gone_is_not_let_in(site: Site, key: Path) -> None:
    root = site.people.reviewer("rita", "root")
    serial = site.certificate(key, "host-1", user="bob")["serial"]
    assert site.ssh(key, "echo", "in").stdout == b"in\n"
    block = site.people.ask("POST", "/v1/blocks", root, user="bob", reason="wild").json()
    until(lambda: b"you are blocked" in site.ssh(key, "true").stderr, "it is in force")
    assert site.people.ask("DELETE", f"/v1/blocks/{block['id']}", root).is_success
    until(lambda: site.ssh(key, "echo", "in").stdout == b"in\n", "it is lifted")
    with contextlib.closing(sqlite3.connect(site.gw.directory / "state.db")) as state, state:
        state.execute("DELETE FROM certificates WHERE serial = ?", (int(serial),))
    tried = site.ssh(key, "true")
    assert tried.returncode == 255
    assert b"not known here" in tried.stderr


def test_a_grant_and_its_end_hold_for_certificates_of_before(site: Site, key: Path) -> None:
    people = site.people
    token = people.issuer.token("cleo")
    site.certificate(key, "asked", token=token)
    refused = site.ssh(key, "true", user="asked")
    assert (refused.returncode, b"must be granted first" in refused.stderr) == (254, True)
    (request,) = people.pending(people.reviewer())
    assert people.decide(request, people.reviewer()).status_code == 200
    until(lambda: people.ask("GET", "/v1/grants", token).json()[0]["in_force"], "it is in force")
    for _ in range(2):
        assert site.ssh(key, "echo", "in", user="asked").stdout == b"in\n"
    grant = people.ask("GET", "/v1/grants", token).json()[0]
    assert people.ask("DELETE", f"/v1/grants/{grant['id']}", people.reviewer()).is_success
    ended = site.ssh(key, "true", user="asked")
    assert (ended.returncode, b"has had its time" in ended.stderr) == (254, True)


def test_a_name_that_an_agent_chose_is_one_word(site: Site, key: Path) -> None:
    got = site.certificate(key, "host-1", user="eve (serial 1) é", agent="a; $(b) | c")
    assert got["key_id"].isascii()
    assert got["key_id"].isprintable()
    assert got["key_id"].count(" ") == 2
    assert site.ssh(key, "echo", "in").stdout == b"in\n"


def test_a_host_is_logged_in_at_by_an_authority_and_names_the_agent(
    site: Site, key: Path, sshd: Sshd
) -> None:
    site.certificate(key, "certified", user="dan", agent="bot-9")
    before = len(sshd.log.read_text())
    assert site.ssh(key, "echo", "in", user="certified").stdout == b"in\n"
    log = sshd.log.read_text()[before:]
    assert f"ID {site.people.issuer.issuer} dan bot-9 (serial " in log
    through = site.ssh(key, "-W", f"127.0.0.1:{sshd.port}", user="certified")
    assert through.stdout.startswith(b"SSH-2.0-"), "connections that a rule allows pass"


@pytest.mark.parametrize("given", [True, False])
def test_the_command_line_gets_one_and_says_how_to_use_it(
    site: Site,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: bool,
) -> None:
    monkeypatch.setenv("AGENTAUDIT_CONTROL", site.gw.control_url)
    monkeypatch.setenv("AGENTAUDIT_TOKEN", site.people.issuer.token())
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    key = tmp_path / "mine"
    make_key(key)
    words = ["--key", f"{key}.pub"] if given else ["--out", str(tmp_path / "out")]
    gateway = f"127.0.0.1:{site.gw.ssh_port}"
    assert main(["ssh-cert", "host-1", "--gateway", gateway, "--json", *words]) == 0
    said = json.loads(capsys.readouterr().out)
    assert Path(said["key_file"]) == (key if given else tmp_path / "out" / "id_ed25519")
    assert Path(said["key_file"]).stat().st_mode & 0o777 == 0o600
    (command,) = said["commands"]
    client = OpenSsh.of(tmp_path, site.gw.ssh_port, "", site.folder / "gateway_key")
    argv = shlex.split(command)
    assert argv[-1] == "host-1@127.0.0.1"
    assert client.run([*argv[:-1], *client.options[:-4], argv[-1], "echo in"]).stdout == b"in\n"

    assert main(["ssh-cert", "elsewhere", *words]) == 1
    assert "in no group" in capsys.readouterr().err
    if given:
        assert main(["ssh-cert", "--key", str(key)]) == 2
        assert "private key" in capsys.readouterr().err
    else:
        assert main(["ssh-cert"]) == 0
        printed = capsys.readouterr()
        assert len(printed.out.splitlines()) == 3
        assert "give --gateway" in printed.err
        assert (tmp_path / "state" / "agentaudit" / "ssh" / "id_ed25519").exists()


def test_certificates_outlive_a_restart_and_may_be_bound_to_an_address(
    tmp_path: Path, sshd: Sshd, authority: Authority, signing_issuer: SigningIssuer, key: Path
) -> None:
    with site_of(
        tmp_path, sshd, authority, signing_issuer, ssh_cert_source_address=True, ssh_cert_life="5m"
    ) as site:
        got = site.certificate(key, "host-1")
        assert got["expires_at"] - got["valid_after"] <= 5 * 60 * 1_000_000
        assert "source-address 127.0.0.1" in shown(beside(key))
        assert site.ssh(key, "echo", "in").stdout == b"in\n"
        site.gw.restart()
        assert site.ssh(key, "echo", "in").stdout == b"in\n"
        log, secret = site.gw.log_text(), site.authority.read_text().splitlines()[1]
        rows = recorded(site.gw).sql(
            "SELECT labels['certificate'] FROM sessions WHERE protocol = 'ssh'"
        )
        assert rows.fetchall() == [(got["serial"],), (got["serial"],)]
        assert secret not in log
        data = got["certificate"].split()[1]
        assert data not in log
        # An authority that others can read is none.
        site.authority.chmod(0o640)
        checked = subprocess.run(
            [sys.executable, "-m", "agentaudit.cli", "check", "--config", str(site.gw.config)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert checked.returncode == 1
        assert "its mode is 0640" in checked.stdout + checked.stderr
        assert checked.stdout.count("logged in as") == 4, "at one of them by a certificate"


def test_a_gateway_without_an_authority_says_so(
    tmp_path: Path, authority: Authority, sshd: Sshd, signing_issuer: SigningIssuer, key: Path
) -> None:
    with gateways(tmp_path, authority, lambda: signing_issuer) as make:
        gw = make(sshd.target(), listen={"control": "127.0.0.1:0"})
        with contextlib.closing(People(gw, signing_issuer)) as people:
            answer = Site(tmp_path, gw, people, key).ask(key, "host-1")
    assert answer.status_code == 400
    assert "signs no SSH certificates" in answer.json()["error"]
    assert "ssh_ca_key_file" in answer.json()["hint"]
