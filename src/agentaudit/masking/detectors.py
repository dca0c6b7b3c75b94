r"""The kinds of secret and of personal data that are found by what they look like.

A field may end anywhere and a NUL stands between two, so no match crosses one, and none but a
private key's crosses a line. What comes before a secret is bounded: it may have to be held back
until the secret is there. All patterns run as one alternation over data that has none of it, which
decides how they are written: a run that begins with a common byte is `+` with its length checked
afterwards, because a counted one makes a state of the automaton of each place in a word.

Patterns read bytes as Latin-1, so that any bytes will do; `\b` is a boundary of ASCII words.
Where a quote is missing at the end of the text, as in an error that cites half a statement, what is
there is hidden to the end of its line.

Syntax: github.com/google/re2/wiki/Syntax
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any, Final, Literal

import re2

from agentaudit.masking import checks
from agentaudit.masking.checks import all_of, of_length

_MAX_MEMORY: Final = 8 << 20
"""Bytes that one pattern may take, compiled and while it searches."""

_RETRIED_BYTES: Final = 64
"""Up to how long a match that is none is searched again from its second word.

Longer ones are left behind: a text could be built of matches that begin in one another.
"""

Group = Literal["secrets", "personal"]


HINTS: Final = ("bare", "beside", "spaced", "dots", "colons", "letters")
"""Fields of a detector beside its anchors that say what each of its matches has."""


@dataclass(frozen=True, slots=True)
class Detector:
    """A kind of secret: its pattern, and what is known of every match of it.

    `name` is what a setting says and a mark shows, `title` is for tables. The capturing group of
    `pattern`, if there is one, is what is hidden, else the whole match; `check` has a say on that.

    A match need be looked for only where there is one of `anchors`, or a number or run of the
    kinds that `_native.sift.Sieve` knows: of that many `bare` digits, or digits with something
    `beside` them, or `spaced` ones, or with so many `dots`, `colons` or `letters`.
    """

    name: str
    title: str
    group: Group
    pattern: str
    anchors: tuple[bytes, ...] = ()
    bare: int = 0
    beside: int = 0
    spaced: int = 0
    dots: int = 0
    colons: int = 0
    letters: int = 0
    check: Callable[[bytes], bool] | None = None
    retries: bool = False

    def find(self, data: bytes) -> Iterator[tuple[int, int]]:
        """Yield the spans of what is hidden in `data`, in order; none overlaps another."""
        pattern = compiled(self.pattern)
        group = min(pattern.groups, 1)
        at = 0
        while at < len(data) and (match := pattern.search(data, at)):
            start, end = match.span(group)
            at = match.end()
            if self.check is None or self.check(data[start:end]):
                yield start, end
            elif self.retries and end - start <= _RETRIED_BYTES:
                words = [place for sign in b" -" if (place := data.find(sign, start, end)) > start]
                at = min(words, default=at)


@cache
def compiled(pattern: str, max_memory: int = _MAX_MEMORY) -> Any:
    """Return a pattern of RE2 over bytes, compiled."""
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.max_mem = max_memory
    options.log_errors = False
    return re2.compile(pattern.encode("latin-1"), options)


# --- what stands before a secret

_SIGN: Final = r"""(?::=|=>|={1,3}|:)"""
_TO: Final = rf"""["'`\]\\]{{0,3}}[ \t]{{0,4}}{_SIGN}[ \t]{{0,4}}(?:[EeNn]?\\{{0,3}}["']{{1,2}})?"""
"""From a key to its value, in SQL, JSON, the environment, YAML, and in JSON within JSON."""

_KEY_WORDS: Final = (
    r"""(?i:password|passwd|passphrase|passwort|pwd|[_-]pass)"""
    r"""(?i:[_-]?(?:hash|digest|confirmation|new|old)|[0-9])?"""
)
_PASSWORD_ANCHORS: Final = (b"passw", b"passphrase", b"pwd", b"_pass", b"-pass")
_BARE: Final = r"""[^\x00-\x20"'`;&<>{}\\]"""
_LAST: Final = r"""[^\x00-\x20"'`;&<>{}\\,)]"""
"""What a value without quotes may have, and what it may end in."""

_LABEL: Final = r"""["']?[ \t:=#.-]{1,4}["']?"""


def _secret(
    name: str,
    title: str,
    pattern: str,
    *anchors: bytes,
    check: Callable[[bytes], bool] | None = None,
) -> Detector:
    return Detector(name, title, "secrets", pattern, anchors=anchors, check=check)


def _personal(
    name: str,
    title: str,
    pattern: str,
    check: Callable[[bytes], bool],
    *anchors: bytes,
    **hints: Any,
) -> Detector:
    return Detector(name, title, "personal", pattern, anchors, check=check, **hints)


def _ibans() -> str:
    """Return the pattern of IBANs: each country's in its own length.

    A pattern of any length would take the word that follows, and its check would fail.
    """
    lengths = []
    for length, countries in checks.IBAN_LENGTHS.items():
        fours, rest = divmod(length - 4, 4)
        last = f" ?[0-9A-Z]{{{rest}}}" if rest else ""
        lengths.append(rf"(?:{'|'.join(countries)})\d\d(?: ?[0-9A-Z]{{4}}){{{fours}}}{last}")
    return rf"\b(?:{'|'.join(lengths)})\b"


_CARD_ISSUERS: Final = (
    r"4\d{3}|5[1-5]\d\d|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)"  # Visa, Mastercard
    r"|6(?:011|4[4-9]\d|5\d\d|2\d\d)|35(?:2[89]|[3-8]\d)"  # Discover, UnionPay, JCB
)


# --- the table

_CLOUD: Final = (
    _secret(
        "aws_key",
        "AWS access key id",
        r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}\b",
        b"AKIA",
        b"ASIA",
        b"ABIA",
        b"ACCA",
    ),
    _secret(
        "aws_secret",
        "AWS secret access key",
        rf"(?i:secret_?access_?key|aws_?secret(?:_?key)?){_TO}([A-Za-z0-9/+]{{40,}})",
        b"secret",
        check=all_of(of_length(40), checks.is_mixed),
    ),
    _secret(
        "aws_session_token",
        "AWS session token",
        rf"(?i:session_?token|x-amz-security-token){_TO}([A-Za-z0-9/+=%]{{80,}})",
        b"session",
        b"security-token",
    ),
    _secret(
        "google_api_key",
        "Google API key",
        r"\bAIza[A-Za-z0-9_-]{35,}",
        b"AIza",
        check=of_length(39),
    ),
    _secret(
        "google_oauth",
        "Google OAuth client secret or access token",
        r"\b(?:GOCSPX-[A-Za-z0-9_-]{28,}|ya29\.[A-Za-z0-9_-]{20,})",
        b"GOCSPX-",
        b"ya29.",
    ),
    _secret(
        "gcp_private_key_id",
        "Google Cloud private key id",
        rf"(?i:private_key_id){_TO}([0-9a-f]{{40}})\b",
        b"private_key_id",
    ),
    _secret(
        "azure_account_key",
        "Azure account key",
        r"(?i:AccountKey|SharedAccessKey)=([A-Za-z0-9+/]{40,}={0,2})",
        b"accountkey",
        b"sharedaccesskey",
    ),
    _secret(
        "azure_sas",
        "Azure shared access signature",
        r"\b(?i:sig)=([A-Za-z0-9/+%]{43,}={0,2})",
        b"sig=",
    ),
    _secret(
        "azure_client_secret",
        "Azure client secret",
        r"[A-Za-z0-9_~.-]{3}[0-9]Q~[A-Za-z0-9_~.-]{31,}",
        b"Q~",
        check=of_length(37, 38, 39, 40),
    ),
    _secret(
        "digitalocean_token",
        "DigitalOcean token",
        r"\bdo[opr]_v1_[0-9a-f]{64}\b",
        b"doo_v1_",
        b"dop_v1_",
        b"dor_v1_",
    ),
    _secret("databricks_token", "Databricks token", r"\bdapi[0-9a-f]{32}(?:-\d)?\b", b"dapi"),
    _secret(
        "vault_token",
        "HashiCorp Vault token",
        r"\bhv[sbr]\.[A-Za-z0-9_-]{24,}",
        b"hvs.",
        b"hvb.",
        b"hvr.",
    ),
)

