"""The routes of the HTTP face, derived from the catalogue; the gateway serves exactly these and OpenAPI describes exactly these.

Invariants:

- every public command has `POST /api/commands/<name>`, and its own route beside it where it declares one; internal commands have none;
- a path and method is one route. Where a fixed path and a pattern both match, the fixed one is meant;
- `{x}` in a path is one segment, percent-decoded; `{x*}`, only at the end, is all that follows, slashes included.
"""

import dataclasses
from typing import Any, Literal

from sigilcore.contracts import canon, catalogue
from sigilcore.contracts.command import Command
from sigilcore.refusals import Code

PREFIX = "/api/commands/"
PROOF_HEADER = "Sigil-Proof"
APPROVAL_HEADER = "Sigil-Approval"
GRANT_HEADER = "Sigil-Grant"
JSON = "application/json"
PROBLEM_JSON = "application/problem+json"
TEXT = "text/plain; charset=utf-8"
BYTES = "application/octet-stream"
HTML = "text/html; charset=utf-8"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Route:
    """One path and method. A page has a `name` of its own; a command's routes have the command's."""

    method: Literal["GET", "POST"]
    path: str
    name: str
    summary: str
    command: Command[Any, Any] | None = None
    page: bool = False  # answered in a shape of its own, even if a command stands behind it
    media: str = JSON
    refusals: tuple[Code, ...] = ()  # of a page, beside those that every route may give

    @property
    def fields(self) -> tuple[str, ...]:
        """The names in braces."""
        return tuple(part.strip("{*}") for part in self.path.split("/") if part.startswith("{"))


PAGES = (
    Route(
        method="POST",
        path="/api/csrf/token",
        name="csrf/token",
        summary="The token that unsafe calls with the session cookie send in x-csrf-token.",
        page=True,
        refusals=(Code.SESSION_MISSING,),
    ),
    Route(
        method="GET",
        path="/log/{tenant}/checkpoint",
        name="log checkpoint",
        summary="The newest signed checkpoint, a C2SP signed note.",
        command=canon.CHECKPOINT,
        page=True,
        media=TEXT,
        refusals=(Code.NOT_FOUND, Code.NOT_BOOTSTRAPPED),
    ),
    Route(
        method="GET",
        path="/log/{tenant}/tile/entries/{path*}",
        name="log entries",
        summary='An entry bundle of the log (C2SP tlog-tiles): sealed headers. A proof signs {"path":"tile/entries/…"}.',
        command=canon.ENTRIES,
        page=True,
        media=BYTES,
    ),
    Route(
        method="GET",
        path="/log/{tenant}/tile/{path*}",
        name="log tile",
        summary="A hash tile of the log (C2SP tlog-tiles); it never changes.",
        command=canon.TILE,
        page=True,
        media=BYTES,
    ),
    Route(method="GET", path="/healthz", name="health", summary="This process answers.", page=True),
    Route(
        method="GET",
        path="/readyz",
        name="ready",
        summary="Whether calls can be served, each part's state, and what is wrong; 503 if they can't.",
        page=True,
    ),
    Route(
        method="GET",
        path="/metrics",
        name="metrics",
        summary="Prometheus metrics of this process; to loopback only, unless set otherwise.",
        page=True,
        media=TEXT,
        refusals=(Code.NOT_FOUND,),
    ),
    Route(method="GET", path="/openapi.json", name="openapi", summary="This description.", page=True),
    Route(method="GET", path="/docs", name="docs", summary="This description for people.", page=True, media=HTML),
)


def of_commands() -> tuple[Route, ...]:
    """The routes of the public commands, sorted by name: the general one, then the command's own."""
    found: list[Route] = []
    for command in sorted(catalogue.public(), key=lambda one: one.name):
        found.append(
            Route(
                method="POST", path=PREFIX + command.name, name=command.name, summary=command.summary, command=command
            )
        )
        if command.http is not None:
            found.append(
                Route(
                    method=command.http.method,
                    path=command.http.path,
                    name=command.name,
                    summary=command.summary,
                    command=command,
                )
            )
    return tuple(found)


def collect() -> tuple[Route, ...]:
    """All routes; a path and method that stands twice is a mistake in the declarations."""
    found = (*of_commands(), *PAGES)
    if len({(route.method, route.path) for route in found}) != len(found):
        raise ValueError("a path and method stands twice")
    return found


ROUTES = collect()
