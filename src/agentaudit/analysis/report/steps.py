"""How a reader checks a report without us, and the files that it carries for that.

A carried file is base64 in an element that names it, so that `sed` and `base64` take it out of the
page: nothing that was recorded can pass for that, because no `<` of it is left as it is. Each is
made of its content alone, without names of users or times of today: the same proof is the same
bytes.
"""

from __future__ import annotations

import gzip
import io
import shlex
import tarfile
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agentaudit.analysis.report import standalone
from agentaudit.analysis.report.facts import Blob, CheckStep, Facts, SessionFacts
from agentaudit.analysis.report.texts import line
from agentaudit.archive.layout import Layout
from agentaudit.archive.prove import prove
from agentaudit.errors import AgentauditError

if TYPE_CHECKING:
    from agentaudit.analysis.report.reading import Question

MAX_PROOF_EVENTS: Final = 5_000
MAX_PROOF_BYTES: Final = 16 << 20
MAX_UNPACKED_BYTES: Final = 128 << 20
"""Of all proofs together, compressed."""
MAX_POLICY_BYTES: Final = 64 << 10
SUMS: Final = "SHA256SUMS"


def blob(name: str, what: str, data: bytes) -> Blob:
    """Return a file that a report carries."""
    return Blob(name=name, what=what, sha256=sha256(data).hexdigest(), size=len(data), data=data)


def program() -> Blob:
    """Return the program that checks proofs with Python's standard library and openssl."""
    data = Path(standalone.__file__).read_bytes()
    return blob("check.py", "checks a proof; Python's standard library and openssl alone", data)


def sums(blobs: Sequence[Blob]) -> Blob:
    """Return the list of all carried files, as `sha256sum --check` reads it."""
    text = "".join(f"{each.sha256}  {each.name}\n" for each in blobs)
    return blob(SUMS, "digests of the files below", text.encode())


def proofs(
    layout: Layout, sessions: Sequence[SessionFacts], disclose: str, chosen: Collection[str]
) -> tuple[list[Blob], list[SessionFacts]]:
    """Return a proof of each session of `chosen` that fits, and the sessions that name theirs."""
    blobs: list[Blob] = []
    told: list[SessionFacts] = []
    room = MAX_PROOF_BYTES
    for session in sessions:
        data, why = None, "the segments that it lies in are too large to hash for every session"
        if session.session_id in chosen:
            data, why = _proof(layout, session, disclose, room)
        name = ""
        if data is not None:
            room -= len(data)
            name = f"proof-{session.session_id}.tar.gz"
            blobs.append(blob(name, f"proof of session {session.number}", data))
        told.append(replace(session, proof=name, proof_words=why))
    return blobs, told


def _proof(
    layout: Layout, session: SessionFacts, disclose: str, room: int
) -> tuple[bytes | None, str]:
    """Return the proof of a session as a tar file, and what is to be said of it."""
    if session.events > MAX_PROOF_EVENTS:
        return None, f"{session.events:,} events, and at most {MAX_PROOF_EVENTS:,} are carried"
    with tempfile.TemporaryDirectory() as folder:
        try:
            out = Path(folder) / "proof"
            done = prove(layout.root, session.session_id, out=out, disclose=disclose)
        except AgentauditError as error:
            return None, line(error)
        size = sum(path.stat().st_size for path in out.iterdir())
        data = _packed(out, session.session_id) if size <= MAX_UNPACKED_BYTES else None
    if data is None or len(data) > room:
        return None, f"the proofs in a report are {MAX_PROOF_BYTES >> 20} MiB at most"
    words = f"{done.events:,} events, " + (
        "complete" if done.is_whole else "not shown to be complete"
    )
    if done.live_events:
        words += f"; {done.live_events:,} more are not sealed yet"
    if done.withheld:
        words += f"; of {done.withheld:,} the payload was purged"
    return data, words


