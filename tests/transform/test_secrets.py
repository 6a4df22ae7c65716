"""Every kind of secret in several surroundings, what must stay, and properties on any text.

All values are made up here from a seeded generator; none is issued by anyone.
"""

from __future__ import annotations

import random
import re
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codeflow.core.storage import sha256_text
from codeflow.core.types import Document, Origin
from codeflow.transform import secrets
from codeflow.transform.byte_scan import marks
from codeflow.transform.secrets import ReplaceSecrets, find_secrets, literals_in

ALNUM = string.ascii_letters + string.digits
RANDOM = random.Random(5)


def some(alphabet: str, n: int) -> str:
    return "".join(RANDOM.choice(alphabet) for _ in range(n))


def replaced(text: str) -> Document:
    result = ReplaceSecrets()(Document(sha256_text(text), text, "Python", Origin("project", "r", "", "a.py", "", "")))
    assert isinstance(result, Document)
    return result


PEM_LINES = [some(ALNUM + "+/", 64) for _ in range(12)]
PEM_LABEL = "RSA PRIVATE " + "KEY"
PEM = "\n".join([f"-----BEGIN {PEM_LABEL}-----", *PEM_LINES, f"-----END {PEM_LABEL}-----"])

CASES = [
    ("private_key", PEM),
    ("private_key", PEM.replace("-----\n", "-----\nProc-Type: 4,ENCRYPTED\n\n", 1)),
    ("private_key", "\n".join(PEM.split("\n")[:6])),  # cut off
    ("aws_key", "AK" + "IA" + some(string.ascii_uppercase + "234567", 16)),
    ("github_token", "gh" + "p_" + some(ALNUM, 36)),
    ("github_token", "github" + "_pat_" + some(ALNUM, 22) + "_" + some(ALNUM, 59)),
    ("gitlab_token", "gl" + "pat-" + some(ALNUM, 20)),
    ("slack_token", "xo" + "xb-" + some(string.digits, 12) + "-" + some(string.digits, 12) + "-" + some(ALNUM, 24)),
    ("stripe_key", "sk" + "_live_" + some(ALNUM, 24)),
    ("google_key", "AI" + "za" + some(ALNUM + "_-", 34) + "x"),
    ("jwt", "ey" + "J" + some(ALNUM, 33) + ".ey" + "J" + some(ALNUM, 40) + "." + some(ALNUM, 43)),
    ("npm_token", "npm" + "_" + some(ALNUM, 36)),
    ("pypi_token", "pypi-" + "AgEIcHlwaS5vcmc" + some(ALNUM, 120)),
    ("hugging_face_token", "hf" + "_" + some(string.ascii_letters, 34)),
    ("email", "jane.doe+lists@mail.uni-hamburg.de"),
    ("email", "j@acme-widgets.com"),
    ("ipv4", "93.184.216.34"),
    ("ipv6", "2a00:1450:4001:81b::200e"),
]  # fmt: skip


@pytest.mark.parametrize("surrounding", ["x = '{}'\n", "# see {} for more\n", "{}\n", "<{}>", 'f("{}", 1)\n'])
@pytest.mark.parametrize(("kind", "value"), CASES)
def test_secrets_are_replaced_by_their_kind(kind: str, value: str, surrounding: str) -> None:
    result = replaced(surrounding.format(value))
    assert result.text == surrounding.format(f"<{kind.upper()}>")
    assert result.tags == {f"secrets_{kind}": 1.0}
    assert result.id == sha256_text(result.text)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('password = "k3#Vq9!xTz-72Lw"', "password"),
        ('{"api_key": "b7Rk20XqLm5sT9vE4wYc"}', "secret"),
        ("client_secret: str = 'Zq81-mnVx44_TTre09'", "secret"),
        ('TOKEN_VALUE="9f86d081884c7d659a2feaa0c55ad015"', "secret"),
        ("aws_secret_access_key = " + some(ALNUM + "/", 38) + "7a", "aws_secret"),
        ("postgres://admin:S3cr3tW0rdX9@db.internal/x", "password"),
    ],
)
def test_assignments(text: str, kind: str) -> None:
    assert [secret.kind for secret in find_secrets(text)] == [kind]


