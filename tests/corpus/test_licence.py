"""Licences of packages: clear ones become SPDX expressions, unclear ones stay empty."""

from __future__ import annotations

import pytest

from codeflow.corpus.licence import licence_of_package

_BSD = "Redistribution and use in source and binary forms, with or without modification, are permitted"


@pytest.mark.parametrize(
    ("expression", "stated", "classifiers", "licence"),
    [
        ("MIT OR Apache-2.0", "BSD", [], "MIT OR Apache-2.0"),
        ("", "MIT License", [], "MIT"),
        ("", "Apache License, Version 2.0", [], "Apache-2.0"),
        ("", "MPL-2.0 AND MIT", [], "MPL-2.0 AND MIT"),
        ("", "", ["License :: OSI Approved :: MIT License"], "MIT"),
        ("", "UNKNOWN", ["License :: OSI Approved :: Apache Software License"], "Apache-2.0"),
        ("", "BSD", ["License :: OSI Approved :: BSD License"], ""),
        ("", "", ["License :: OSI Approved :: BSD License", "License :: OSI Approved :: MIT License"], ""),
        ("", f"{_BSD}. Neither the name of the owner nor", [], "BSD-3-Clause"),
        ("", f"{_BSD}. That is all.", [], "BSD-2-Clause"),
        ("", "Copyright me.\nPermission is hereby granted, free of charge, to any person obtaining", [], "MIT"),
        ("", "", [], ""),
    ],
)
def test_licence(expression: str, stated: str, classifiers: list[str], licence: str) -> None:
    assert licence_of_package(expression, stated, classifiers) == licence
