"""The image of deployments/docker/Dockerfile, built where no registry and no index is reached, and a worker in it."""

from __future__ import annotations

import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tasks.core.settings import CHECKOUT
from tests.servers.components import missing, program

IMAGE = "kg-operations:test"
BASE = "kg-test/python:trixie"
_PYTHON = "3.13"  # Debian 13's
_GLIBCS = ("2_17", "2_28", "2_34")


def engine() -> Any:  # docker has no types
    """The Docker engine. Skips where none answers, and fails instead with KG_REQUIRE_COMPONENTS."""
    import docker
    from docker.errors import DockerException

    try:
        found = docker.from_env(timeout=300)
        found.ping()
    except DockerException:
        missing("no Docker engine answers")
    return found


def build_image(docker: Any, folder: Path) -> None:
    """As `docker build -f deployments/docker/Dockerfile --build-arg BASE=...` in the checkout with its wheels/."""
    for name, package in (("docker", "docker.io"), ("mmdebstrap", "mmdebstrap"), ("pip", "python3-pip")):
        program(name, package)
    with ThreadPoolExecutor() as both:
        made = [both.submit(_run, CHECKOUT / "tests" / "docker" / "python.sh"), both.submit(_wheels, folder)]
        for each in made:
            each.result()
    with _context(folder).open("rb") as context:
        docker.images.build(
            fileobj=context,
            custom_context=True,
            dockerfile="deployments/docker/Dockerfile",
            buildargs={"BASE": BASE},
            tag=IMAGE,
            rm=True,
            network_mode="none",
        )


@contextmanager
def worker(docker: Any, hostname: str, variables: Mapping[str, str]) -> Iterator[Any]:
    """A container of the image on the host's network, as the README starts it; it and the image go at the end."""
    started = docker.containers.run(
        IMAGE, detach=True, hostname=hostname, network_mode="host", shm_size="1g", environment=dict(variables)
    )
    try:
        yield started
    finally:
        started.remove(force=True)
        with suppress(Exception):  # another process of the tests uses it
            docker.images.remove(IMAGE)


def _wheels(folder: Path) -> None:
    """What the project needs under the image's Python, and what builds the project, in `folder`/wheels."""
    (folder / "build.in").write_text("hatchling\neditables\n")
    needed, place = folder / "needed.txt", folder / "wheels"
    _run(
        *("uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", f"--python-version={_PYTHON}"),
        *("--python-platform=x86_64-manylinux_2_40", CHECKOUT / "pyproject.toml", folder / "build.in"),
        *("--output-file", needed),
    )
    platforms = [f"--platform=manylinux_{glibc}_x86_64" for glibc in _GLIBCS] + ["--platform=manylinux2014_x86_64"]
    _run("pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", f"--python-version={_PYTHON}", *platforms,
         "--dest", place, "--requirement", needed)  # fmt: skip


def _context(folder: Path) -> Path:
    """What `docker build` sends of the checkout, by .dockerignore, with the wheels beside it."""
    from docker.utils import exclude_paths

    ignored = (CHECKOUT / ".dockerignore").read_text().split()
    file = folder / "context.tar"
    with tarfile.open(file, "w") as tar:
        for name in sorted(exclude_paths(str(CHECKOUT), ignored)):
            tar.add(CHECKOUT / name, name, recursive=False)
        tar.add(folder / "wheels", "wheels")
    return file


def _run(*words: str | Path) -> None:
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words[0]}: {done.stderr[-2000:]}"
