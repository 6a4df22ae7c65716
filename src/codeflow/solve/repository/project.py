"""What a repository says about itself, read without running any of it: name, version, requirements, where sources lie.

Read are pyproject.toml (PEP 621, dependency groups of PEP 735, Poetry by name), setup.cfg, the literal arguments of
setup.py and the usual requirements files. What cannot be told stays empty.
"""

from __future__ import annotations

import ast
import configparser
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

_TEST_GROUPS = ("test", "tests", "testing")
_FALLBACK_GROUPS = ("dev", "develop", "development")
_REQUIREMENT_FILES = re.compile(
    r"(?:^|/)(?:test[-_]requirements|requirements[-_/]tests?|tests?/requirements)\.(?:txt|in)$"
)
_VERSION = re.compile(r"^__version__\s*(?::\s*\w+\s*)?=\s*['\"]([\w.+!-]+)['\"]", re.MULTILINE)
_SAFE_VERSION = re.compile(r"[0-9][\w.+!-]*")


@dataclass(frozen=True, slots=True)
class Project:
    """Name and version ("" where unknown), entry points by group, requirements, and files that a build would write."""

    name: str
    version: str
    entry_points: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    requirements: tuple[str, ...]  # of running it and of its tests, sorted
    version_files: tuple[str, ...]  # written by setuptools-scm or hatch-vcs when it is built


def normal(name: str) -> str:
    """Return a distribution's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_project(files: Mapping[str, bytes]) -> Project:
    """Read what the project's files say, by path; unreadable ones count as absent."""
    toml = _toml(files.get("pyproject.toml", b""))
    cfg = _cfg(files.get("setup.cfg", b""))
    setup = _setup_arguments(files.get("setup.py", b""))
    project, poetry = _table(toml, "project"), _table(toml, "tool", "poetry")
    metadata = cfg.get("metadata", {})
    name = str(project.get("name") or poetry.get("name") or metadata.get("name") or setup.get("name") or "")
    stated = project.get("version") or poetry.get("version") or metadata.get("version") or setup.get("version") or ""
    version = stated if isinstance(stated, str) and _SAFE_VERSION.fullmatch(stated) else _version_in(files)
    wanted = [*_declared(toml), *_declared_by_poetry(poetry), *_declared_by_cfg(cfg), *_declared_by_setup(setup)]
    wanted += [
        line
        for path, content in sorted(files.items())
        if _REQUIREMENT_FILES.search(path)
        for line in content.decode("utf-8", "replace").splitlines()
    ]
    return Project(
        name=name if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) else "",
        version=version,
        entry_points=_entry_points(project, poetry),
        requirements=safe_requirements(wanted, name),
        version_files=_version_files(toml),
    )


def safe_requirements(lines: Iterable[Any], own_name: str = "") -> tuple[str, ...]:
    """Return the requirements among `lines` that name a package of an index, sorted, each once.

    Options of pip, paths, urls and the project itself are left out: a repository must not tell pip what to do.
    """
    found: set[str] = set()
    for line in lines:
        text = str(line).partition(" #")[0].partition(" --hash")[0].strip().rstrip("\\").strip()
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        if not requirement.url and normal(requirement.name) != normal(own_name):
            found.add(str(requirement))
    return tuple(sorted(found))


def _toml(content: bytes) -> dict[str, Any]:
    try:
        return tomllib.loads(content.decode("utf-8"))
    except ValueError:
        return {}


def _cfg(content: bytes) -> dict[str, dict[str, str]]:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read_string(content.decode("utf-8", "replace"))
    except configparser.Error:
        return {}
    return {name: dict(parser[name]) for name in parser.sections()}


def _setup_arguments(content: bytes) -> dict[str, Any]:
    """Return the literal arguments of `setup(...)`; the file is parsed, never run."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    found: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "setup":
            for keyword in node.keywords:
                try:
                    found[keyword.arg or ""] = ast.literal_eval(keyword.value)
                except (ValueError, TypeError, RecursionError):
                    continue
    return found


def _table(tree: Any, *keys: str) -> dict[str, Any]:
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree if isinstance(tree, dict) else {}


def _chosen(groups: Mapping[str, Any]) -> list[str]:
    """Return the names of the groups that hold what tests need."""
    by_name = {normal(name): name for name in groups}
    named = [by_name[name] for name in _TEST_GROUPS if name in by_name]
    return named or [by_name[name] for name in _FALLBACK_GROUPS if name in by_name]


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else value.splitlines() if isinstance(value, str) else []


def _declared(toml: Mapping[str, Any]) -> list[Any]:
    project, groups = _table(toml, "project"), _table(toml, "dependency-groups")
    extras = _table(project, "optional-dependencies")
    found = _listed(project.get("dependencies"))
    found = [*found, *(line for name in _chosen(extras) for line in _listed(extras[name]))]
    waiting, seen = _chosen(groups), set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in groups:
            continue
        seen.add(name)
        for item in _listed(groups[name]):
            if isinstance(item, dict):
                waiting.append(str(item.get("include-group", "")))
            else:
                found.append(item)
    return found


def _declared_by_poetry(poetry: Mapping[str, Any]) -> list[str]:
    """Return the names of Poetry's requirements: its version constraints are no standard ones."""
    groups = {name: _table(group, "dependencies") for name, group in _table(poetry, "group").items()}
    if old := _table(poetry, "dev-dependencies"):
        groups["dev"] = groups.get("dev", {}) | old
    chosen = [_table(poetry, "dependencies"), *(groups[name] for name in _chosen(groups))]
    return [
        name
        for table in chosen
        for name, how in table.items()
        if name != "python" and not (isinstance(how, dict) and how.get("optional"))
    ]


def _declared_by_cfg(cfg: Mapping[str, Mapping[str, str]]) -> list[str]:
    extras = cfg.get("options.extras_require", {})
    lines = cfg.get("options", {}).get("install_requires", "").splitlines()
    return [*lines, *(line for name in _chosen(extras) for line in extras[name].splitlines())]


def _declared_by_setup(setup: Mapping[str, Any]) -> list[Any]:
    extras = _table(setup, "extras_require")
    found = [*_listed(setup.get("install_requires")), *_listed(setup.get("tests_require"))]
    return [*found, *(line for name in _chosen(extras) for line in _listed(extras[name]))]


def _version_in(files: Mapping[str, bytes]) -> str:
    """Return a literal `__version__` of the shallowest module that has one."""
    for path in sorted((path for path in files if path.endswith(".py")), key=lambda path: (path.count("/"), path)):
        if path.count("/") <= 2 and (match := _VERSION.search(files[path].decode("utf-8", "replace"))):
            return match[1]
    return ""


def _entry_points(project: Mapping[str, Any], poetry: Mapping[str, Any]) -> Any:
    groups = {str(name): group for name, group in _table(project, "entry-points").items()}
    groups |= {str(name): group for name, group in _table(poetry, "plugins").items()}
    groups["console_scripts"] = {**_table(project, "scripts"), **_table(poetry, "scripts")}
    return tuple(
        (name, tuple(sorted((str(key), value) for key, value in group.items() if isinstance(value, str))))
        for name, group in sorted(groups.items())
        if isinstance(group, dict) and group
    )


def _version_files(toml: Mapping[str, Any]) -> tuple[str, ...]:
    tool = _table(toml, "tool")
    scm = _table(tool, "setuptools_scm")
    named = [
        scm.get("write_to"),
        scm.get("version_file"),
        _table(tool, "hatch", "build", "hooks", "vcs").get("version-file"),
    ]
    return tuple(sorted({path for path in named if isinstance(path, str) and path.endswith(".py")}))
