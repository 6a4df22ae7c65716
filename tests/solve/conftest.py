from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from codeflow.solve.repository import environment as environments
from codeflow.solve.repository import mine
from tests.solve.repository.histories import calc, make_tasks, packages


@pytest.fixture(scope="package")
def mined(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str, str]]:
    """Tasks of the small repository: their folder, the cache, and the commit that makes the one task."""
    place = tmp_path_factory.mktemp("mined")
    _, sha = calc(place / "calc")
    made = environments.Environment(packages(place / "cache" / "environments" / "fixed"), ("pytest==0",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(environments, "prepare", lambda *_, **__: made)
        make_tasks(mine.MineConfig(repository=str(place / "calc"), cache=str(place / "cache")), place / "tasks")
        yield place / "tasks", str(place / "cache"), sha
