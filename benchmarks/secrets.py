"""Secrets: recall on a planted set, and false hits per MB of the standard library.

Planted: values made by a seeded generator to each issuer's format, set into real library files between random lines,
in the ways people leave them (assignment, comment, JSON, shell, bare). A value counts as found when neither it nor its
tail is left in the text. The generators do not share code with the patterns under test.

False hits: everything found in the running interpreter's library counts as false, except e-mail addresses and what was
looked at and found to be a public address (`_REVIEWED`, by file and kind, for CPython 3.11). Prints one JSON line.
"""

from __future__ import annotations

import json
import random
import string
import sysconfig
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from codeflow.core.storage import sha256_text
from codeflow.core.types import Document, Origin
from codeflow.transform.secrets import ReplaceSecrets, find_secrets

_N_PER_KIND = 60
_LOWER_HEX, _ALNUM = "0123456789abcdef", string.ascii_letters + string.digits
_URL_SAFE = _ALNUM + "-_"
_SETTINGS = (
    "value = '{}'",
    "# left here: {}",
    '    "key": "{}",',
    "export SOME_VALUE={}",
    "{}",
    "client = connect(host, '{}', retries=3)",
)
_REVIEWED = {
    ("test/test_asyncio/test_base_events.py", "ipv4"),
    ("test/test_email/test_email.py", "ipv4"),
    ("test/test_ipaddress.py", "ipv4"),
    ("test/test_ipaddress.py", "ipv6"),
    ("test/test_mailbox.py", "ipv4"),
    ("test/test_socket.py", "ipv4"),
    ("test/test_ssl.py", "ipv6"),
}
Make = Callable[[random.Random], str]


def _some(rng: random.Random, alphabet: str, n: int) -> str:
    return "".join(rng.choice(alphabet) for _ in range(n))


def _private_key(rng: random.Random) -> str:
    label = rng.choice(["RSA PRIVATE ", "PRIVATE ", "EC PRIVATE ", "OPENSSH PRIVATE "]) + "KEY"
    lines = [_some(rng, _ALNUM + "+/", 64) for _ in range(rng.randint(3, 25))]
    separator = rng.choice(["\n", "\\n"])
    return separator.join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----"])


def _email(rng: random.Random) -> str:
    local = rng.choice([".", "_", "+", ""]).join(
        _some(rng, string.ascii_lowercase, rng.randint(2, 9)) for _ in range(2)
    )
    domain = ".".join(_some(rng, string.ascii_lowercase, rng.randint(3, 12)) for _ in range(rng.randint(1, 2)))
    return f"{local}@{domain}.{rng.choice(['com', 'org', 'de', 'fr', 'io', 'co.uk', 'edu', 'net'])}"


def _ipv4(rng: random.Random) -> str:
    first = rng.choice([n for n in range(11, 223) if n not in (100, 127, 169, 172, 192, 198, 203)])
    return f"{first}.{rng.randint(0, 255)}.{rng.randint(0, 255)}.{rng.randint(1, 254)}"


def _ipv6(rng: random.Random) -> str:
    groups = [rng.choice(["2a00", "2a01", "2a02", "2600", "2607", "2404"])]
    groups += [f"{rng.randint(1, 65535):x}" for _ in range(7)]
    return ":".join(groups) if rng.random() < 0.5 else ":".join(groups[:4]) + "::" + groups[7]


def _password(rng: random.Random) -> str:
    while True:
        value = _some(rng, _ALNUM + "!#%^*-_", 16)
        if any(c.isdigit() for c in value) and any(c.islower() for c in value) and any(c.isupper() for c in value):
            return value


