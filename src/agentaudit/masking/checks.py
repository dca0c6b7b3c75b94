"""What a pattern cannot say of what it found: check digits, entropy, whether it is a placeholder.

A check takes the bytes that would be hidden and says whether they are what they look like. It is
what keeps order numbers and digests readable, so it errs on the side of hiding where the text
around has said already that a secret comes.

Sources: ISO/IEC 7812-1 (Luhn), ISO 13616-1 and its registry (IBAN), ssa.gov (SSN), the Dutch,
German, French, Spanish, Italian, Brazilian, Polish and Swedish authorities' rules for their
numbers, UIDAI (Aadhaar), ITU-T E.164 (phone).
"""

from __future__ import annotations

import binascii
from collections import Counter
from collections.abc import Callable
from ipaddress import AddressValueError, IPv6Address
from math import log2
from typing import Final, cast

import re2

Check = Callable[[bytes], bool]


def _pattern(text: str) -> Callable[[bytes], object | None]:
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.log_errors = False
    return cast(
        "Callable[[bytes], object | None]",
        re2.compile(text.encode("latin-1"), options).search,
    )


def digits_of(data: bytes) -> bytes:
    """Return the digits in `data`, without what stands between them.

    >>> digits_of(b"4242 4242-42")
    b'4242424242'
    """
    return bytes(byte for byte in data if 0x30 <= byte <= 0x39)


def of_length(*lengths: int) -> Check:
    """Return the check that a run has one of `lengths`.

    Patterns of keys take the whole run and leave its length to this: what is longer is no key, and
    an upper bound in the pattern would find a key in it.
    """
    return lambda data: len(data) in lengths


def all_of(*checks: Check) -> Check:
    """Return the check that each of `checks` holds."""
    return lambda data: all(check(data) for check in checks)


# --- text


def entropy(data: bytes) -> float:
    """Return Shannon's entropy of the bytes of `data`, in bits a byte."""
    return -sum(
        count / len(data) * log2(count / len(data)) for count in Counter(data).values()
    )  # of nothing: 0


# Forms alone, and words that no one chooses: a default password is one, and so is a weak one.
_STANDS_FOR_NOTHING: Final = _pattern(
    r"""^(?:"""
    r"""\$\d+|\$\$?[A-Z_][A-Z0-9_]*|\$[a-z_]*(?:pass|password|passwd|pwd|secret|token|key)"""
    r"""|\$?\{.*\}|\$\(.*|[?%$:]+\d*|%s|%\(\w*\)s|%[A-Za-z_]\w*%|<[A-Za-z_][\w .-]*>"""
    r"""|['*.#_\s-]+|\*{3,}.*|(?i:x{3,}\d{0,4})|\[masked:.*|pn_[a-z2-7]{4}_[a-z2-7]{26}|\\."""
    r"""|(?i:null|none|nil|undefined|[\[(]?(?:redacted|masked|filtered)[\])]?)"""
    r"""|(?i:your[-_ ](?:password|secret|token|(?:api[-_ ]?)?key)(?:[-_ ]here)?)"""
    r"""|(?: ?\|\| ?|, | \+ | \. ).*"""  # the quote was the last one of a string, not the first
    r""")$"""
)


def is_given(value: bytes) -> bool:
    """Whether `value` is one: no parameter, no placeholder, nothing that was masked before.

    >>> [is_given(value) for value in (b"hunter2", b"$1", b"${PASSWORD}", b"****1234")]
    [True, False, False, False]
    """
    return _STANDS_FOR_NOTHING(value) is None


def is_nested(value: bytes) -> bool:
    """Whether `value`, after two quotes that may be an empty string, is a password in a string."""
    return value[:1] not in b" ,;)}]" and is_given(value)


_IS_CODE: Final = _pattern(
    r"""^(?:@[A-Za-z_]+|::?[A-Za-z_]\w*"""  # parameters
    # settings.db_pass, excluded.password
    r"""|(?:\w+\.)*(?i:\w*(?:pass|password|passwd|pwd|pw|secret|token|key|settings|config|conf|cfg)"""
    r"""|self|args|opts|options|params|env|environ|excluded|new|old|req|request)(?:\.\w+)+"""
    r"""|(?:[A-Za-z_]\w*\.)+\w*(?i:pass|password|passwd|pwd|pw|secret|token|key)"""
    r"""|[A-Za-z_]*(?i:pass|passwd|password|passphrase|pwd)"""  # new_password
    r"""|[A-Za-z_][\w.]*(?:\([\w.$:]*,?\)*|\[\w*\]*)"""  # crypt('x', …), os.environ["X"]
    r"""|/(?:[a-z0-9_.-]+/)*[a-z0-9_.-]*"""  # PWD=/usr/src
    r"""|(?i:str|string|text|bytes|varchar|char|bool|boolean|int|integer|select|required"""
    r"""|true|false|default|sha-?\d+|md5|utf-?8|scram-sha-256|pbkdf2|argon2id?|base64|oauth2?)"""
    r"""[!?]*)$"""
)


