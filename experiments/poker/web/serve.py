"""The table served on this machine until Ctrl-C."""

import contextlib
import socket
from collections.abc import Mapping

from experiments.poker.advice import Adviser
from experiments.poker.play_game import TableSettings
from lqlm.errors import UserError
from lqlm.poker.arena.observation import Agent

try:
    import uvicorn

    from experiments.poker.web.app import LOCAL_HOSTS, make_app
except ModuleNotFoundError as error:
    if error.name not in ("starlette", "uvicorn"):
        raise
    raise UserError("--web needs starlette and uvicorn: pip install 'lqlm[play]'") from error


def serve(
    settings: TableSettings,
    agents: Mapping[str, Agent],
    adviser: Adviser,
    host: str,
    port: int,
    *,
    fixed_seed: bool,
) -> None:
    """Serve the page until Ctrl-C.

    Raises:
        UserError: when host or port cannot be had.
    """
    if not 1 <= port <= 65535:
        raise UserError(f"--port {port}: give 1 to 65535")
    local = host in ("127.0.0.1", "localhost", "::1")
    app = make_app(settings, agents, adviser, fixed_seed=fixed_seed, hosts=LOCAL_HOSTS if local else ("*",))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
    with _listening(host, port) as listener, contextlib.suppress(KeyboardInterrupt):
        print(f"The table is at http://{f'[{host}]' if ':' in host else host}:{port}/ (Ctrl-C ends it)", flush=True)
        server.run([listener])


def _listening(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"--host {host} --port {port}: {reason}; give another one") from error
