"""`python -m mainspring.serving --model DIR`: load, listen, say where, serve until SIGTERM, finish what is in flight, exit 0."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import uvicorn

from mainspring.core.errors import MainspringError, UsageError
from mainspring.serving.app import build_app
from mainspring.serving.models import load_model, threads_granted

_DRAIN_S = 30


class _Announcing(uvicorn.Server):
    """A server that tells the runner its address once it listens."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then write `$MAINSPRING_SPOOL/address` (renamed into place, so that it is never read half) and one line."""
        await super().startup(sockets)
        if sockets:
            host, port = sockets[0].getsockname()[:2]
            spool = os.environ.get("MAINSPRING_SPOOL", "")
            if spool:
                draft = Path(spool, f"address.{os.getpid()}")
                draft.write_text(f"{host}:{port}")
                draft.replace(Path(spool, "address"))
            print(f"serving on http://{host}:{port}", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Serve the model of `--model`; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m mainspring.serving", description="Serve one model over HTTP.")
    parser.add_argument("--model", required=True, type=Path, metavar="DIR", help="folder with model.json")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", default=0, type=int, help="0 takes a free one")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        model = load_model(given.model, threads=threads_granted())
        listener = _listen(given.host, given.port)
    except MainspringError as wrong:
        print(f"mainspring.serving: {wrong}", file=sys.stderr)
        return wrong.exit_code
    # uvicorn raises the signals it caught again once it has drained: they must not end us badly then
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    config = uvicorn.Config(
        build_app(model, version=_version()),
        http="auto",  # httptools and uvloop where they are: the environment of a native model may well be without them
        loop="auto",
        lifespan="off",
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=_DRAIN_S,
        backlog=2048,
    )
    _Announcing(config).run(sockets=[listener])
    return 0


def _listen(host: str, port: int) -> socket.socket:
    try:
        listener = socket.create_server((host, port), backlog=2048)
    except (OSError, OverflowError) as taken:
        raise UsageError(f"Cannot listen on {host}:{port}: {taken}.", hint="Use --port 0 for a free port.") from taken
    listener.setblocking(False)
    return listener


def _version() -> str:
    try:
        return version("mainspring")
    except PackageNotFoundError:
        return ""


if __name__ == "__main__":
    sys.exit(main())