def is_setting(value: bytes) -> bool:
    """Whether what follows `password=` without quotes is a password, not the name of one."""
    return is_given(value) and _IS_CODE(value) is None


def is_entry(value: bytes) -> bool:
    """Whether what follows `password: ` is a password, not the prose that may stand there too."""
    letters = any(chr(byte).isalpha() for byte in value)
    return len(value) >= (4 if letters else 6) and is_setting(value)


_DATE: Final = _pattern(r"^\d{4}-\d\d-\d\d(?:[T ]\d\d:?\d\d.*)?$")
_PATH: Final = _pattern(r"^(?:\.{0,2}/)?[a-z_]+(?:[/.-][a-z_]+)*/?$")
_LOWER_WORDS: Final = _pattern(r"^[A-Za-z]+(?:[_.-][A-Za-z]+)*\d{0,2}$")
_HEX: Final = _pattern(r"^[0-9A-Fa-f-]+$")


def is_random(value: bytes) -> bool:
    """Whether `value` looks drawn, not written: what a key is, and a name or a path is not."""
    if not is_given(value) or _IS_CODE(value) or _DATE(value) or _PATH(value):
        return False
    has_digit = any(0x30 <= byte <= 0x39 for byte in value)
    has_letter = value.lower() != value.upper()
    if _HEX(value):
        return has_digit and len(value) >= 16 and entropy(value) >= 2.8
    if not has_digit and _LOWER_WORDS(value):
        return False
    if not has_letter or (not has_digit and len(value) < 24):
        return False
    return entropy(value) >= 3.2


def is_mixed(value: bytes) -> bool:
    """Whether `value` has letters and digits, or both cases, and stands for itself."""
    has_digit = any(0x30 <= byte <= 0x39 for byte in value)
    has_letter = value.lower() != value.upper()
    is_long = len(value) >= 20 and value not in (value.lower(), value.upper())
    return is_given(value) and has_letter and (has_digit or is_long)


def is_basic(value: bytes) -> bool:
    """Whether `value` is `user:password` in base64 (RFC 7617)."""
    try:
        text = binascii.a2b_base64(value + b"=" * (-len(value) % 4))
    except binascii.Error:
        return False
    return b":" in text and text.decode("utf-8", "replace").replace("\ufffd", "\0").isprintable()


_PORT: Final = _pattern(r"^\d{1,5}(?:[?#,].*)?$")


def is_url_password(value: bytes) -> bool:
    """Whether what stands between `user:` and `@host` is a password, not a port and a query."""
    return is_given(value) and _PORT(value) is None


def is_authorization(value: bytes) -> bool:
    """Whether `value` is a credential of an Authorization header, not a word about one."""
    is_scheme = value.upper().startswith(b"AWS4-")
    return not is_scheme and (is_mixed(value) or (len(value) >= 16 and is_random(value)))


# --- numbers


def luhn(data: bytes) -> bool:
    """Whether the digits in `data` end in the check digit of ISO/IEC 7812-1."""
    total = 0
    for place, byte in enumerate(reversed(digits_of(data))):
        digit = (byte - 0x30) * (1 + place % 2)
        total += digit - 9 if digit > 9 else digit
    return total % 10 == 0


def is_card(data: bytes) -> bool:
    """Whether `data` is a card's number; a decimal number with as many digits is none."""
    digits = digits_of(data)
    return b"." not in data and luhn(digits) and len(set(digits)) > 1


IBAN_LENGTHS: Final = {
    length: [countries[at : at + 2] for at in range(0, len(countries), 2)]
    for length, countries in {
        15: "NO",
        16: "BE",
        18: "DKFIFKFOGLNLSD",
        19: "MKSI",
        20: "ATBAEEKZLTLUMNXK",
        21: "CHHRLILV",
        22: "BGBHCRDEGBGEIEMERSVA",
        23: "AEGIILIQOMSOTL",
        24: "ADCZESMDPKROSASESKTNVG",
        25: "LYPTST",
        26: "ISTR",
        27: "BIDJFRGRITMCMRSM",
        28: "ALAZBYCYDOGTHULBNIPLSV",
        29: "BREGPSQAUA",
        30: "JOKWMUYE",
        31: "MTSC",
        32: "LC",
        33: "RU",
    }.items()
}
"""How long an IBAN is, by country (the registry of ISO 13616)."""


