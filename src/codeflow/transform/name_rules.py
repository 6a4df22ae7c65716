"""Rules that look at a file's path and at what its source said of it. Cheap, so they come first."""

from __future__ import annotations

import re
from typing import ClassVar

from codeflow.transform.rule import OTHER_SCRIPTS, Page, Rule

_TEST_DATA = re.compile(
    r"(?i)(?:^|/)(?:test_?data|fixtures?|testcases|test[_-]?(?:files|inputs)|"
    r"tests?/(?:[^/]+/)*(?:data|inputs?|expected|golden|snapshots?))/"
)
_GENERATED_NAME = re.compile(
    r"(?:_pb2(?:_grpc)?\.pyi?|\.pb\.(?:go|cc|h)|\.pb\.gw\.go|_generated\.\w+|\.generated\.\w+|\.g\.(?:dart|cs)|"
    r"\.designer\.cs|\.bundle\.js|\.chunk\.js|_rc\.py)$|^(?:moc_\w+\.cpp|ui_\w+\.(?:h|py)|zz_generated\.\w+\.go)$",
    re.IGNORECASE,
)
_LOCK_FILE = re.compile(
    r"(?i)^(?:package-lock\.json|npm-shrinkwrap\.json|yarn\.lock|pnpm-lock\.ya?ml|poetry\.lock|pdm\.lock|uv\.lock|"
    r"pipfile\.lock|cargo\.lock|go\.sum|composer\.lock|gemfile\.lock|packages\.lock\.json|flake\.lock|mix\.lock)$"
)
_LICENCE_FILE = re.compile(r"(?i)^(?:licen[cs]es?|copying|notice|unlicense|patents)(?:[._-][\w.+-]*)?$")
_MIGRATION = re.compile(r"(?:^|/)(?:migrations|migrate|alembic/versions)/(?:[^/]+/)*(?:\d{4,}_|[0-9a-f]{12}_)\w+\.\w+$")
_TRANSLATION = re.compile(r"(?i)(?:^|/)(?:locales?|i18n|l10n|translations?|lang(?:uages)?)/")


class TestData(Rule):
    """Inputs and expected outputs of tests: odd on purpose. OpenCoder drops data by path; the folder names are ours."""

    __test__: ClassVar[bool] = False  # not a pytest class
    reason: ClassVar[str] = "test_data"

    def refuses(self, page: Page) -> str:
        """Look at the path's folders."""
        found = _TEST_DATA.search(page.document.origin.path)
        return f"path holds '{found[0].strip('/')}'" if found else ""


class TestFile(Rule):
    """Tests themselves, by the source's tag. Off: they show how code is used, and the recipe trains on them.

    CodeParrot thins test files out; switch this on to drop them.
    """

    __test__: ClassVar[bool] = False
    reason: ClassVar[str] = "test_file"
    enabled: bool = False

    def refuses(self, page: Page) -> str:
        """Read the tag."""
        return "marked by the source" if page.tag("test") else ""


class Vendored(Rule):
    """Copies of other projects, by the source's tag. Off: deduplication meets the copies, and a lone one is welcome.

    The Stack v2 drops vendored files.
    """

    reason: ClassVar[str] = "vendored"
    enabled: bool = False

    def refuses(self, page: Page) -> str:
        """Read the tag."""
        return "marked by the source" if page.tag("vendored") else ""


class GeneratedName(Rule):
    """Files named as generators and bundlers name them. The Stack v2 drops generated files; the names are ours."""

    reason: ClassVar[str] = "generated_name"

    def refuses(self, page: Page) -> str:
        """Look at the end of the name."""
        found = _GENERATED_NAME.search(page.name)
        return f"named '{page.name}'" if found else ""


class LockFile(Rule):
    """Versions and checksums that a package program wrote. The names are ours, after Linguist's generated files."""

    reason: ClassVar[str] = "lock_file"

    def refuses(self, page: Page) -> str:
        """Look at the name."""
        return f"named '{page.name}'" if _LOCK_FILE.match(page.name) else ""


class LicenceFile(Rule):
    """A licence's text: the same few texts by the million. Its name is kept in every document's origin. Ours."""

    reason: ClassVar[str] = "licence_file"
    domains: ClassVar[tuple[str, ...]] = ("general", "data")

    def refuses(self, page: Page) -> str:
        """Look at the name."""
        return f"named '{page.name}'" if _LICENCE_FILE.match(page.name) else ""


class Migration(Rule):
    """Numbered database migrations, which frameworks write from the models beside them. Ours."""

    reason: ClassVar[str] = "migration"
    domains: ClassVar[tuple[str, ...]] = ("code",)

    def refuses(self, page: Page) -> str:
        """Look at the folder and at the number in the name."""
        return "a numbered migration" if _MIGRATION.search(page.document.origin.path) else ""


class Translations(Rule):
    """Tables of an interface's texts in other languages, told by their folder and their scripts. The rule is ours."""

    reason: ClassVar[str] = "translations"
    domains: ClassVar[tuple[str, ...]] = ("code", "data")
    max_other_script_share: float = 0.1

    def refuses(self, page: Page) -> str:
        """Look at the folders, then at the share of bytes that are not ASCII."""
        if not _TRANSLATION.search(page.document.origin.path):
            return ""
        share = page.share_of(OTHER_SCRIPTS)
        return f"a folder of translations; other scripts are {share:.3f}" if share > self.max_other_script_share else ""
