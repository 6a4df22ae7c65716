"""Keys, tokens, passwords and personal addresses in a text, replaced by typed placeholders such as `<EMAIL>`.

The patterns are our own, each as narrow as the issuer's public format allows. Python's `re` takes 10 to 30 ms per MB
and pattern, so one compiled pass over the bytes finds where a literal of theirs or an address may be, and a pattern
looks only there; what is assigned, e-mail addresses and URLs start at a literal that `find` looks up. What is found is
counted by kind and never written anywhere.

Not taken: addresses and hosts set aside for documentation (RFC 2606, 5737, 3849), private and well-known public
resolvers' IPs, and values that are plainly placeholders.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, AnyStr, ClassVar

import numpy as np

from codeflow.core.types import Document
from codeflow.transform.operator import Drop, Operator, with_tags, with_text

if TYPE_CHECKING:
    from codeflow.transform.byte_scan import Marks


@dataclass(frozen=True, slots=True)
class Secret:
    """A span of a text (character offsets) that is a secret of a kind. It does not carry the value."""

    start: int
    end: int
    kind: str

    @property
    def placeholder(self) -> str:
        """What stands in its place."""
        return f"<{self.kind.upper()}>"


@dataclass(frozen=True, slots=True)
class _Pattern:
    kind: str
    literals: tuple[str, ...]  # at least one occurs in every match
    pattern: re.Pattern[str]  # its group "value", or the whole match, is the secret


def _pattern(kind: str, literals: str, pattern: str) -> _Pattern:
    return _Pattern(kind, tuple(literals.split("|")), re.compile(pattern))


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_AWS_PREFIXES = "AKIA|ASIA|ABIA|ACCA"
_PATTERNS = (
    _pattern(
        "private_key",
        "PRIVATE KEY",
        r"-----BEGIN (?P<what>[A-Z0-9 ]{0,24}PRIVATE KEY(?: BLOCK)?)-----"
        r"(?P<body>(?:[^-]|-(?!----)){32,16000})-----END (?P=what)-----",
    ),
    _pattern(
        "private_key",  # the end is missing: the lines of base64 that are there
        "PRIVATE KEY",
        r"-----BEGIN [A-Z0-9 ]{0,24}PRIVATE KEY(?: BLOCK)?-----(?:(?:\\[nr]|[\s\"'+,#*])+[A-Za-z0-9+/=]{40,}){2,}",
    ),
    _pattern("aws_key", _AWS_PREFIXES, rf"(?<![A-Za-z0-9])(?:{_AWS_PREFIXES})[A-Z2-7]{{16}}(?![A-Za-z0-9])"),
    _pattern(
        "github_token", "ghp_|gho_|ghu_|ghs_|ghr_", r"(?<![A-Za-z0-9])gh[pousr]_[A-Za-z0-9]{36,251}(?![A-Za-z0-9])"
    ),
    _pattern("github_token", "github_pat_", r"github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}(?![A-Za-z0-9])"),
    _pattern(
        "gitlab_token",
        "glpat-|gldt-|glrt-|glptt-",
        r"(?<![A-Za-z0-9])gl(?:pat|dt|rt|ptt)-[A-Za-z0-9_\-.]{20,100}",
    ),
    _pattern("slack_token", "xox", r"(?<![A-Za-z0-9])xox[abeoprs]-(?:\d[0-9A-Za-z]{0,15}-)[0-9A-Za-z\-]{10,200}"),
    _pattern("slack_token", "xapp-", r"(?<![A-Za-z0-9])xapp-\d-[A-Z0-9]{8,14}-\d{8,16}-[0-9a-f]{32,80}"),
    _pattern(
        "slack_webhook",
        "hooks.slack.com",
        r"hooks\.slack\.com/(?:services|workflows)/T[A-Za-z0-9_]{6,14}/[A-Za-z0-9_]{6,20}/[A-Za-z0-9_/]{16,80}",
    ),
    _pattern(
        "stripe_key", "k_live_|k_test_", r"(?<![A-Za-z0-9])[prs]k_(?:live|test)_[0-9A-Za-z]{16,250}(?![A-Za-z0-9])"
    ),
    _pattern("stripe_key", "whsec_", r"(?<![A-Za-z0-9])whsec_[0-9A-Za-z+/]{32,64}"),
    _pattern("google_key", "AIza", r"(?<![A-Za-z0-9])AIza[0-9A-Za-z_\-]{35}(?![0-9A-Za-z_\-])"),
    _pattern("google_key", "GOCSPX-", r"GOCSPX-[0-9A-Za-z_\-]{28}(?![0-9A-Za-z_\-])"),
    _pattern("google_token", "ya29.", r"(?<![A-Za-z0-9])ya29\.[0-9A-Za-z_\-]{30,1024}"),
    _pattern(
        "jwt",
        "eyJ",
        r"(?<![A-Za-z0-9_\-])eyJ[A-Za-z0-9_\-]{14,}\.eyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{20,}={0,2}",
    ),
    _pattern("npm_token", "npm_", r"(?<![A-Za-z0-9_])npm_[A-Za-z0-9]{36}(?![A-Za-z0-9_])"),
    _pattern("pypi_token", "pypi-Ag", r"pypi-Ag(?:EIcHlwaS5vcmc|ENdGVzdC5weXBpLm9yZ)[A-Za-z0-9_\-]{50,1000}"),
    _pattern(
        "openai_key",
        "T3BlbkFJ",
        r"(?<![A-Za-z0-9])sk-(?:[a-z]{2,12}-)?[A-Za-z0-9_\-]{16,100}T3BlbkFJ[A-Za-z0-9_\-]{16,100}",
    ),
    _pattern("anthropic_key", "sk-ant-", r"(?<![A-Za-z0-9])sk-ant-[a-z]{2,6}\d\d-[A-Za-z0-9_\-]{60,130}"),
    _pattern("hugging_face_token", "hf_", r"(?<![A-Za-z0-9_])hf_[A-Za-z]{34}(?![A-Za-z0-9_])"),
    _pattern("sendgrid_key", "SG.", r"(?<![A-Za-z0-9])SG\.[A-Za-z0-9_\-]{22}\.[A-Za-z0-9_\-]{43}(?![A-Za-z0-9_\-])"),
    _pattern("azure_key", "AccountKey=", r"AccountKey=(?P<value>[A-Za-z0-9+/]{86}==)"),
    _pattern("telegram_token", ":AA", r"(?<![A-Za-z0-9])\d{8,10}:AA[A-Za-z0-9_\-]{33}(?![A-Za-z0-9_\-])"),
    _pattern("digitalocean_token", "_v1_", r"(?<![A-Za-z0-9])do[opr]_v1_[0-9a-f]{64}(?![0-9a-f])"),
)

_LITERALS = tuple(sorted({literal for pattern in _PATTERNS for literal in pattern.literals}))


def _rare_pair(literal: str) -> int:
    """Return where in a literal the pair with the fewest small letters starts, which code holds least."""
    return min(
        range(len(literal) - 1), key=lambda at: (sum(c.islower() + (c == "_") / 2 for c in literal[at : at + 2]), at)
    )


_AT_PAIR: dict[bytes, list[tuple[int, str, bytes]]] = {}
for _literal in _LITERALS:
    _at = _rare_pair(_literal)
    _AT_PAIR.setdefault(_literal[_at : _at + 2].encode(), []).append((_at, _literal, _literal.encode()))
_IS_RARE = np.zeros(1 << 16, bool)
_IS_RARE[[int.from_bytes(pair, "big") for pair in _AT_PAIR]] = True

_KEY_RUN = re.compile(r"[A-Za-z0-9+/]{24}")
_NOT_KEY_BODY = re.compile(r"[^A-Za-z0-9+/=\s\\\"',#*:-]")
_MAX_FOREIGN_SHARE = 0.02

# A name that says "secret", an assignment, a quoted value without spaces.
_NAMES = {  # what several share and is looked up -> what must stand before it, and it with what must follow
    b"passw": ((b"", b"password"), (b"", b"passwd")),
    b"secret": ((b"", b"secret"),),
    b"token": ((b"", b"token"),),
    b"_key": tuple((before, b"_key") for before in (b"api", b"access", b"auth", b"private")),
    b"apikey": ((b"", b"apikey"),),
    b"api-key": ((b"", b"api-key"),),
}
_ASSIGNED = re.compile(
    r"[A-Za-z0-9_\-]{0,24}[\"']?\]?\s{0,4}(?::\s{0,2}str\s{0,2}=|=>|:=|[:=])\s{0,4}[rbu]?([\"'])"
    r"(?P<value>[A-Za-z0-9+/=_\-.~!@#$%^&*]{12,200})\1"
)
_AWS_SECRET = re.compile(
    r"secret_?(?:access)?_?key[\"']?\s{0,4}(?:=>|:=|[:=])\s{0,4}[\"']?"
    r"(?P<value>(?=[A-Za-z+/]{0,39}[0-9])[A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])",
    re.IGNORECASE,
)
_PLACEHOLDER = re.compile(
    r"(?i)example|sample|dummy|changeme|placeholder|your|todo|fixme|xxx|\.\.\.|\*\*\*|1234567|abcdef|qwerty|"
    r"test|fake|password|secret|token|https?:|[a-z]\.[a-z]+\.[a-z]|%[sdr(]|^\$"
)
_WORDY = re.compile(  # words, versions and dates; possessive, since words could be cut in many ways
    r"(?:(?:(?:[A-Z]?[a-z]{2,}+|[A-Z]{3,}+)++[0-9]{0,4}|[0-9]{1,4})[_\-./=:+]*)+|[A-Za-z]+[0-9]{0,2}|[0-9.\-:/+]+"
)
_MIN_ENTROPY_BITS = 3.0  # per character; English words reach about 2.9 at this length, random 16 characters 3.7
_MIN_CLASSES = 3  # of lower case, upper case, digits, signs; or a long run of hexadecimal digits
_HEXADECIMAL = re.compile(r"[0-9a-f]{32,}|[0-9A-F]{32,}")

_URL_PASSWORD = re.compile(  # behind "://"
    r"[A-Za-z0-9_.\-]{1,40}:(?P<value>[^\s:/@'\"<>{}$%()\[\]]{6,80})@[A-Za-z0-9\[]"
)

_LOCAL = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9!#$&*+=?^_`|~.%\-]{0,63})$")
_DOMAIN = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?\.)+"
    r"([A-Za-z]{2,24})(?![A-Za-z0-9\-]|\.[A-Za-z0-9])"
)
_GENERIC_TLDS = _words(
    """
    com org net edu gov mil int info biz name pro app dev cloud online tech site xyz blog codes software
    systems page digital email expert solutions network engineering academy science studio space world
    consulting group team tools works zone agency design technology company live art one top club shop store
    mobi jobs asia cat coop museum aero travel tel post berlin hamburg london paris nyc tokyo wien swiss
    moscow quebec scot ngo ong
    """
)
_COUNTRY_TLDS = _words(
    """
    ac ad ae af ag ai al am ao aq ar as at au aw ax az ba bb bd be bf bg bh bi bj bm bn bo br bs bt bv bw by
    bz ca cc cd cf cg ch ci ck cl cm cn co cr cu cv cw cx cy cz de dj dk dm do dz ec ee eg er es et eu fi fj
    fk fm fo fr ga gb gd ge gf gg gh gi gl gm gn gp gq gr gs gt gu gw gy hk hm hn hr ht hu id ie il im in io
    iq ir is it je jm jo jp ke kg kh ki km kn kp kr kw ky kz la lb lc li lk lr ls lt lu lv ly ma mc md me mg
    mh mk ml mm mn mo mp mq mr ms mt mu mv mw mx my mz na nc ne nf ng ni nl no np nr nu nz om pa pe pf pg ph
    pk pl pm pn pr ps pt pw qa re ro rs ru rw sa sb sc sd se sg sh si sj sk sl sm sn so sr ss st su sv sx sy
    sz tc td tf tg th tj tk tl tm tn to tr tt tv tw tz ua ug uk us uy uz va vc ve vg vi vn vu wf ws ye yt za
    zm zw
    """
)
_RESERVED_DOMAIN = re.compile(
    r"(?:^|\.)(?:example|test|invalid|localhost|local)(?:\.[a-z]{2,3})?$|"
    r"^(?:foo|bar|baz|domain|host|spam)\."
)
_ROLE_LOCALS = frozenset(("git", "hg", "svn", "noreply", "no-reply", "user", "username", "foo", "bar"))

_IPV4_START = re.compile(r"[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]")
_IPV4 = re.compile(r"(?<![\w.\-])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![\w\-]|\.\w|/[0-9])(?<!\.0)")
_VERSION_BEFORE = re.compile(
    r"(?i)(?:version|ver|v|release|rev|build|"
    r"==|>=|<=|~=|section|§|oid|chapter)[\s\"'=:(]{0,4}$"
)
_IPV6_START = re.compile(r"2[0-9a-fA-F]{3}:[0-9a-fA-F]{0,4}:")  # what has been handed out of 2000::/3
_IPV6 = re.compile(r"(?<![\w:.])2[0-9a-fA-F]{3}:(?:[0-9a-fA-F]{0,4}:){1,6}[0-9a-fA-F]{0,4}(?![\w:]|/[0-9])(?<!::)")
_PUBLIC_RESOLVERS = _words(
    """
    8.8.8.8 8.8.4.4 1.1.1.1 1.0.0.1 9.9.9.9 208.67.222.222 208.67.220.220 1.2.3.4 4.3.2.1 5.6.7.8
    12.34.56.78 123.45.67.89
    2001:4860:4860::8888 2001:4860:4860::8844 2606:4700:4700::1111 2606:4700:4700::1001 2620:fe::fe
    """
)
_MIN_HIGH_OCTET = 10  # of the first three; 8.2.4.44 is a section
_MIN_LARGEST_OCTET = 20  # four small numbers are a version more often than an address


class ReplaceSecrets(Operator):
    """Replace every secret by its placeholder. Never drops."""

    name: ClassVar[str] = "secrets"
    noted: ClassVar[tuple[str, ...]] = ("secrets_",)
    emails: bool = True
    ip_addresses: bool = True
    assignments: bool = True  # quoted values of high entropy given to a name that says "password", "token", ...

    def __call__(self, document: Document) -> Document | Drop:
        """Return the document without secrets, with a tag `secrets_<kind>` per kind found."""
        found = find_secrets(document.text, self.emails, self.ip_addresses, self.assignments)
        if not found:
            return document
        pieces: list[str] = []
        at = 0
        for secret in found:
            pieces += [document.text[at : secret.start], secret.placeholder]
            at = secret.end
        pieces.append(document.text[at:])
        tags = {
            f"secrets_{kind}": document.tags.get(f"secrets_{kind}", 0.0) + n
            for kind, n in sorted(Counter(secret.kind for secret in found).items())
        }
        return with_text(with_tags(document, tags), "".join(pieces))


def find_secrets(text: str, emails: bool = True, ip_addresses: bool = True, assignments: bool = True) -> list[Secret]:
    """Return the secrets of a text in order, without overlaps (the earlier, then the longer one wins)."""
    from codeflow.transform.byte_scan import marks

    data = text.encode("ascii", "replace")  # a byte for each character, so that places are the text's
    found_marks = marks(data, _IS_RARE)
    spans = list(_by_pattern(text, _literals_at(data, found_marks.pairs)))
    spans += _url_passwords(text)
    if assignments:
        spans += _assignments(text, data.lower())
    if emails:
        spans += _emails(text)
    if ip_addresses:
        spans += _addresses(text, found_marks)
    spans.sort(key=lambda secret: (secret.start, -secret.end, secret.kind))
    found: list[Secret] = []
    for secret in spans:
        if not found or secret.start >= found[-1].end:
            found.append(secret)
    return found


def _by_pattern(text: str, present: set[str]) -> Iterator[Secret]:
    if not present:
        return
    for pattern in _PATTERNS:
        if present.isdisjoint(pattern.literals):
            continue
        groups = pattern.pattern.groupindex
        group = "value" if "value" in groups else 0
        for match in pattern.pattern.finditer(text):
            if "body" in groups and not _is_key_body(match["body"]):
                continue
            yield Secret(match.start(group), match.end(group), pattern.kind)


def literals_in(text: str) -> set[str]:
    """Return which of the patterns' literals occur in `text`.

    One look at all pairs of bytes instead of a search for each literal: every literal has a pair that code hardly ever
    holds, and only where one of those stands the text is compared.
    """
    from codeflow.transform.byte_scan import marks

    data = text.encode("ascii", "replace")
    return _literals_at(data, marks(data, _IS_RARE).pairs)


def _literals_at(data: bytes, places: list[int]) -> set[str]:
    found: set[str] = set()
    for at in places:
        for offset, literal, encoded in _AT_PAIR[data[at : at + 2]]:
            if at >= offset and data.startswith(encoded, at - offset):
                found.add(literal)
    return found


def _is_key_body(body: str) -> bool:
    """Tell the base64 of a key (quoted, indented, with headers) from code that stands between two marks."""
    foreign = len(_NOT_KEY_BODY.findall(body))
    return _KEY_RUN.search(body) is not None and foreign <= _MAX_FOREIGN_SHARE * len(body)


def _url_passwords(text: str) -> Iterator[Secret]:
    for match in _matches(_URL_PASSWORD, text, (at + 3 for at in _positions(text, "://"))):
        if not _PLACEHOLDER.search(match["value"]) and not match["value"].isalpha():
            yield Secret(match.start("value"), match.end("value"), "password")


def _matches(pattern: re.Pattern[str], text: str, places: Iterable[int]) -> Iterator[re.Match[str]]:
    """Yield what `finditer` finds where no match can start but at `places`, which ascend."""
    end = 0
    for at in places:
        if at >= end and (match := pattern.match(text, at)):
            end = match.end()
            yield match


def _positions(text: AnyStr, literal: AnyStr) -> Iterator[int]:
    at = text.find(literal)
    while at >= 0:
        yield at
        at = text.find(literal, at + len(literal))


def _assignments(text: str, lowered: bytes) -> Iterator[Secret]:
    """Look behind each name. lowered: the text's characters as ASCII bytes, one each, so that places are the same."""
    for shared, names in _NAMES.items():
        for place in _positions(lowered, shared):
            for before, behind in names:
                if not lowered.startswith(behind, place) or not lowered.endswith(before, 0, place):
                    continue
                if shared == b"secret" and (match := _AWS_SECRET.match(text, place)):
                    yield Secret(match.start("value"), match.end("value"), "aws_secret")
                    continue
                match = _ASSIGNED.match(text, place + len(behind))
                if match and _looks_random(match["value"]):
                    kind = "password" if shared == b"passw" else "secret"
                    yield Secret(match.start("value"), match.end("value"), kind)