def longest_run(data: bytes) -> int:
    """Return the most digits in a row, with at most one byte of ` -./` between two neighbours."""
    longest = run = gap = 0
    for byte in data:
        if 0x30 <= byte <= 0x39:
            run, gap = run + 1, 0
            longest = max(longest, run)
        elif byte in b" -./" and not gap:
            gap = 1
        else:
            run = gap = 0
    return longest


def is_iban(data: bytes) -> bool:
    """Whether `data` is an IBAN by its check digits, with the eight digits in a row all have."""
    text = data.replace(b" ", b"").decode("ascii")
    number = "".join(str(int(sign, 36)) for sign in text[4:] + text[:4])
    return int(number) % 97 == 1 and longest_run(data) >= 8


# Source: ITU-T, list of assigned country codes.
_CALLING_CODE: Final = _pattern(
    r"^(?:1|7|20|27|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]"
    r"|2(?:1[12368]|[234]\d|5[0-8]|6\d|9[01789])|3(?:5\d|7[0-8]|8[0-35-79])|42[013]"
    r"|5(?:0\d|9\d)|6(?:7[02-9]|8[0-35-9]|9[0-2])|8(?:0[08]|5[02356]|70|8[0-368])"
    r"|9(?:6[0-8]|7[0-79]|9[2-68]))"
)


def is_phone(data: bytes) -> bool:
    """Whether `data` is a phone number, as far as its country says how long one is."""
    digits = digits_of(data)
    if longest_run(data) < 7 or len(set(digits)) < 3:
        return False
    if not data.startswith(b"+"):
        return True
    if digits[:1] in b"17":  # their numbers have one length
        return len(digits) == 11
    return 9 <= len(digits) <= 15 and _CALLING_CODE(digits) is not None


def is_ssn(data: bytes) -> bool:
    """Whether `data` may have been issued as a social security number (ssa.gov)."""
    area, group, serial = data.split(b"-")
    return area not in (b"000", b"666") and area < b"900" and group != b"00" and serial != b"0000"


def is_nino(data: bytes) -> bool:
    """Whether the prefix of a British national insurance number is one that is given out."""
    return data[:2] not in (b"BG", b"GB", b"KN", b"NK", b"NT", b"TN", b"ZZ")


def is_sin(data: bytes) -> bool:
    """Whether `data` is a Canadian social insurance number: none begins with 0 or 8."""
    return data[:1] not in b"08" and luhn(data)


def is_german_tax_id(data: bytes) -> bool:
    """Whether `data` is a German tax identification number: ISO 7064 mod 11,10.

    Of its first ten digits one comes twice or three times, and not every other one is there.
    """
    digits = [byte - 0x30 for byte in digits_of(data)]
    counts = sorted(Counter(digits[:10]).values())
    if digits[0] == 0 or counts[-1] not in (2, 3) or counts[-2] != 1:
        return False
    product = 10
    for digit in digits[:10]:
        product = ((digit + product) % 10 or 10) * 2 % 11
    return (11 - product) % 10 == digits[10]


def is_nir(data: bytes) -> bool:
    """Whether `data` is a French social security number; 2A and 2B are Corsica's departments."""
    if b"." in data:
        return False  # a decimal number
    text = data.replace(b" ", b"")
    number, key = text[:13].replace(b"2A", b"19").replace(b"2B", b"18"), int(text[13:])
    return number.isdigit() and 97 - int(number) % 97 == key


def is_dni(data: bytes) -> bool:
    """Whether the letter of a Spanish DNI or NIE is the one that its number asks for."""
    text = data.replace(b"-", b"").decode("ascii")
    number = text[:-1].translate(str.maketrans("XYZ", "012"))
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == text[-1]


_ODD: Final = dict(
    zip(
        "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 1, 0, 5, 7, 9, 13, 15, 17)
        + (19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23),
        strict=True,
    )
)


def is_fiscal_code(data: bytes) -> bool:
    """Whether the last letter of an Italian codice fiscale is the one of the others."""
    text = data.decode("ascii")
    total = sum(_ODD[sign] for sign in text[:15:2])
    total += sum(int(sign) if sign.isdigit() else ord(sign) - 65 for sign in text[1:15:2])
    return chr(65 + total % 26) == text[15]


