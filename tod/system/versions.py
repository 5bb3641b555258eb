"""With which versions results are computed: the project's, its commit, and the libraries'."""

import os
import platform
import subprocess
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path

from tod import __version__
from tod.config import PROJECT_DIR

LIBRARIES = ("torchvision", "numpy", "scikit-learn", "pillow", "timm")
"""Those that decide numbers, beside PyTorch, whose build is recorded too."""


def versions() -> dict[str, str | None]:
    """All of them, as a run's `config.yaml` records them."""
    return {
        "version": __version__,
        "commit": commit(PROJECT_DIR),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in LIBRARIES},
    }


@cache
def commit(project: Path) -> str | None:
    """The commit of a project's folder, followed by `(changed)` where its files are others.

    None where git does not know it: the folder may have been downloaded, or lie in another
    repository.
    """
    command = ["git", "-C", str(project), "describe", "--always", "--abbrev=40", "--exclude=*"]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    environment["GIT_CEILING_DIRECTORIES"] = str(project.parent)
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            [*command, "--dirty= (changed)"],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        )
        return done.stdout.strip() or None
    return None