@pytest.mark.parametrize(
    "text",
    [
        "@decorator\nclass A: pass\n",
        "y = a@b.T + x @ w\n",
        "someone@example.com, you@example.org, git@github.com:a/b.git, icon@2x.png",
        "127.0.0.1 10.1.2.3 192.168.0.1 192.0.2.7 255.255.255.0 0.0.0.0 8.8.8.8",
        "version 93.184.216.34",
        "sections 8.2.4.44 and 1.3.6.1.4.1.311.2",
        "v = '4.0.30319.42000'",
        "a[2001:3:5], std::vector, 20:30:45, 2024:01:02",
        "2001:db8::1",
        'password = "changeme-please"',
        'password = "correct_horse_battery"',
        'token = "application/x-www-form-urlencoded"',
        'secret = os.environ["SECRET"]',
        'api_key = "your-api-key-here-1A"',
        'password_hash_name = "PBKDF2.HMAC.SHA256"',
        f"a = '-----BEGIN {PEM_LABEL}-----'\nif line.startswith(a): read(line)\nb = '-----END {PEM_LABEL}-----'\n",
        "sk_live_ and AKIA and ghp_ are prefixes",
    ],
)  # fmt: skip
def test_what_is_no_secret_stays(text: str) -> None:
    assert find_secrets(text) == []


def test_kinds_can_be_switched_off_and_counts_add_up() -> None:
    text = "a: jane@acme.com, joe@acme.com at 93.184.216.34"
    assert replaced(text).tags == {"secrets_email": 2.0, "secrets_ipv4": 1.0}
    origin = Origin("project", "r", "", "a", "", "")
    result = ReplaceSecrets(emails=False, ip_addresses=False)(Document("", text, "Python", origin))
    assert isinstance(result, Document)
    assert result.text == text


PIECES = st.sampled_from(
    [
        *(value for _, value in CASES),
        "@",
        "a@b.de",
        ".",
        "1.2.3.77",
        "password='",
        "'",
        "://u:",
        "é",
        "İ",
        "\ud800",
        "\n",
    ]
)


@given(st.one_of(st.text(st.characters(exclude_categories=())), st.lists(PIECES, max_size=12).map("".join)))
@settings(max_examples=150, deadline=None)
def test_any_text_gives_ordered_spans_inside_it(text: str) -> None:
    at = 0
    for secret in find_secrets(text):
        assert at <= secret.start < secret.end <= len(text)
        at = secret.end
    result = replaced(text)
    assert result.id == sha256_text(result.text)


PIECES = [
    *secrets._LITERALS,
    *(literal[:-1] for literal in secrets._LITERALS),
    "x",
    "\u00e9",
    "\ud800",
    "p_",
    "AK",
    "s.",
]


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_literals_are_those_that_a_search_finds(text: str) -> None:
    assert literals_in(text) == {literal for literal in secrets._LITERALS if literal in text}


@pytest.mark.parametrize("literal", secrets._LITERALS)
def test_every_literal_is_found_at_both_ends(literal: str) -> None:
    assert literals_in(literal) >= {literal}
    assert literals_in(literal[1:]) == {other for other in secrets._LITERALS if other in literal[1:]}


@given(
    st.lists(st.sampled_from(["://", "://u:", "pw9k!2", "@h", "@", "a:b", "/", " ", "\u00e9"]), max_size=14).map(
        "".join
    )
)
def test_url_passwords_are_those_that_a_scan_finds(text: str) -> None:
    scan = re.compile(r"(?<=://)" + secrets._URL_PASSWORD.pattern)
    places = (at + 3 for at in secrets._positions(text, "://"))
    found = [match.span() for match in secrets._matches(secrets._URL_PASSWORD, text, places)]
    assert found == [match.span() for match in scan.finditer(text)]


@given(st.text(st.sampled_from("0123.:a2f \u00e9"), max_size=60))
def test_starts_of_addresses_are_those_that_a_scan_finds(text: str) -> None:
    found = marks(text.encode("ascii", "replace"), secrets._IS_RARE)
    for pattern, places in ((secrets._IPV4_START, found.dotted), (secrets._IPV6_START, found.groups)):
        spans = [match.span() for match in secrets._matches(pattern, text, places)]
        assert spans == [match.span() for match in pattern.finditer(text)]
