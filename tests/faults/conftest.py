"""What the tests of faults begin with."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tasks.core.settings import CHECKOUT, Settings
from tests.faults.runs import deploy


@pytest.fixture
def ours(settings: Settings, tmp_path: Path) -> Settings:
    """Settings with migrations of their own, deployed at revision 001."""
    folder = Path(shutil.copytree(CHECKOUT / "sql" / "migrations", tmp_path / "migrations"))
    own = settings.model_copy(update={"migrations": folder})
    deploy(own, drilled=False)
    return own