def is_bsn(data: bytes) -> bool:
    """Whether `data` is a Dutch citizen service number by its test of eleven."""
    digits = [byte - 0x30 for byte in digits_of(data)]
    weights = (9, 8, 7, 6, 5, 4, 3, 2, -1)
    return any(digits) and sum(a * b for a, b in zip(digits, weights, strict=True)) % 11 == 0


def is_cpf(data: bytes) -> bool:
    """Whether `data` is a Brazilian CPF by its two check digits."""
    digits = [byte - 0x30 for byte in digits_of(data)]
    if len(set(digits)) == 1:
        return False
    for length in (9, 10):
        total = sum(digit * (length + 1 - place) for place, digit in enumerate(digits[:length]))
        if total * 10 % 11 % 10 != digits[length]:
            return False
    return True


def is_pesel(data: bytes) -> bool:
    """Whether `data` is a Polish PESEL: its check digit, and a month, centuries included."""
    digits = [byte - 0x30 for byte in data]
    month, day = int(data[2:4]) % 20, int(data[4:6])
    total = sum(a * b for a, b in zip(digits[:10], (1, 3, 7, 9, 1, 3, 7, 9, 1, 3), strict=True))
    return 1 <= month <= 12 and 1 <= day <= 31 and (10 - total % 10) % 10 == digits[10]


def is_personnummer(data: bytes) -> bool:
    """Whether `data` is a Swedish personal number; coordination numbers add 60 to the day."""
    digits = digits_of(data)[-10:]
    day = int(digits[4:6])
    return (
        1 <= int(digits[2:4]) <= 12 and 1 <= (day - 60 if day > 60 else day) <= 31 and luhn(digits)
    )


_DIHEDRAL: Final = (
    b"01234567891234067895234017895634012895674012395678"
    b"59876043216598710432765982104387659321049876543210"
)
_PERMUTED: Final = (
    b"01234567891576283094580379614289160435279453126870428657390127938064157046913258"
)


def verhoeff(data: bytes) -> bool:
    """Whether the digits in `data` end in Verhoeff's check digit."""
    check = 0
    for place, byte in enumerate(reversed(digits_of(data))):
        permuted = _PERMUTED[place % 8 * 10 + byte - 0x30] - 0x30
        check = _DIHEDRAL[check * 10 + permuted] - 0x30
    return check == 0


def is_aadhaar(data: bytes) -> bool:
    """Whether `data` is an Indian Aadhaar number: twelve digits, Verhoeff's check."""
    return len(digits_of(data)) == 12 and verhoeff(data)


# --- addresses


_FILES: Final = frozenset(
    b"png jpg jpeg gif svg webp ico css js mjs ts tsx jsx json html htm xml yaml yml toml md txt "
    b"py rb go rs sh sql pdf zip gz local internal localdomain".split()
)


def is_email(data: bytes) -> bool:
    """Whether `data` is an address that mail goes to; `git@host` and `icon@2x.png` are none."""
    local, _, domain = data.rpartition(b"@")
    if len(local) > 64 or len(domain) > 253 or b".." in data or local.endswith(b"."):
        return False
    if local.lower() in (b"git", b"hg", b"svn"):
        return False
    return domain.rpartition(b".")[2].lower() not in _FILES


def is_ipv4(data: bytes) -> bool:
    """Whether `data` is the address of some machine: no version, mask, network or loopback.

    `1.2.3.4` is a version to most who write it; `8.8.8.8` is not.
    """
    if not data[:1].isdigit():
        return False  # what stands before it says that it is a version
    octets = data.split(b".")
    if len(octets) != 4 or any(len(each) > 1 and each.startswith(b"0") for each in octets):
        return False
    numbers = [int(each) for each in octets]
    if max(numbers) > 255 or numbers[0] in (0, 127, 255) or numbers[1:] == [0, 0, 0]:
        return False
    if numbers[3] == 0:
        return False
    if tuple(numbers[:3]) == (2, 5, 29) or tuple(numbers[:3]) == (2, 5, 4):
        return False  # object identifiers of X.509
    return max(numbers) > 9 or len(set(numbers)) == 1


def is_ipv6(data: bytes) -> bool:
    """Whether `data` is the address of some machine, not a cast or a fingerprint."""
    if all(len(each) == 2 for each in data.split(b":")):
        return False  # an EUI-64, or bytes in hexadecimal
    try:
        address = IPv6Address(data.decode("ascii"))
    except AddressValueError:
        return False
    return not (address.is_loopback or address.is_unspecified) and any(
        0x30 <= byte <= 0x39 for byte in data
    )
