from __future__ import annotations

import pytest

from codeflow.solve.repository.project import Project, read_project, safe_requirements

PEP_621 = """\
[project]
name = "One-Two"
version = "3.1"
dependencies = ["attrs>=20", "evil @ https://example.org/x.whl"]
scripts = {one = "one:main"}
[project.optional-dependencies]
test = ["pytest", "one-two[fast]"]
docs = ["sphinx"]
[dependency-groups]
tests = ["hypothesis", {include-group = "more"}]
more = ["mock; python_version >= '3'", {include-group = "tests"}]
[tool.hatch.build.hooks.vcs]
version-file = "src/one/_version.py"
"""
POETRY = """\
[tool.poetry]
name = "poem"
version = "1.0"
[tool.poetry.dependencies]
python = "^3.9"
requests = "^2.0"
rare = {version = "^1", optional = true}
[tool.poetry.group.dev.dependencies]
pytest = "^7"
"""
CFG = "[metadata]\nname = old\n[options]\ninstall_requires =\n    six\n[options.extras_require]\ntesting =\n    nose\n"
SETUP = (
    "from setuptools import setup\nimport os\nos.system('touch /tmp/ran')\n"
    "setup(name='older', version=os.environ['V'], install_requires=['toml'], "
    "tests_require=['mock'], extras_require={'dev': 'flake8'})\n"
)


def names(project: Project) -> set[str]:
    return {line.partition(">")[0].partition(";")[0].strip() for line in project.requirements}


@pytest.mark.parametrize(
    ("files", "name", "version", "requirements"),
    [
        ({"pyproject.toml": PEP_621}, "One-Two", "3.1", {"attrs", "pytest", "hypothesis", "mock"}),
        ({"pyproject.toml": POETRY}, "poem", "1.0", {"requests", "pytest"}),
        ({"setup.cfg": CFG, "old/__init__.py": "__version__ = '0.4'\n"}, "old", "0.4", {"six", "nose"}),
        ({"setup.py": SETUP}, "older", "", {"toml", "mock", "flake8"}),
        ({"requirements/tests.txt": "-r ../x\npytest==8 --hash=sha256:1\n./local\n# no\n"}, "", "", {"pytest==8"}),
        ({"pyproject.toml": "not = [toml", "setup.cfg": "[broken", "setup.py": "def ("}, "", "", set()),
        ({"pyproject.toml": '[project]\nname = "../up"\nversion = "1/../2"\n'}, "", "", set()),
    ],
)
def test_what_a_project_says(files, name, version, requirements):
    project = read_project({path: text.encode() for path, text in files.items()})
    assert (project.name, project.version, names(project)) == (name, version, requirements)


def test_entry_points_and_version_files():
    project = read_project({"pyproject.toml": PEP_621.encode()})
    assert project.entry_points == (("console_scripts", (("one", "one:main"),)),)
    assert project.version_files == ("src/one/_version.py",)


@pytest.mark.parametrize(
    "line",
    ["-e .", "--index-url https://evil", "https://evil/x.whl", "./x", "x @ file:///etc", "-r /etc/passwd", "", "a b c"],
)
def test_a_repository_cannot_tell_pip_what_to_do(line):
    assert safe_requirements([line]) == ()
