"""The page and its JSON interface: GET state and advice, POST act and next; one game for each browser session."""

import base64
import dataclasses
import hashlib
import json
import pathlib
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from experiments.poker.advice import ETHICS, Adviser
from experiments.poker.play_game import ADVICE, PlayedTable, TableSettings, act_named
from experiments.poker.web.view import advice_json, state_json
from lqlm.errors import UserError
from lqlm.poker.arena.match import stream
from lqlm.poker.arena.observation import Agent
from lqlm.poker.pokerstars import render

COOKIE, MOST_SESSIONS, LONGEST_BODY = "lqlm_table", 64, 4096
LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")
_FOLDER = pathlib.Path(__file__).parent


class Stale(UserError):
    """A request about a decision that is not the one at hand."""


class Tables:
    """The games in memory, the one used longest ago dropped when there are too many."""

    def __init__(
        self, settings: TableSettings, agents: Mapping[str, Agent], adviser: Adviser, fixed_seed: bool
    ) -> None:
        self.settings, self.agents, self.adviser, self.fixed_seed = settings, agents, adviser, fixed_seed
        self._tables: OrderedDict[str, PlayedTable] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, session: str) -> tuple[str, PlayedTable]:
        """The game of a session and its name; a new one, its first hand dealt, where the name is not known."""
        with self._lock:
            if session not in self._tables:
                session = secrets.token_urlsafe(24)
                seed = self.settings.seed if self.fixed_seed else secrets.randbelow(2**31)
                self._tables[session] = PlayedTable(dataclasses.replace(self.settings, seed=seed), self.agents)
                while len(self._tables) > MOST_SESSIONS:
                    self._tables.popitem(last=False)
            self._tables.move_to_end(session)
            table = self._tables[session]
        with table.lock:
            if not table.number:
                table.deal()
        return session, table

    def act(self, table: PlayedTable, said: Mapping[str, Any]) -> dict[str, Any]:
        """Take the person's decision; what the page is told then."""
        with table.lock:
            seen = table.seen
            if seen is None or said.get("hand") != table.number or said.get("index") != seen.index:
                raise Stale("this decision is over; the page shows the next one")
            table.act(act_named(str(said.get("action", "")), str(said.get("amount", "")), seen))
            return state_json(table)

    def next(self, table: PlayedTable, said: Mapping[str, Any]) -> dict[str, Any]:
        """Deal the next hand."""
        with table.lock:
            if table.seen is not None or said.get("hand") != table.number:
                raise Stale("this hand is not the one that is over; the page shows it")
            table.deal()
            return state_json(table)

    def advice(self, table: PlayedTable, said: Mapping[str, Any]) -> dict[str, Any]:
        """What is known of the person's decision."""
        with table.lock:
            seen = table.seen
            if seen is None or str(said.get("index")) != str(seen.index) or str(said.get("hand")) != str(table.number):
                raise Stale("this decision is over")
            rng = stream(table.settings.seed, table.number, ADVICE + seen.index)
            advice = self.adviser.advise(seen.hand, seen.decision, seen.cards, rng)
            return advice_json(advice, table.rules.big) | {"hand": table.number, "index": seen.index}


def page() -> str:
    """The page with its style and its script in it; it loads nothing."""
    html = (_FOLDER / "page.html").read_text(encoding="utf-8")
    parts = {"STYLE": "style.css", "SCRIPT": "table.js"}
    for name, file in parts.items():
        html = html.replace(f"/*{name}*/", (_FOLDER / file).read_text(encoding="utf-8"))
    return html.replace("<!--ETHICS-->", ETHICS)


def policy(html: str) -> str:
    """A Content-Security-Policy that lets the page's own style and script run, by their digests, and nothing else."""
    style, script = (_digest(html, tag) for tag in ("style", "script"))
    return (
        f"default-src 'none'; style-src '{style}'; script-src '{script}'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _digest(html: str, tag: str) -> str:
    inside = html.split(f"<{tag}>", 1)[1].split(f"</{tag}>", 1)[0]
    return f"sha256-{base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()}"


def make_app(
    settings: TableSettings,
    agents: Mapping[str, Agent],
    adviser: Adviser,
    *,
    fixed_seed: bool = False,
    hosts: tuple[str, ...] = LOCAL_HOSTS,
) -> Starlette:
    """The application.

    Args:
        settings: of every session's table.
        agents: name -> who can be an opponent.
        adviser: of all sessions.
        fixed_seed: every session has the seed of the settings; else each draws its own.
        hosts: names under which the page may be asked for; another site's name that leads here is refused.
    """
    tables, html = Tables(settings, agents, adviser, fixed_seed), page()
    headers = {"Content-Security-Policy": policy(html), "Referrer-Policy": "no-referrer"}

    async def index(request: Request) -> Response:
        return HTMLResponse(html, headers=headers)

    routes = [
        Route("/", index),
        Route("/api/state", _endpoint(tables, lambda table, said: _locked_state(table)), methods=["GET"]),
        Route("/api/advice", _endpoint(tables, tables.advice), methods=["GET"]),
        Route("/api/act", _endpoint(tables, tables.act), methods=["POST"]),
        Route("/api/next", _endpoint(tables, tables.next), methods=["POST"]),
        Route("/api/hands", _endpoint(tables, _hands), methods=["GET"]),
    ]
    return Starlette(routes=routes, middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))])


def _locked_state(table: PlayedTable) -> dict[str, Any]:
    with table.lock:
        return state_json(table)


def _hands(table: PlayedTable, said: Mapping[str, Any]) -> str:
    with table.lock:
        return "\n\n".join(map(render, table.hands))


Answer = Callable[[PlayedTable, Mapping[str, Any]], dict[str, Any] | str]


def _endpoint(tables: Tables, answer: Answer) -> Callable[[Request], Any]:
    """A handler: the session's table and what was said to it in, JSON (or text, to be saved) out."""

    async def handle(request: Request) -> Response:
        try:
            said = await _said(request) if request.method == "POST" else dict(request.query_params)
            session, table = await run_in_threadpool(tables.of, request.cookies.get(COOKIE, ""))
            found = await run_in_threadpool(answer, table, said)
        except UserError as error:
            return JSONResponse({"error": str(error)}, 409 if isinstance(error, Stale) else 400)
        response: Response = JSONResponse(found) if isinstance(found, dict) else _file(found)
        response.headers["Cache-Control"] = "no-store"
        response.set_cookie(COOKIE, session, httponly=True, samesite="strict")
        return response

    return handle


def _file(text: str) -> Response:
    return PlainTextResponse(text, headers={"Content-Disposition": 'attachment; filename="hands.txt"'})


async def _said(request: Request) -> Mapping[str, Any]:
    """The JSON object of a request.

    Raises:
        UserError: when it is none, too long, or not declared as JSON, which no other site's form can be.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise UserError("the request is no application/json")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LONGEST_BODY:
            raise UserError(f"the request is longer than {LONGEST_BODY} bytes")
    try:
        said = json.loads(body)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise UserError("the request is no JSON object")
    return said