def _looks_random(value: str) -> bool:
    if _PLACEHOLDER.search(value) or _WORDY.fullmatch(value):
        return False
    if _HEXADECIMAL.fullmatch(value):
        return _entropy_bits(value) >= _MIN_ENTROPY_BITS
    classes = (
        any(c.islower() for c in value),
        any(c.isupper() for c in value),
        any(c.isdigit() for c in value),
        any(not c.isalnum() for c in value),
    )
    return sum(classes) >= _MIN_CLASSES and classes[2] and _entropy_bits(value) >= _MIN_ENTROPY_BITS


def _entropy_bits(value: str) -> float:
    n = len(value)
    return -sum(count / n * math.log2(count / n) for count in Counter(value).values())


def _emails(text: str) -> Iterator[Secret]:
    for at in _positions(text, "@"):
        domain = _DOMAIN.match(text, at + 1)
        if not domain or ((tld := domain[1].lower()) not in _GENERIC_TLDS and tld not in _COUNTRY_TLDS):
            continue
        local = _LOCAL.search(text[max(0, at - 64) : at])
        if (
            not local
            or _is_message_id(local[0])
            or local[0].lower() in _ROLE_LOCALS
            or _RESERVED_DOMAIN.search(domain[0].lower())
        ):
            continue
        yield Secret(at - len(local[0]), domain.end(), "email")


