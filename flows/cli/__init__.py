"""The `kg` command. Only `main` is public; nothing heavy is imported until a verb asks for it."""

from __future__ import annotations


def main() -> None:
    """Entry point of the console script; ends the process with one of the exit statuses of `errors`."""
    from flows.cli.signals import INTERRUPTED, catch_signals, finishing

    try:
        catch_signals()
        from flows.cli.app import run

        status = run()
        finishing()
    except KeyboardInterrupt:
        status = INTERRUPTED
    raise SystemExit(status)