_SERVICES: Final = (
    _secret(
        "github_token",
        "GitHub token",
        r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,})",
        b"ghp_",
        b"gho_",
        b"ghu_",
        b"ghs_",
        b"ghr_",
        b"github_pat_",
    ),
    _secret(
        "gitlab_token",
        "GitLab token",
        r"\bgl(?:pat|dt|rt|cbt|ptt|ft|imt|agent|soat|ffct)-"
        r"[A-Za-z0-9_-]{20,}(?:\.[0-9a-z]{2}\.[0-9a-z]{7,9})?",
        b"glpat-",
        b"gldt-",
        b"glrt-",
        b"glcbt-",
        b"glptt-",
        b"glft-",
        b"glimt-",
        b"glagent-",
        b"glsoat-",
        b"glffct-",
    ),
    _secret(
        "slack_token",
        "Slack token",
        r"\b(?:xox[abeoprs]|xapp)-[A-Za-z0-9-]{10,}",
        b"xoxa-",
        b"xoxb-",
        b"xoxe-",
        b"xoxo-",
        b"xoxp-",
        b"xoxr-",
        b"xoxs-",
        b"xapp-",
        check=checks.is_mixed,
    ),
    _secret(
        "slack_webhook",
        "Slack webhook",
        r"(?i:hooks\.slack\.com)/(?:services|workflows|triggers)/([A-Za-z0-9/_-]{20,})",
        b"hooks.slack.com",
        check=checks.is_mixed,
    ),
    _secret(
        "discord_webhook",
        "Discord webhook",
        r"(?i:discord(?:app)?\.com)/api/webhooks/(\d{10,20}/[A-Za-z0-9_-]{40,})",
        b"discord.com/api/webhooks",
        b"discordapp.com/api/webhooks",
    ),
    _secret(
        "stripe_key",
        "Stripe key",
        r"\b(?:[sr]k_(?:live|test)_[A-Za-z0-9]{16,}|whsec_[A-Za-z0-9+/]{24,}={0,2})",
        b"k_live_",
        b"k_test_",
        b"whsec_",
        check=checks.is_mixed,
    ),
    _secret(
        "twilio_token",
        "Twilio auth token",
        # An account's or a key's SID is a name: the secret is what comes with it.
        rf"(?i:twilio[a-z_. -]{{0,24}}(?:token|secret|key)){_TO}([0-9A-Za-z]{{32}})\b",
        b"twilio",
        check=checks.is_mixed,
    ),
    _secret(
        "sendgrid_key",
        "SendGrid key",
        r"\bSG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{16,}",
        b"SG.",
        check=checks.is_mixed,
    ),
    _secret("mailgun_key", "Mailgun key", r"\bkey-[0-9a-z]{32}\b", b"key-", check=checks.is_mixed),
    _secret("npm_token", "npm token", r"\bnpm_[A-Za-z0-9]{36}\b", b"npm_"),
    _secret("pypi_token", "PyPI token", r"\bpypi-AgE[A-Za-z0-9_-]{50,}", b"pypi-AgE"),
    _secret(
        "docker_token",
        "Docker Hub token",
        r"\bdckr_(?:pat|oat)_[A-Za-z0-9_-]{20,}",
        b"dckr_pat_",
        b"dckr_oat_",
    ),
    _secret(
        "huggingface_token",
        "Hugging Face token",
        r"\b(?:hf|api_org)_[A-Za-z0-9]{34}\b",
        b"hf_",
        b"api_org_",
    ),
    _secret(
        "openai_key",
        "OpenAI key",
        r"\bsk-(?:(?:proj|svcacct|admin|None)-[A-Za-z0-9_-]{20,}"
        r"|[A-Za-z0-9_-]{16,}T3BlbkFJ[A-Za-z0-9_-]{16,})",
        b"sk-proj-",
        b"sk-svcacct-",
        b"sk-admin-",
        b"sk-None-",
        b"T3BlbkFJ",
        check=checks.is_mixed,
    ),
    _secret(
        "anthropic_key",
        "Anthropic key",
        r"\bsk-ant-[A-Za-z0-9_-]{20,}",
        b"sk-ant-",
        check=checks.is_mixed,
    ),
    _secret(
        "datadog_key",
        "Datadog key",
        rf"(?i:\bdd[_-](?:api|app|application)[_-]key|datadog[a-z_. -]{{0,16}}key){_TO}"
        r"([0-9a-f]{32}(?:[0-9a-f]{8})?)\b",
        b"dd_a",
        b"dd-a",
        b"datadog",
    ),
    _secret(
        "new_relic_key",
        "New Relic key",
        r"\b(?:NR(?:AK|AA|II|IQ|JS|BR|RA)-[A-Za-z0-9_-]{16,}|[0-9a-z]+NRAL\b)",
        b"NRAK-",
        b"NRAA-",
        b"NRII-",
        b"NRIQ-",
        b"NRJS-",
        b"NRBR-",
        b"NRRA-",
        b"NRAL",
        check=lambda data: checks.is_mixed(data) and (b"-" in data or len(data) == 40),
    ),
    _secret(
        "shopify_token",
        "Shopify token",
        r"\bshp(?:at|ca|pa|ss|ua|tka)_[0-9A-Fa-f]{32}\b",
        b"shpat_",
        b"shpca_",
        b"shppa_",
        b"shpss_",
        b"shpua_",
        b"shptka_",
    ),
    _secret(
        "square_token",
        "Square token",
        r"\b(?:sq0(?:atp|csp|idp)-[A-Za-z0-9_-]{22,}|EAAA[A-Za-z0-9_-]{60,})",
        b"sq0atp-",
        b"sq0csp-",
        b"sq0idp-",
        b"EAAA",
        check=lambda data: (
            data.startswith(b"sq0") or (len(data) == 64 and checks.entropy(data) > 4)
        ),
    ),
    _secret(
        "telegram_token",
        "Telegram bot token",
        r"\b\d{8,10}:AA[A-Za-z0-9_-]{32,}",
        b":AA",
        check=lambda data: len(data.partition(b":")[2]) in (34, 35),
    ),
    _secret(
        "atlassian_token",
        "Atlassian token",
        r"\bAT(?:ATT3|CTT3)[A-Za-z0-9_=-]{20,}",
        b"ATATT3",
        b"ATCTT3",
    ),
    _secret(
        "linear_key",
        "Linear key",
        r"\blin_(?:api|oauth)_[A-Za-z0-9]{32,}",
        b"lin_api_",
        b"lin_oauth_",
    ),
)

