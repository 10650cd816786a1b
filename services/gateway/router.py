"""Which route a request means: fixed paths first, then patterns, most specific first. Nothing is redirected or made canonical."""

import re
import urllib.parse
from collections.abc import Iterable, Mapping

import msgspec

from sigilcore.refusals import Code, Refused
from sigilrun.faces.routes import PREFIX, Route

_FIELD = re.compile(r"\{([a-z_]+)(\*?)\}")


class Match(msgspec.Struct, frozen=True):
    """A route and the values of its path's fields."""

    route: Route
    fields: Mapping[str, str]


class Router:
    """All routes, ready to be asked."""

    def __init__(self, routes: Iterable[Route]) -> None:
        """Each path and method stands once; `faces.routes` has checked that."""
        self._fixed: dict[str, dict[str, Route]] = {}
        patterns: dict[str, dict[str, Route]] = {}
        for route in routes:
            table = patterns if "{" in route.path else self._fixed
            table.setdefault(route.path, {})[route.method] = route
        # The longer its fixed beginning, the more specific a pattern is.
        ordered = sorted(patterns, key=lambda path: -path.rindex("/" if path.endswith("*}") else "{"))
        self._patterns = [(_compiled(path), patterns[path]) for path in ordered]

    def find(self, method: str, raw_path: str) -> Match:
        """Raises `Refused`: UNKNOWN_COMMAND for a command and NOT_FOUND for a path that isn't there, METHOD_NOT_ALLOWED for another method
        than it has."""
        wanted = "GET" if method == "HEAD" else method
        by_method = self._fixed.get(raw_path)
        if by_method is not None:
            return Match(_of_method(by_method, wanted), {})
        for pattern, candidates in self._patterns:
            found = pattern.fullmatch(raw_path)
            if found is not None:
                return Match(_of_method(candidates, wanted), {k: _decoded(v) for k, v in found.groupdict().items()})
        if raw_path.startswith(PREFIX):
            raise Refused(Code.UNKNOWN_COMMAND, "no such command")
        raise Refused(Code.NOT_FOUND, "no such route")


def _of_method(by_method: Mapping[str, Route], method: str) -> Route:
    route = by_method.get(method)
    if route is None:
        allow = [*by_method, *(["HEAD"] if "GET" in by_method else [])]
        raise Refused(Code.METHOD_NOT_ALLOWED, "this route has other methods", detail={"allow": allow})
    return route


def _compiled(path: str) -> re.Pattern[str]:
    made, at = "", 0
    for field in _FIELD.finditer(path):
        made += re.escape(path[at : field.start()]) + f"(?P<{field[1]}>{'.+' if field[2] else '[^/]+'})"
        at = field.end()
    return re.compile(made + re.escape(path[at:]))


def _decoded(text: str) -> str:
    try:
        return urllib.parse.unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise Refused(Code.BAD_INPUT, "the path is not UTF-8") from None
