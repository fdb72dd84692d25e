"""Prefect's server as a child of one kg process: `python -P -m flows.cli.server FD LOCK`.

FD is a listening socket that kg has bound, so that no port can be lost between choosing and using it and requests wait
instead of failing while the server starts. LOCK is a file: servers of kg processes that share a PREFECT_HOME start one
after the other, since two that migrate one SQLite file at once fail. The server ends when its standard input closes,
which the kernel sees to however kg ends.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import sys
import threading
from pathlib import Path


def main(descriptor: int, lock: Path) -> None:
    """Serve until SIGTERM (an orderly stop, a second at most for open connections) or the end of standard input."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    asyncio.run(_serve(socket.socket(fileno=descriptor), lock))


async def _serve(listener: socket.socket, lock: Path) -> None:
    import uvicorn
    from prefect.server.api.server import create_app

    config = uvicorn.Config(create_app, factory=True, log_level="warning", lifespan="on", timeout_graceful_shutdown=1)
    config.load()
    server = uvicorn.Server(config)
    with lock.open("w") as file:
        await asyncio.to_thread(fcntl.flock, file, fcntl.LOCK_EX)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.02)
    await serving


def _end_with_parent() -> None:
    """Standard input is a pipe from kg that carries nothing: it ends with kg, also when that was killed."""
    while os.read(0, 1024):
        pass
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
