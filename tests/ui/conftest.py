"""One Prefect server, worker and browser a file; three databases that are its environments."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright
from psycopg.sql import SQL, Identifier

from tasks.core.addresses import Address
from tasks.core.postgres.connections import Connection, connect
from tasks.core.settings import CHECKOUT, VARIABLES
from tests.core.test_notices import Webhook, listening
from tests.servers.components import missing
from tests.ui.bed import Bed, prefect_bed

SCREENSHOTS = Path(__file__).parent / "screenshots"
TIMEOUT_MS = 60_000


@pytest.fixture(scope="module")
def databases(postgres: Address) -> Iterator[dict[str, Address]]:
    """An empty database for each environment."""
    names = {environment: f"test_ui_{environment}" for environment in VARIABLES}
    drop = SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
    with connect(postgres, purpose="test set-up") as conn:
        for name in names.values():
            conn.execute(drop.format(Identifier(name)))
            conn.execute(SQL("CREATE DATABASE {} TEMPLATE template0").format(Identifier(name)))
    yield {environment: postgres.database(name) for environment, name in names.items()}
    with connect(postgres, purpose="test clean-up") as conn:
        for name in names.values():
            conn.execute(drop.format(Identifier(name)))


@pytest.fixture(scope="module")
def migrations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project's migrations, for a test to add to."""
    return Path(shutil.copytree(CHECKOUT / "sql" / "migrations", tmp_path_factory.mktemp("files") / "migrations"))


@pytest.fixture(scope="module")
def webhook() -> Iterator[Webhook]:
    """Where people are told."""
    with listening() as hook:
        yield hook


@pytest.fixture(scope="module")
def variables(
    databases: dict[str, Address], migrations: Path, webhook: Webhook, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """What the worker and its flows see."""
    found = {**os.environ, "KG_HOME": str(tmp_path_factory.mktemp("home")), "KG_MIGRATIONS": str(migrations)}
    found["KG_NOTIFY_URLS"] = f"json://{webhook.address}/"
    found["KG_ENVIRONMENTS"] = str(_quick(tmp_path_factory.mktemp("files") / "environments"))
    for environment, (url, password) in VARIABLES.items():
        address = databases[environment]
        assert address.password is not None
        found[url] = f"postgresql://{address.user}@{address.host}:{address.port}/{address.dbname}"
        found[password] = address.password.get_secret_value()
    return found


def _quick(folder: Path) -> Path:
    """The real environments, but for how long a deploy watches; production has a window that is open."""
    shutil.copytree(CHECKOUT / "deployments" / "environments", folder)
    for file in folder.glob("*.toml"):
        text, found = re.subn(r'(?m)^duration = "\w+"', 'duration = "PT1S"', file.read_text())
        assert found == 1
        file.write_text(text)
    with (folder / "production.toml").open("a") as file:
        file.write('\n[[windows]]\ncron = "0 * * * *"\nduration = "PT3H"\ntimezone = "Europe/Berlin"\n')
    return folder


@pytest.fixture(scope="module")
def bed(variables: dict[str, str], browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with prefect_bed(tmp_path_factory.mktemp("bed"), variables) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium: Playwright's own would be a download of its own."""
    program = shutil.which("chromium")
    if program is None:
        missing("chromium is not installed (apt install chromium)")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    """A window in which nobody has chosen an interface: what the server shows by default."""
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    opened.set_default_timeout(TIMEOUT_MS)
    expect.set_options(timeout=TIMEOUT_MS)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def dev(databases: dict[str, Address]) -> Iterator[Connection]:
    """A session in dev's database, each statement its own transaction."""
    with connect(databases["dev"], purpose="test") as opened:
        yield opened


@pytest.fixture(scope="module")
def production(databases: dict[str, Address]) -> Iterator[Connection]:
    with connect(databases["production"], purpose="test") as opened:
        yield opened


def screenshot(page: Page, part: Locator, name: str, *, width: int = 1280, height: int = 1400) -> None:
    """A part of the page, for the README; only with KG_SCREENSHOTS=1, so that a test leaves the checkout as it was."""
    if os.environ.get("KG_SCREENSHOTS") == "1":
        SCREENSHOTS.mkdir(exist_ok=True)
        usual = page.viewport_size
        page.set_viewport_size({"width": width, "height": height})
        part.screenshot(path=SCREENSHOTS / f"{name}.png", animations="disabled")
        if usual:
            page.set_viewport_size(usual)