def _is_message_id(local: str) -> bool:
    """Tell what a mail program made up: a `$`, or a long part of mostly digits."""
    return "$" in local or (len(local) >= 14 and 2 * sum(map(str.isdigit, local)) >= len(local))


def _addresses(text: str, found: Marks) -> Iterator[Secret]:
    for hint in _matches(_IPV4_START, text, found.dotted):
        starts = range(max(0, hint.start() - 2), hint.start() + 1)
        match = next(filter(None, (_IPV4.match(text, start) for start in starts)), None)
        if match and _is_personal(match[0]) and not _is_version(text, match):
            yield Secret(match.start(), match.end(), "ipv4")
    for hint in _matches(_IPV6_START, text, found.groups):
        match = _IPV6.match(text, hint.start())
        if match and _is_personal(match[0]):
            yield Secret(match.start(), match.end(), "ipv6")


def _is_version(text: str, match: re.Match[str]) -> bool:
    octets = [int(octet) for octet in match[0].split(".")]
    small = max(octets) < _MIN_LARGEST_OCTET or max(octets[:3]) < _MIN_HIGH_OCTET
    return (
        small or len(set(octets)) == 1 or bool(_VERSION_BEFORE.search(text[max(0, match.start() - 12) : match.start()]))
    )


def _is_personal(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return parsed.is_global and not parsed.is_multicast and str(parsed) not in _PUBLIC_RESOLVERS
