"""Which licence file a file falls under: the nearest folder's, vendored copies first of all."""

from __future__ import annotations

from pathlib import Path

import pytest

from codeflow.core.config import Config
from codeflow.core.manifest import begin
from codeflow.core.records import read_shards
from codeflow.core.types import Document
from codeflow.corpus import collect, files
from codeflow.corpus.git_program import git
from codeflow.corpus.licence import licence_of_text
from codeflow.corpus.licence_files import (
    FolderLicence,
    LicenceFolder,
    is_licence_file,
    licences_of_folders,
    nearest,
)

MIT = b"Permission is hereby granted, free of charge, to any person obtaining a copy of this software"
BSD = b"Redistribution and use in source and binary forms, with or without modification, are permitted"
APACHE = b"                                 Apache License\n                           Version 2.0, January 2004\n"
ZLIB = (
    b"In no event will the authors be held liable for any damages arising from the use of this software.\n\n"
    b"Permission is granted to anyone to use this software for any purpose, including commercial applications"
)

TEXTS = [
    (MIT, "MIT"),
    (APACHE, "Apache-2.0"),
    (ZLIB, "Zlib"),
    (
        b"  GNU GENERAL PUBLIC LICENSE\n   Version 3, 29 June 2007\n ... GNU Affero General Public License",
        "GPL-3.0-only",
    ),
    (b"GNU LESSER GENERAL PUBLIC LICENSE\nVersion 2.1, February 1999\n", "LGPL-2.1-only"),
    (b"Mozilla Public License Version 2.0\n====", "MPL-2.0"),
    (b"This is free and unencumbered software released into the public domain.", "Unlicense"),
    (b"MIT No Attribution\n\n" + MIT, "MIT-0"),
    (MIT + b"\n----\n" + BSD, ""),  # two licences in one text
    (MIT.replace(b"of this software", b"of the fonts accompanying this license"), ""),  # Bitstream Vera
    (b"All rights reserved. Ask my lawyer.", ""),
    (b"", ""),
]


@pytest.mark.parametrize(("text", "licence"), TEXTS)
def test_texts(text: bytes, licence: str) -> None:
    assert licence_of_text(text.decode()) == licence


NAMES = [
    "LICENSE",
    "licence.txt",
    "COPYING",
    "COPYING.LESSER",
    "LICENSE-MIT",
    "UNLICENSE",
    "License.md",
    "LICENSE_1_0.txt",
]
NOT_NAMES = ["license.py", "LICENSES/readme", "licensing.txt", "copying_files.md.py", "x/license.js", "NOTICE"]


def test_names() -> None:
    assert [name for name in NAMES if not is_licence_file(f"a/{name}")] == []
    assert [name for name in NOT_NAMES if is_licence_file(name)] == []


def test_folders() -> None:
    tree = [
        ("LICENSE", MIT),
        ("dual/LICENSE-MIT", MIT),
        ("dual/LICENSE-APACHE", APACHE),
        ("half/LICENSE-MIT", MIT),
        ("half/LICENSE-OTHER", b"unknown"),
        ("two/LICENSE", MIT),
        ("two/COPYING", BSD),
        ("lesser/COPYING", b"GNU GENERAL PUBLIC LICENSE Version 3"),
        ("lesser/COPYING.LESSER", b"GNU LESSER GENERAL PUBLIC LICENSE Version 3"),
        ("vendor/strange/LICENSE", b"unknown"),
        ("odd/LICENSE", b"\xff\xfe"),
        ("huge/LICENSE", MIT * 5000),
    ]
    folders = licences_of_folders(tree)
    assert folders == {
        "": "MIT",
        "dual": "Apache-2.0 OR MIT",
        "half": "",
        "two": "",
        "lesser": "LGPL-3.0-only",
        "vendor/strange": "",
        "odd": "",
        "huge": "",
    }
    assert nearest("main.c", folders) is None
    assert nearest("dual/src/deep/a.rs", folders) == FolderLicence("dual", "Apache-2.0 OR MIT")
    assert nearest("dualist/a.rs", folders) is None
    assert nearest("odd/a.c", folders) is None  # not recognised: what lies further up holds
    assert nearest("vendor/strange/a.c", folders) == FolderLicence("vendor/strange", "")  # but not for a foreign copy
    assert nearest("vendor/other/a.c", folders) is None


SOURCES = {
    "LICENSE": MIT,
    "main.py": b"print(1)\n",
    "third_party/zlib/LICENSE": ZLIB,
    "third_party/zlib/inflate.py": b"print(2)\n",
    "third_party/zlib/contrib/own.py": b"# SPDX-License-Identifier: ISC\nprint(3)\n",
    "third_party/strange/COPYING": b"Ask me.",
    "third_party/strange/x.py": b"print(4)\n",
}
EXPECTED = {
    "main.py": "MIT",
    "third_party/zlib/inflate.py": "Zlib",
    "third_party/zlib/contrib/own.py": "ISC",
    "third_party/strange/x.py": "",
}


def write_tree(folder: Path) -> Path:
    for path, content in SOURCES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def licences(folder: Path) -> dict[str, str]:
    return {d.origin.path: d.origin.licence for d in read_shards(folder, "documents", Document)}


def test_collect_from_git(tmp_path: Path) -> None:
    repository = write_tree(tmp_path / "shop")
    for arguments in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"],
    ):
        git(arguments, repository)
    config = collect.CollectConfig(repositories=(str(repository),), include_stdlib=False, include_packages=False)
    begin(tmp_path / "out", "documents", Config(), {}, "k")
    collect.run(config, {}, tmp_path / "out")
    assert licences(tmp_path / "out") == EXPECTED
    found = {
        (f.folder, f.licence, f.vendored, f.n_documents)
        for f in read_shards(tmp_path / "out", "licences", LicenceFolder)
    }
    assert found == {("third_party/zlib", "Zlib", True, 2), ("third_party/strange", "", True, 1)}


def test_files(tmp_path: Path) -> None:
    place = write_tree(tmp_path / "shop")
    other = tmp_path / "else" / "shop"
    (other / "third_party/zlib").mkdir(parents=True)
    (other / "third_party/zlib/y.py").write_text("print(5)\n")
    begin(tmp_path / "out", "documents", Config(), {}, "k")
    files.run(files.FilesConfig(files=(str(place), str(other)), licence="0BSD"), {}, tmp_path / "out")
    found = licences(tmp_path / "out")
    assert found.pop("third_party/zlib/y.py") == "0BSD"  # another place of the same name
    found = {path: licence for path, licence in found.items() if path in EXPECTED}
    assert found == EXPECTED
