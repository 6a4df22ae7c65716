"""Licences: what metadata states, and what licence texts are -> SPDX expressions, only where that is clear."""

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
# Of a text's title; these texts name each other further down.
_TITLES = (
    (re.compile(r"GNU AFFERO GENERAL PUBLIC LICENSE,? Version 3", re.I), "AGPL-3.0-only"),
    (re.compile(r"GNU LESSER GENERAL PUBLIC LICENSE,? Version 3", re.I), "LGPL-3.0-only"),
    (re.compile(r"GNU LESSER GENERAL PUBLIC LICENSE,? Version 2\.1", re.I), "LGPL-2.1-only"),
    (re.compile(r"GNU LIBRARY GENERAL PUBLIC LICENSE,? Version 2", re.I), "LGPL-2.0-only"),
    (re.compile(r"GNU GENERAL PUBLIC LICENSE,? Version 3", re.I), "GPL-3.0-only"),
    (re.compile(r"GNU GENERAL PUBLIC LICENSE,? Version 2", re.I), "GPL-2.0-only"),
    (re.compile(r"Apache License,? Version 2\.0,? January 2004", re.I), "Apache-2.0"),
    (re.compile(r"Mozilla Public License,? Version 2\.0", re.I), "MPL-2.0"),
    (re.compile(r"Eclipse Public License -? ?v ?2\.0", re.I), "EPL-2.0"),
    (re.compile(r"Eclipse Public License -? ?v ?1\.0", re.I), "EPL-1.0"),
    (re.compile(r"Boost Software License - Version 1\.0", re.I), "BSL-1.0"),
    (re.compile(r"CC0 1\.0 Universal", re.I), "CC0-1.0"),
    (re.compile(r"MIT No Attribution", re.I), "MIT-0"),
    (re.compile(r"Unicode License V3", re.I), "Unicode-3.0"),
)
_TITLE_CHARACTERS = 400
# Of a text's grant; several of them in one text are several licences.
_GRANTS = (
    (re.compile(r"free and unencumbered software released into the public domain", re.I), "Unlicense"),
    (
        re.compile(
            r"permission to use, copy, modify,? and(?:/or)? distribute this software for any purpose with or without "
            r"fee is hereby granted, provided that the above copyright notice",
            re.I,
        ),
        "ISC",
    ),
    (
        re.compile(
            r"permission to use, copy, modify,? and(?:/or)? distribute this software for any purpose with or without "
            r"fee is hereby granted\.",
            re.I,
        ),
        "0BSD",
    ),
    (
        re.compile(
            r"in no event will the authors? be held liable for any damages arising from the use of this software\. "
            r"permission is granted to anyone to use this software for any purpose",
            re.I,
        ),
        "Zlib",
    ),
    (re.compile(r"python software foundation license version 2", re.I), "PSF-2.0"),
    (re.compile(r"SIL Open Font License", re.I), "OFL-1.1"),
    (re.compile(r"Creative Commons Attribution 4\.0 International|CC BY 4\.0", re.I), "CC-BY-4.0"),
)
_BSD_3 = re.compile(r"neither the names? of|names? of (?:its|the) (?:copyright holders?|contributors?)", re.I)
_BSD = re.compile(r"redistribution and use in source and binary forms", re.I)
_MIT = re.compile(r"permission is hereby granted, free of charge, to any person obtaining(?! a copy of the )", re.I)
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
    """Return the SPDX expression for a licence's name or full text, or "".

    The text of a GNU licence alone does not say "or later", so it is taken as "only". A text that grants by several
    licences names none of them for certain.
    """
    plain = " ".join(text.split())
    if name := _NAMES.get(plain.lower()):
        return name
    if _EXPRESSION.match(plain):
        return plain
    head = plain[:_TITLE_CHARACTERS]
    if title := next((licence for pattern, licence in _TITLES if pattern.search(head)), ""):
        return title
    granted = {licence for pattern, licence in _GRANTS if pattern.search(plain)}
    if _MIT.search(plain):
        granted.add("MIT")
    if _BSD.search(plain):
        granted.add("BSD-3-Clause" if _BSD_3.search(plain) else "BSD-2-Clause")
    return granted.pop() if len(granted) == 1 else ""
