"""Licences of Python packages: what their metadata states -> SPDX expressions, only where that is clear."""

from __future__ import annotations

import re
from collections.abc import Iterable

_CLASSIFIERS = {
    "MIT License": "MIT",
    "MIT No Attribution License (MIT-0)": "MIT-0",
    "Apache Software License": "Apache-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "ISC License (ISCL)": "ISC",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "GNU General Public License v2 (GPLv2)": "GPL-2.0-only",
    "GNU General Public License v2 or later (GPLv2+)": "GPL-2.0-or-later",
    "GNU General Public License v3 (GPLv3)": "GPL-3.0-only",
    "GNU General Public License v3 or later (GPLv3+)": "GPL-3.0-or-later",
    "GNU Lesser General Public License v3 (LGPLv3)": "LGPL-3.0-only",
    "GNU Lesser General Public License v3 or later (LGPLv3+)": "LGPL-3.0-or-later",
    "GNU Affero General Public License v3": "AGPL-3.0-only",
    "The Unlicense (Unlicense)": "Unlicense",
    "zlib/libpng License": "Zlib",
    "Boost Software License 1.0 (BSL-1.0)": "BSL-1.0",
    "Zope Public License": "ZPL-2.1",
    "Historical Permission Notice and Disclaimer (HPND)": "HPND",
    "CC0 1.0 Universal (CC0 1.0) Public Domain Dedication": "CC0-1.0",
}  # "BSD License" is no entry: it does not say which one

_NAMES = {
    "mit": "MIT",
    "mit license": "MIT",
    "the mit license": "MIT",
    "apache 2.0": "Apache-2.0",
    "apache-2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache 2": "Apache-2.0",
    "bsd-2-clause": "BSD-2-Clause",
    "bsd 2-clause": "BSD-2-Clause",
    "bsd 2-clause license": "BSD-2-Clause",
    "simplified bsd": "BSD-2-Clause",
    "bsd-3-clause": "BSD-3-Clause",
    "bsd 3-clause": "BSD-3-Clause",
    "bsd 3-clause license": "BSD-3-Clause",
    "3-clause bsd": "BSD-3-Clause",
    "new bsd": "BSD-3-Clause",
    "modified bsd": "BSD-3-Clause",
    "isc": "ISC",
    "isc license": "ISC",
    "psf": "PSF-2.0",
    "psf-2.0": "PSF-2.0",
    "mpl-2.0": "MPL-2.0",
    "mpl 2.0": "MPL-2.0",
    "zlib": "Zlib",
    "unlicense": "Unlicense",
}
_BSD_3 = re.compile(r"neither the names? of|names? of (?:its|the) (?:copyright holders?|contributors?)", re.I)
_BSD = re.compile(r"redistribution and use in source and binary forms", re.I)
_MIT = re.compile(r"permission is hereby granted, free of charge, to any person obtaining", re.I)
_EXPRESSION = re.compile(r"^[A-Za-z0-9.+\-]+(?: (?:AND|OR|WITH) [A-Za-z0-9.+\-]+)+$")


def licence_of_package(expression: str, stated: str, classifiers: Iterable[str]) -> str:
    """Return the SPDX expression of a package from its `License-Expression`, `License` and classifiers, or "".

    A field that names no licence for certain ("BSD", "see file") is passed over rather than guessed at.
    """
    if expression.strip():
        return expression.strip()
    if found := licence_of_text(stated):
        return found
    named = [_CLASSIFIERS.get(line.rsplit(" :: ", 1)[-1], "") for line in classifiers if line.startswith("License ::")]
    known = sorted({name for name in named if name})
    return " OR ".join(known) if known and all(named) else ""


def licence_of_text(text: str) -> str:
    """Return the SPDX expression for a licence's name or full text, or ""."""
    plain = " ".join(text.split())
    if name := _NAMES.get(plain.lower()):
        return name
    if _EXPRESSION.match(plain):
        return plain
    if _MIT.search(plain):
        return "MIT"
    if _BSD.search(plain):
        return "BSD-3-Clause" if _BSD_3.search(plain) else "BSD-2-Clause"
    return ""
