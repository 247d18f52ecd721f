import subprocess
from pathlib import Path

import pytest

from visuomotor import versions


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_installed_packages_only() -> None:
    found = versions.installed(("numpy", "no-such-package"))
    assert list(found) == ["numpy"]


def test_the_commit_is_that_of_the_checkout_that_tracks_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "versions.py"
    file.write_text("first")
    monkeypatch.setattr(versions, "__file__", str(file))
    assert versions.commit() is None
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "somebody else's")
    assert versions.commit() is None  # installed inside a foreign checkout
    git(tmp_path, "add", "versions.py")
    git(tmp_path, "commit", "-q", "-m", "ours")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert versions.commit() == head
    file.write_text("second")
    assert versions.commit() == f"{head}+changes"
