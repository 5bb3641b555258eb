"""What a run records of the versions it was computed with."""

import subprocess
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.harness import PROJECT_DIR, run_tod_alone
from tod import __version__
from tod.system.versions import commit


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    command = ["git", "-C", str(folder), *who, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def repository(tmp_path) -> Path:
    commit.cache_clear()
    git(tmp_path, "init")
    (tmp_path / "file").write_text("as it was")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "--message=first")
    return tmp_path


def test_the_commit_is_the_folders_own(repository):
    # A tag is no name that a stranger could not move.
    git(repository, "tag", "-a", "v1", "--message=v1")
    assert commit(repository) == git(repository, "rev-parse", "HEAD")


def test_a_tree_that_is_another_is_called_changed(repository):
    (repository / "file").write_text("as it is")
    assert commit(repository) == git(repository, "rev-parse", "HEAD") + " (changed)"


def test_a_copy_in_another_repository_has_no_commit_of_its_own(repository):
    (repository / "copy").mkdir()
    assert commit(repository / "copy") is None


def test_without_git_there_is_no_commit(repository, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert commit(repository) is None


def test_a_run_names_the_versions_of_what_computes(tmp_path, no_pictures):
    folder = run_tod_alone(tmp_path, "--sampling=RANDOM")
    run = yaml.safe_load((folder / "config.yaml").read_text())["run"]
    for name in ("torchvision", "numpy", "scikit-learn", "pillow", "timm"):
        assert run[name] == metadata.version(name)
    assert (run["version"], run["commit"]) == (__version__, commit(PROJECT_DIR))


def test_the_locked_versions_are_such_as_the_requirements_allow():
    required, locked = (
        [
            Requirement(line)
            for line in (PROJECT_DIR / name).read_text().splitlines()
            if line[0] != "#"
        ]
        for name in ("requirements.txt", "requirements.lock")
    )
    versions = {canonicalize_name(each.name): each.specifier for each in locked}
    for each in required:
        (exact,) = versions[canonicalize_name(each.name)]
        assert exact.operator == "==" and exact.version in each.specifier, each.name


def test_the_citation_and_the_changes_have_the_version_and_its_date():
    citation = yaml.safe_load((PROJECT_DIR / "CITATION.cff").read_text(encoding="utf-8"))
    changes = (PROJECT_DIR / "CHANGELOG.md").read_text(encoding="utf-8")
    assert citation["version"] == __version__
    assert f"## {__version__} ({citation['date-released']})" in changes