_KINDS: dict[str, Make] = {
    "private_key": _private_key,
    "aws_key": lambda r: "AKIA" + _some(r, string.ascii_uppercase + "234567", 16),
    "github_token": lambda r: r.choice(["ghp", "gho", "ghu", "ghs", "ghr"]) + "_" + _some(r, _ALNUM, 36),
    "github_fine_token": lambda r: "github_pat_" + _some(r, _ALNUM, 22) + "_" + _some(r, _ALNUM, 59),
    "gitlab_token": lambda r: "glpat-" + _some(r, _URL_SAFE, 20),
    "slack_token": lambda r: (
        f"xox{r.choice('bpa')}-{_some(r, string.digits, 12)}-{_some(r, string.digits, 12)}-" + _some(r, _ALNUM, 24)
    ),
    "slack_webhook": lambda r: (
        "https://hooks.slack.com/services/T"
        + f"{_some(r, string.ascii_uppercase, 8)}/B{_some(r, string.ascii_uppercase, 8)}/{_some(r, _ALNUM, 24)}"
    ),
    "stripe_key": lambda r: r.choice(["sk", "rk", "pk"]) + "_live_" + _some(r, _ALNUM, 24),
    "google_key": lambda r: "AIza" + _some(r, _URL_SAFE, 35),
    "jwt": lambda r: ".".join(["eyJ" + _some(r, _ALNUM, 33), "eyJ" + _some(r, _URL_SAFE, 60), _some(r, _URL_SAFE, 43)]),
    "npm_token": lambda r: "npm_" + _some(r, _ALNUM, 36),
    "pypi_token": lambda r: "pypi-AgEIcHlwaS5vcmc" + _some(r, _URL_SAFE, 130),
    "hugging_face_token": lambda r: "hf_" + _some(r, string.ascii_letters, 34),
    "email": _email,
    "ipv4": _ipv4,
    "ipv6": _ipv6,
}
_ASSIGNED: dict[str, tuple[str, Make]] = {
    "password": ('DB_PASSWORD = "{}"', _password),
    "api_key": ('"api_key": "{}"', lambda r: _some(r, _LOWER_HEX, 32)),
    "aws_secret": ('aws_secret_access_key = "{}"', lambda r: _some(r, _ALNUM, 39) + "7"),
}


def library_files() -> list[tuple[str, str]]:
    """Return (path, text) of the standard library's Python files."""
    root = Path(sysconfig.get_path("stdlib"))
    paths = [path for path in sorted(root.rglob("*.py")) if "site-packages" not in path.parts]
    return [(path.relative_to(root).as_posix(), path.read_bytes().decode("utf-8", "replace")) for path in paths]


def recall(files: list[tuple[str, str]], rng: random.Random) -> dict[str, float]:
    """Return the share of planted values that are gone after replacement, by kind."""
    replace = ReplaceSecrets()
    origin = Origin("benchmark", "", "", "", "", "")
    hosts = [text.split("\n") for _, text in files if 2_000 < len(text) < 20_000]
    found: Counter[str] = Counter()
    planted = [(kind, rng.choice(_SETTINGS), make) for kind, make in _KINDS.items() for _ in range(_N_PER_KIND)]
    planted += [(kind, form, make) for kind, (form, make) in _ASSIGNED.items() for _ in range(_N_PER_KIND)]
    for kind, form, make in planted:
        value = make(rng)
        lines = list(rng.choice(hosts))
        lines.insert(rng.randrange(len(lines)), form.format(value))
        text = "\n".join(lines)
        result = replace(Document(sha256_text(text), text, "Python", origin))
        assert isinstance(result, Document)
        found[kind] += value[8:] not in result.text and value not in result.text
    return {kind: found[kind] / _N_PER_KIND for kind in [*_KINDS, *_ASSIGNED]}


def main() -> None:
    """Measure and print."""
    files = library_files()
    n_mb = sum(len(text.encode("utf-8", "replace")) for _, text in files) / 1e6
    started = time.process_time()
    hits = [(path, secret.kind) for path, text in files for secret in find_secrets(text)]
    seconds = time.process_time() - started
    false = Counter(f"{path} {kind}" for path, kind in hits if kind != "email" and (path, kind) not in _REVIEWED)
    by_kind = recall(files, random.Random(7))
    result = {
        "benchmark": "secrets",
        "ours": round(sum(by_kind.values()) / len(by_kind), 4),
        "unit": "recall on the planted set",
        "n_planted": _N_PER_KIND * len(by_kind),
        "recall_below_1": {kind: round(value, 3) for kind, value in by_kind.items() if value < 1},
        "false_hits_per_mb": round(sum(false.values()) / n_mb, 3),
        "false_hits": dict(sorted(false.items())),
        "hits_by_kind": dict(sorted(Counter(kind for _, kind in hits).items())),
        "hits_per_mb_other_than_email": round(sum(kind != "email" for _, kind in hits) / n_mb, 3),
        "library_mb": round(n_mb, 1),
        "mb_per_second": round(n_mb / seconds, 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
