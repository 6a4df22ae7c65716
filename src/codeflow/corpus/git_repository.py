"""A git repository named by a path or URL: found or fetched, checked, and described without machine paths."""

from __future__ import annotations

import functools
import hashlib
import re
import shutil
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from codeflow.core.errors import UserError
from codeflow.core.progress import say
from codeflow.core.storage import make_folder
from codeflow.corpus.git_program import git

SYNTHETIC_MARKER = ".codeflow-synthetic"  # a file of this name at HEAD: the history was made by a script
_FETCHED = "refs/codeflow/head"
_URL = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]*://")
_SCP = re.compile(r"^(?:[\w.-]+@)?([\w.-]+):(?!/?/)(.+)$")  # user@host:path
_FETCH_SECONDS = 3600
_EPOCH = date(1970, 1, 1)


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository that is there and has commits."""

    folder: Path  # where it lies on this machine; never written into data
    name: str  # URL without credentials, or the folder's own name
    head: str  # commit sha
    head_time: str  # committer time of the head, ISO 8601 UTC
    shallow: bool
    synthetic: bool

    @property
    def source(self) -> str:
        """Return the `Origin.source` of what comes from here."""
        return "synthetic-git" if self.synthetic else "git"


def is_url(place: str) -> bool:
    """Say whether `place` names a remote repository rather than a path."""
    return bool(_URL.match(place)) or (bool(_SCP.match(place)) and not Path(place).exists())


def iso_time(seconds: int | float) -> str:
    """Return a Unix time as ISO 8601 UTC; times outside the calendar (broken commits) are clamped to it."""
    day, second = divmod(min(max(int(seconds), 0), 253402300799), 86400)
    return f"{_iso_day(day)}T{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}Z"


@functools.lru_cache(maxsize=1024)  # a history's commits come in order
def _iso_day(day: int) -> str:
    return (_EPOCH + timedelta(day)).isoformat()


def url_without_credentials(url: str) -> str:
    """Return scheme, host, port and path of a URL (or of user@host:path), and nothing else."""
    if scp := None if _URL.match(url) else _SCP.match(url):
        return f"ssh://{scp[1]}/{scp[2]}"
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        port = ""
    return f"{parts.scheme}://{host}{port}{parts.path}"


def locate(place: str, cache: Path) -> Repository:
    """Find the repository at a path, or fetch the one at a URL into `cache`.

    Raises UserError when there is none, when it is empty, or when it cannot be fetched.
    """
    if is_url(place):
        folder, revision = _fetch(place, cache), _FETCHED
        name = Path(urlsplit(place).path).name if place.startswith("file:") else url_without_credentials(place)
    else:
        folder, revision = _check_path(place), "HEAD"
        name = _local_name(folder)
    return _describe(folder, revision, name, place)


def head_of(place: str) -> str:
    """Return the head commit of the repository at a path or URL, without fetching. Raises UserError like `locate`."""
    if is_url(place):
        return _remote_head(place)
    folder = _check_path(place)
    return _head(folder, "HEAD", place)


def fingerprint(places: tuple[str, ...], optional: tuple[str, ...]) -> str:
    """Return one line per place: its head, or (for an optional one) why there is none. Cheap."""
    lines = []
    for place in (*places, *optional):
        try:
            lines.append(f"{place} {head_of(place)}")
        except UserError as error:
            if place in places:
                raise
            lines.append(f"{place} none: {error}")
    return "\n".join(lines)


def locate_all(places: tuple[str, ...], optional: tuple[str, ...], cache: Path) -> tuple[list[Repository], list[str]]:
    """Locate every place; return the repositories and remarks on those that are missing or shallow.

    Names are made unique. Raises UserError for a missing one of `places`; a missing optional one is a remark.
    """
    found: list[Repository] = []
    remarks: list[str] = []
    for place in dict.fromkeys((*places, *optional)):
        try:
            repository = locate(place, cache)
        except UserError as error:
            if place in places:
                raise
            shown = url_without_credentials(place) if is_url(place) else Path(place).resolve().name
            remarks.append(f"no history from '{shown}': not a git repository with commits here")
            say(f"  {error}")
            continue
        found.append(_unique(repository, found))
        if repository.shallow:
            remarks.append(f"{found[-1].name} is a shallow clone: older commits are missing")
    return found, remarks


def _unique(repository: Repository, others: list[Repository]) -> Repository:
    taken = {other.name for other in others}
    name, number = repository.name, 1
    while name in taken:
        number += 1
        name = f"{repository.name} ({number})"
    return Repository(
        repository.folder, name, repository.head, repository.head_time, repository.shallow, repository.synthetic
    )


def _check_path(place: str) -> Path:
    folder = Path(place).expanduser()
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise UserError(f"repository '{place}' {what}; give the folder of a git repository or its URL")
    status, _, complaint = git(["rev-parse", "--git-dir"], folder)
    if status:
        raise UserError(f"'{place}' is no git repository ({complaint}); give the top folder of one, or its URL")
    return folder.resolve()


def _head(folder: Path, revision: str, place: str) -> str:
    status, output, _ = git(["rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}"], folder)
    if status:
        raise UserError(f"repository '{place}' is empty (no commit at {revision}); commit something, or leave it out")
    return output.decode().strip()


def _describe(folder: Path, revision: str, name: str, place: str) -> Repository:
    head = _head(folder, revision, place)
    status, output, complaint = git(["show", "-s", "--format=%ct", "--no-notes", head], folder)
    if status:
        raise UserError(f"repository '{place}' is damaged ({complaint}); clone it again")
    _, shallow, _ = git(["rev-parse", "--is-shallow-repository"], folder)
    synthetic, _, _ = git(["cat-file", "-e", f"{head}:{SYNTHETIC_MARKER}"], folder)
    text = output.decode().strip()
    seconds = int(text) if text.lstrip("-").isdigit() else 0
    return Repository(folder, name, head, iso_time(seconds), shallow.strip() == b"true", synthetic == 0)


def _local_name(folder: Path) -> str:
    _, output, _ = git(["config", "--local", "--get", "remote.origin.url"], folder)
    url = output.decode("utf-8", "replace").strip()
    if is_url(url) and not url.startswith("file:"):
        return url_without_credentials(url)
    base = folder.parent.name if folder.name == ".git" else folder.name
    return base.removesuffix(".git") or "repository"


def _check_url(url: str) -> None:
    helper, double_colon, _ = url.partition("::")  # git would start a program of that name
    scheme = helper if double_colon else urlsplit(url).scheme if _URL.match(url) else "ssh"
    if scheme not in ("https", "ssh", "file"):
        raise UserError(f"cannot fetch '{url_without_credentials(url)}' by {scheme}; use https, ssh or file")
    if _URL.match(url) and urlsplit(url).password:
        raise UserError(
            f"the URL of {url_without_credentials(url)} holds a password; use a git credential helper or ssh"
        )


def _remote_head(url: str) -> str:
    _check_url(url)
    status, output, complaint = git(["ls-remote", "--", url, "HEAD"], fetch=True, timeout_seconds=30)
    shown = url_without_credentials(url)
    if status:
        raise UserError(f"cannot read repository {shown} ({complaint}); check the address and your access to it")
    if not output.strip():
        raise UserError(f"repository {shown} is empty; commit something, or leave it out")
    return output.split()[0].decode()


def _fetch(url: str, cache: Path) -> Path:
    """Fetch the head's history of `url` into a bare repository under `cache`; one that is up to date stays as it is."""
    head = _remote_head(url)
    folder = make_folder(cache) / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}.git"
    if folder.exists():
        status, output, _ = git(["rev-parse", "--verify", "--quiet", _FETCHED], folder)
        if status == 0 and output.decode().strip() == head:
            return folder
        if _fetch_into(folder, url) == "":
            return folder
        shutil.rmtree(folder)  # a fetch that was killed can leave locks behind
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    status, _, complaint = git(["init", "--quiet", "--bare", "--template=", "--", str(temporary)])
    complaint = complaint if status else _fetch_into(temporary, url)
    if complaint:
        shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(f"cannot fetch {url_without_credentials(url)} ({complaint}); check the address and your access")
    temporary.rename(folder)
    return folder


def _fetch_into(folder: Path, url: str) -> str:
    arguments = ["fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--no-auto-maintenance"]
    say(f"  fetching {url_without_credentials(url)}")
    status, _, complaint = git([*arguments, "--", url, f"+HEAD:{_FETCHED}"], folder, True, _FETCH_SECONDS)
    return (complaint or "git fetch failed") if status else ""