def _packed(folder: Path, name: str) -> bytes:
    """Return a folder as a compressed tar file that depends on nothing but its content."""
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", filename="", mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for path in sorted(folder.iterdir()):
            data = path.read_bytes()
            member = tarfile.TarInfo(f"{name}/{path.name}")
            member.size, member.mode = len(data), 0o600
            tar.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def checks(
    facts: Facts, blobs: Sequence[Blob], names: Mapping[str, str], asked: Question
) -> Iterator[CheckStep]:
    """Yield the steps by which a reader checks the report; together they are one shell script."""
    quoted = {name: shlex.quote(value) for name, value in names.items()}
    yield CheckStep(
        title="Name what you have",
        words="A POSIX shell with coreutils, sed, tar, openssl and Python 3 is all that steps 1 to "
        "4 need. The keys are the two lines that the operator gave you by another way than this "
        "file: a key that came with the evidence proves nothing.",
        command=f"REPORT=${{REPORT:-{quoted['report']}}}\n"
        f"KEYS=${{KEYS:-{quoted['keys']}}}\n"
        f"ARCHIVE=${{ARCHIVE:-{quoted['archive']}}}\n"
        "WORK=${WORK:-$(mktemp -d)}",
        expect="",
    )
    yield CheckStep(
        title="Take the files out of this page",
        words="Each is base64 in an element that names it; the list has the digest of every one, "
        "and is itself named in the manifest below.",
        command="take() {\n"
        '    sed -n "/^<pre data-file=\\"$1\\">\\$/,/^<.pre>\\$/p" "$REPORT" |\n'
        '        sed "1d;\\$d" | base64 -d > "$WORK/$1"\n'
        "}\n"
        f"take {SUMS}\n"
        f'for name in $(cut -d" " -f3 "$WORK/{SUMS}"); do take "$name"; done\n'
        f'(cd "$WORK" && sha256sum --check {SUMS})',
        expect="OK behind each name",
    )
    signatures = "\n".join(
        f'signed_by "$WORK/checkpoint-{each.gateway}" "$(grep -F {shlex.quote(each.origin + "+")} '
        '"$KEYS" | head -n 1)"'
        for each in facts.gateways
    )
    yield CheckStep(
        title="Check the signature of each checkpoint, with OpenSSL",
        words="A checkpoint is a signed note: origin, number of entries and root of the gateway's "
        "log. An Ed25519 signature over these three lines stands below them.",
        command="signed_by() {  # note, verifier key\n"
        '    sed \'/^$/,$d\' "$1" > "$WORK/text"\n'
        "    { printf '\\060\\052\\060\\005\\006\\003\\053\\145\\160\\003\\041\\000'\n"
        '      printf %s "${2#*+*+}" | base64 -d | tail -c 32; } > "$WORK/key.der"\n'
        '    grep -F -- "— ${2%%+*} " "$1" | cut -d" " -f3 | base64 -d | tail -c 64 '
        '> "$WORK/signature"\n'
        '    openssl pkeyutl -verify -pubin -keyform DER -inkey "$WORK/key.der" \\\n'
        '        -rawin -in "$WORK/text" -sigfile "$WORK/signature"\n'
        "}\n" + signatures,
        expect="Signature Verified Successfully",
    )
    carried = [each for each in facts.sessions if each.proof]
    if carried:
        loop = "\n".join(
            f'tar -xzf "$WORK/{each.proof}" -C "$WORK"\n'
            f'python3 "$WORK/check.py" "$WORK/{each.gateway}.vkey" "$WORK/{each.session_id}"'
            for each in carried
        )
        keys = "\n".join(
            f'grep -F {shlex.quote(each.origin + "+")} "$KEYS" > "$WORK/{each.gateway}.vkey"'
            for each in facts.gateways
        )
        yield CheckStep(
            title="Check the proof of each session",
            words="The program check.py is printed in the manifest: read it first. It needs "
            "nothing of ours. Beside each command stand a file, <number>.text, and a digest: that "
            "of the statement in the proof's folder, as sha256sum gives it.",
            command=f"{keys}\n{loop}",
            expect="complete: from its open to its close nothing is missing",
        )
    keys_option = ' --key "$KEYS"'
    verify = f'agentaudit verify{keys_option} --deep "$ARCHIVE"'
    since = "\n".join(
        f'agentaudit verify{keys_option} --since "$WORK/checkpoint-{each.gateway}" "$ARCHIVE"'
        for each in facts.gateways
    )
    yield CheckStep(
        title="Check the archive itself, with agentaudit",
        words="Who has the archive can check all of it, and that it still contains the checkpoints "
        "of this report: a log that was rolled back or begun anew does not. Keep the checkpoints "
        "for later: they are what catches a change.",
        command=f"{verify}\n{since}",
        expect="yes: consistent and signed",
    )
    yield CheckStep(
        title="Make this report again",
        words="The same question to the same archive gives the same bytes, as long as the archive "
        "has not grown: under the same names of files, and with the same zlib.",
        command=_again(asked, quoted),
        expect="",
    )


def _again(asked: Question, quoted: Mapping[str, str]) -> str:
    words = ["agentaudit report", '--archive "$ARCHIVE"']
    if asked.key:
        words.append('--key "$KEYS"')
    words += [f"--session {shlex.quote(session)}" for session in asked.sessions]
    if asked.request is not None:
        words.append(f"--request {asked.request}")
    for name, time in (("since", asked.since), ("until", asked.until)):
        if time is not None:
            words.append(f"--{name} {time.isoformat()}")
    for name, text in (("user", asked.user), ("agent", asked.agent), ("target", asked.target)):
        if text is not None:
            words.append(f"--{name} {shlex.quote(line(text))}")
    from agentaudit.analysis.report.reading import MAX_COMMANDS, MAX_ROWS

    if asked.commands != MAX_COMMANDS:
        words.append(f"--limit {asked.commands}")
    if asked.rows != MAX_ROWS:
        words.append(f"--rows {asked.rows}")
    if asked.disclose != "text":
        words.append(f"--disclose {asked.disclose}")
    if not asked.replay:
        words.append("--without-replay")
    if asked.deep:
        words.append("--deep")
    words += [
        f"--{name} {quoted[name]}"
        for name in ("policy", "tsa", "since-checkpoint")
        if name in quoted
    ]
    again = " \\\n    ".join(words)
    made = f'"$WORK"/{quoted["report"]}'
    return f'{again} \\\n    --out {made}\ncmp "$REPORT" {made}'