_GENERAL: Final = (
    _secret(
        "jwt",
        "JSON web token",
        r"\beyJ[A-Za-z0-9_-]{8,}\.(?:e[yw][A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]*"
        r"|[A-Za-z0-9_-]*\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,})",
        b"eyJ",
    ),
    _secret(
        "private_key",
        "private key",
        # Where its footer is missing all that follows may belong to it. The last alternative is
        # the same in base64, as Kubernetes keeps it.
        r"-----BEGIN [0-9A-Z ]{0,32}PRIVATE KEY(?: BLOCK)?-----[^\x00]*?"
        r"-----END [0-9A-Z ]{0,32}PRIVATE KEY(?: BLOCK)?-----"
        r"|-----BEGIN [0-9A-Z ]{0,32}PRIVATE KEY(?: BLOCK)?-----[^\x00]*"
        r"|LS0tLS1CRUdJTi(?:BQUklWQVRF|BSU0EgUFJJVkFURS|BFQyBQUklWQVRF|BPUEVOU1NIIFBSSVZBVEUg"
        r"|BFTkNSWVBURUQgUFJJVkFURS)[A-Za-z0-9+/]{20,}={0,2}",
        b"PRIVATE KEY",
        b"LS0tLS1CRUdJTi",
    ),
    _secret(
        "postgres_verifier",
        "PostgreSQL password verifier",
        r"\b(?:SCRAM-SHA-256\$\d{1,10}:[A-Za-z0-9+/=]{8,}\$[A-Za-z0-9+/]{43}="
        r"(?::[A-Za-z0-9+/]{43}=)?|md5[0-9a-f]{32}\b)",
        b"SCRAM-SHA-256$",
        b"md5",
    ),
    _secret(
        "password_hash",
        "password hash",
        r"\$2[abxy]\$\d\d\$[./A-Za-z0-9]{53}"
        r"|\$argon2(?:id|i|d)\$(?:v=\d{1,3}\$)?m=\d{1,9},t=\d{1,9},p=\d{1,9}"
        r"\$[A-Za-z0-9+/]{8,}\$[A-Za-z0-9+/]{16,}"
        r"|\$(?:1|5|6|y|7|gy)\$(?:rounds=\d{1,9}\$)?[./A-Za-z0-9$]{20,}"
        r"|\bpbkdf2_sha(?:1|256|512)\$\d{1,9}\$[A-Za-z0-9]{1,64}\$[A-Za-z0-9+/]{20,}={0,2}"
        r"|\{S?SHA(?:256|512)?\}[A-Za-z0-9+/]{20,}={0,2}",
        b"$2a$",
        b"$2b$",
        b"$2x$",
        b"$2y$",
        b"$argon2",
        b"$1$",
        b"$5$",
        b"$6$",
        b"$y$",
        b"$7$",
        b"$gy$",
        b"pbkdf2_sha",
        b"SHA}",
        b"SHA256}",
        b"SHA512}",
    ),
    _secret(
        "url_password",
        "password in a URL",
        r"""://[^\x00-\x20/?#:@"'<>\\]{0,64}:([^\x00-\x20/"'\\]+)@[A-Za-z0-9\[_.%-]""",
        b"://",
        check=checks.is_url_password,
    ),
    _secret(
        "password_literal",
        "password in single quotes",
        # A quote within is doubled or has a backslash before it; where neither reading finds the
        # end, all of the line is taken.
        rf"""(?:{_KEY_WORDS}|(?i:identified[ ]by))(?:["'`\]\\]{{0,3}}[ \t]{{0,4}}"""
        rf"""(?:{_SIGN}|(?i:to)[ \t])|[ \t]{{1,4}})[ \t]{{0,4}}\(?(?:[EeNn]|[Uu]&)?"""
        r"""'((?:''|\\[^\x00\n\r]|[^'\x00\n\r])+)'?""",
        *_PASSWORD_ANCHORS,
        b"identified by",
        check=checks.is_given,
    ),
    _secret(
        "password_field",
        "password in double quotes",
        rf"""{_KEY_WORDS}["'`\]]{{0,2}}[ \t]{{0,4}}{_SIGN}[ \t]{{0,4}}"""
        r""""((?:\\[^\x00\n\r]|[^"\x00\n\r])+)"?""",
        *_PASSWORD_ANCHORS,
        check=checks.is_given,
    ),
    _secret(
        "password_nested",
        "password in a string within a string",
        # However often quotes were doubled, or had a backslash put before them.
        rf"""{_KEY_WORDS}(?:["'\\]{{2,8}}[ \t]{{0,4}}{_SIGN}[ \t]{{0,4}}["'\\]{{2,8}}"""
        r"""|(?: ?= ?|[ \t]{1,4})'')"""
        r"""([^"'\\\x00\n\r]+)""",
        *_PASSWORD_ANCHORS,
        check=checks.is_nested,
    ),
    _secret(
        "password_dollar",
        "password in dollar quotes",
        rf"""{_KEY_WORDS}(?:["]?[ \t]{{0,4}}{_SIGN}|[ \t]{{1,4}})[ \t]{{0,4}}"""
        r"""\$(?:[A-Za-z_][0-9A-Za-z_]{0,16})?\$([^$\x00\n\r]+)\$""",
        *_PASSWORD_ANCHORS,
        check=checks.is_given,
    ),
    _secret(
        "password_setting",
        "password=… without quotes",
        rf"""(?:{_KEY_WORDS}=|--(?i:password|passwd|passphrase|pass)[ \t]{{1,4}})"""
        rf"""({_BARE}*{_LAST})""",
        *_PASSWORD_ANCHORS,
        check=checks.is_setting,
    ),
    _secret(
        "password_entry",
        "password: … without quotes",
        # A word alone may be prose or the name of a column, so a digit is asked for.
        rf"""{_KEY_WORDS}["']?(?:[ \t]{{1,4}}(?::=|={{1,3}}|:)|:)[ \t]{{0,4}}"""
        rf"""({_BARE}*[0-9](?:{_BARE}*{_LAST})?)""",
        *_PASSWORD_ANCHORS,
        check=checks.is_entry,
    ),
    _secret(
        "authorization",
        "Authorization header",
        r"""(?i:authorization)["']?[ \t]{0,4}[:=][ \t]{0,4}["']?"""
        r"""(?:(?i:bearer|basic|token|bot|negotiate|ntlm|apikey)[ \t]{1,4})?"""
        r"""([^\x00-\x20"'<>\\,]{6,})""",
        b"authorization",
        check=checks.is_authorization,
    ),
    _secret(
        "authorization_parameters",
        "Authorization header with parameters",
        r"""(?i:authorization)["']?[ \t]{0,4}[:=][ \t]{0,4}["']?"""
        r"""(?i:digest|aws4-hmac-sha256|oauth|hawk|signature|sharedkey)[ \t]{1,4}([^\x00\n\r]+)""",
        b"authorization",
        check=lambda data: b"=" in data or b":" in data,
    ),
    _secret(
        "bearer_token",
        "bearer token",
        r"""\b(?i:bearer)[ \t]{1,4}([0-9A-Za-z._~+/-]{8,}={0,2})""",
        b"bearer",
        check=checks.is_mixed,
    ),
    _secret(
        "basic_credentials",
        "basic credentials",
        r"""\b(?i:basic)[ \t]{1,4}([0-9A-Za-z+/]{4,}={0,2})""",
        b"basic",
        check=checks.is_basic,
    ),
    _secret(
        "cookie",
        "cookies",
        # All that follows the first name: a header has many, and attributes tell little.
        r"""\b(?i:cookie)["']?[ \t]{0,4}[:=][ \t]{0,4}["']?"""
        r"""[0-9A-Za-z_.%!-]{1,64}=([^\x00\n\r"'\\]+)""",
        b"cookie",
        check=checks.is_given,
    ),
    _secret(
        "generic_secret",
        "random string after a word for a secret",
        r"""(?i:secret|token|api[_-]?key|access[_-]?key|auth[_-]?key|private[_-]?key"""
        r"""|signing[_-]?key|encryption[_-]?key|credentials?)"""
        r"""(?i:[_-]?(?:key|value|token|secret|hash|base|prod|live|test|dev)|[_-]?v?\d{1,2}){0,2}"""
        rf"""{_TO}([0-9A-Za-z_./+=~!@#%^*-]{{12,}})""",
        b"secret",
        b"token",
        b"api_key",
        b"api-key",
        b"apikey",
        b"access_key",
        b"access-key",
        b"accesskey",
        b"auth_key",
        b"auth-key",
        b"authkey",
        b"private_key",
        b"private-key",
        b"privatekey",
        b"signing_key",
        b"signing-key",
        b"signingkey",
        b"encryption_key",
        b"encryption-key",
        b"encryptionkey",
        b"credential",
        check=checks.is_random,
    ),
)

