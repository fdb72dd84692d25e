"""A PostgreSQL with pgvector in a container, by testcontainers."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tasks.core.addresses import Address, parse_address
from tasks.core.errors import ConnectionFailed
from tasks.core.postgres.connections import connect

IMAGE = "pgvector/pgvector:pg17"

# No image of testcontainers' own: where there is no registry there is none of it, and the block ends the container.
_MANNERS = {
    "TESTCONTAINERS_RYUK_DISABLED": "true",
    "TESTCONTAINERS_CONNECTION_MODE": "docker_host",
    "TESTCONTAINERS_HOST_OVERRIDE": "127.0.0.1",
}


def mannered() -> None:
    """Before the first import of testcontainers, which reads these once."""
    for name, value in _MANNERS.items():
        os.environ.setdefault(name, value)


@contextmanager
def container() -> Iterator[Address]:
    """A superuser's address of a server in a container of its own (image KG_TEST_PG_IMAGE)."""
    mannered()
    from testcontainers.community.postgres import PostgresContainer  # reads them at import

    image = os.environ.get("KG_TEST_PG_IMAGE", IMAGE)
    with PostgresContainer(image, username="kg", password="kg-test", dbname="kg", driver=None) as started:
        address = parse_address("--postgres", started.get_connection_url(), "PGPASSWORD", None)
        _wait_for(address)
        yield address


def docker_answers(image: str | None = None) -> bool:
    """Is there an engine, and has it the image: that of PostgreSQL, by default?"""
    import docker
    from docker.errors import DockerException

    try:
        docker.from_env(timeout=10).images.get(image or os.environ.get("KG_TEST_PG_IMAGE", IMAGE))
    except DockerException:
        return False
    return True


def _wait_for(address: Address) -> None:
    """The image's entry script starts the server twice: ready is who answers over TCP."""
    deadline = time.monotonic() + 60
    while True:
        try:
            connect(address, purpose="test set-up").close()
        except ConnectionFailed:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return
