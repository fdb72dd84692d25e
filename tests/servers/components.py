"""Programs that some tests need: skipped without them at a developer's desk, failed without them in CI."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest


def missing(reason: str) -> NoReturn:
    """Skip the test, or fail it where KG_REQUIRE_COMPONENTS=1 says that everything must be there."""
    if os.environ.get("KG_REQUIRE_COMPONENTS") == "1":
        pytest.fail(f"KG_REQUIRE_COMPONENTS=1, but {reason}")
    pytest.skip(reason)


def program(name: str, package: str) -> Path:
    """Where `name` is, also in the folders for administrators."""
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))
    if found is None:
        missing(f"{name} is not installed (apt install {package})")
    return Path(found)