_PERSONAL: Final = (
    _personal(
        "card",
        "card number",
        # With what makes it a decimal number, for the check to refuse.
        rf"\b(?:\d+\.)?(?:(?:{_CARD_ISSUERS})(?:\d{{12}}|(?: \d{{4}}){{3}}|(?:-\d{{4}}){{3}})"
        r"|3[47]\d\d(?:\d{11}|[ -]\d{6}[ -]\d{5})"
        r"|3(?:0[0-5]|[68]\d)\d(?:\d{10}|[ -]\d{6}[ -]\d{4}))\b",
        checks.is_card,
        bare=14,
        retries=True,
    ),
    _personal("iban", "IBAN", _ibans(), checks.is_iban, bare=14, beside=8, spaced=9),
    _personal(
        "email",
        "e-mail address",
        r"[0-9A-Za-z_\x80-\xff][0-9A-Za-z._%+'\x80-\xff-]*"
        r"@[0-9A-Za-z][0-9A-Za-z\x80-\xff-]*\.(?:[0-9A-Za-z\x80-\xff-]+\.)*[A-Za-z]{2,}\b",
        checks.is_email,
        *(b"@%c" % sign for sign in (*range(0x30, 0x3A), *range(0x61, 0x7B))),
    ),
    _personal(
        "phone",
        "phone number",
        r"\B\+[1-9](?:[ .()/-]{0,2}\d){7,14}\b"
        r"|\(\d{3}\) ?\d{3}-\d{4}\b|\b(?:\d{1,2}-\d{3}-\d{3}|[2-9]\d\d[-.][2-9]\d\d)[-.]\d{4}\b"
        r"|\b0(?:20|2[3489]|11\d|1\d1) \d{3,4} \d{4}\b|\b0(?:1\d{3}|7\d{3}) \d{6}\b",
        checks.is_phone,
        beside=8,
        spaced=10,
    ),
    _personal(
        "us_ssn",
        "US social security number",
        r"\b\d{3}-\d\d-\d{4}\b",
        checks.is_ssn,
        spaced=9,
    ),
    _personal(
        "uk_nino",
        "UK national insurance number",
        r"\b[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d\d ?\d\d ?\d\d ?[A-D]\b",
        checks.is_nino,
        beside=6,
    ),
    _personal(
        "ca_sin",
        "Canadian social insurance number",
        # Not with spaces: `123 456 789` is a number to half of the world.
        r"\b\d{3}-\d{3}-\d{3}\b",
        checks.is_sin,
        spaced=9,
    ),
    _personal(
        "de_tax_id",
        "German tax id",
        r"(?i:steuer-?id(?:entifikationsnummer|nr)?|idnr|tax[ _-]?id)"
        rf"{_LABEL}(\d\d ?\d{{3}} ?\d{{3}} ?\d{{3}})\b",
        checks.is_german_tax_id,
        b"steuer",
        b"idnr",
        b"taxid",
        b"tax id",
        b"tax_id",
        b"tax-id",
    ),
    _personal(
        "fr_nir",
        "French social security number",
        r"\b(?:\d+\.)?[12] ?\d\d ?(?:0[1-9]|1[0-2]|20) ?(?:\d\d|2[AB]) ?\d{3} ?\d{3} ?\d\d\b",
        checks.is_nir,
        bare=15,
        beside=6,
    ),
    _personal(
        "es_dni",
        "Spanish DNI or NIE",
        r"\b(?:\d{8}|[XYZ]-?\d{7})-?[A-HJ-NP-TV-Z]\b",
        checks.is_dni,
        beside=7,
    ),
    _personal(
        "it_fiscal_code",
        "Italian codice fiscale",
        r"\b[A-Z]{6}\d\d[A-EHLMPR-T]\d\d[A-Z]\d{3}[A-Z]\b",
        checks.is_fiscal_code,
        letters=16,
    ),
    _personal(
        "nl_bsn",
        "Dutch citizen service number",
        rf"(?i:\bbsn|burgerservicenummer|sofinummer){_LABEL}(\d{{9}}|\d{{4}}[. ]\d\d[. ]\d{{3}})\b",
        checks.is_bsn,
        b"bsn",
        b"burgerservicenummer",
        b"sofinummer",
    ),
    _personal(
        "br_cpf",
        "Brazilian CPF",
        r"\b\d{3}\.\d{3}\.\d{3}-\d\d\b",
        checks.is_cpf,
        spaced=11,
    ),
    _personal(
        "pl_pesel",
        "Polish PESEL",
        rf"(?i:pesel){_LABEL}(\d{{11}})\b",
        checks.is_pesel,
        b"pesel",
    ),
    _personal(
        "se_personnummer",
        "Swedish personal number",
        r"\b(?:19|20)?\d{6}[-+]\d{4}\b",
        checks.is_personnummer,
        spaced=10,
    ),
    _personal(
        "in_aadhaar",
        "Indian Aadhaar number",
        # Not with dashes, as in a UUID. A fourth group makes it another number, so it is taken too,
        # for the check to refuse.
        r"\b[2-9]\d{3} \d{4} \d{4}(?: \d{4})?\b",
        checks.is_aadhaar,
        spaced=12,
    ),
    _personal(
        "ipv4",
        "IPv4 address",
        r"(?:\b(?i:version|release|ver|v)[ =:\"']{1,3})?"
        r"\b\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}(?:\.\d+)*\b",
        checks.is_ipv4,
        dots=3,
    ),
    _personal(
        "ipv6",
        "IPv6 address",
        r"\b(?:[0-9A-Fa-f]{1,4}:){7,}[0-9A-Fa-f]{1,4}\b"
        r"|\b(?:[0-9A-Fa-f]{1,4}:){1,7}(?::[0-9A-Fa-f]{1,4}){1,7}(?:\.\d{1,3}){0,3}\b"
        r"|::(?i:ffff):\d{1,3}(?:\.\d{1,3}){3}\b",
        checks.is_ipv6,
        colons=7,
    ),
)

DETECTORS: Final[tuple[Detector, ...]] = (*_CLOUD, *_SERVICES, *_GENERAL, *_PERSONAL)

GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "secrets": tuple(each.name for each in DETECTORS if each.group == "secrets"),
    "personal": tuple(each.name for each in DETECTORS if each.group == "personal"),
    "all": tuple(each.name for each in DETECTORS),
}
"""What a setting may name instead of detectors."""


def named(names: Iterable[str]) -> tuple[Detector, ...]:
    """Return the detectors of `names`, groups among them, once each, in the order of `DETECTORS`.

    Raises:
        ValueError: one is no detector and no group; the message has the nearest that is.
    """
    chosen: set[str] = set()
    for name in names:
        members = GROUPS.get(name, (name,))
        if members == (name,) and name not in GROUPS["all"]:
            near = get_close_matches(name, (*GROUPS, *GROUPS["all"]), n=1, cutoff=0)
            raise ValueError(f"no detector and no group of them: {name}; the nearest is {near[0]}")
        chosen.update(members)
    return tuple(each for each in DETECTORS if each.name in chosen)
