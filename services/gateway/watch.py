"""What is told of each request: one log line and three metrics. The route's template, never the path; a caller's hash, never a token."""

import prometheus_client
from aiohttp import web

from sigilrun import telemetry

NO_ROUTE = "-"
_METHODS = frozenset({"GET", "HEAD", "POST"})
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Seen:
    """What the log line of one request will say."""

    def __init__(self, method: str) -> None:
        """All but what is learned on the way."""
        self.method = method if method in _METHODS else "-"
        self.route = NO_ROUTE
        self.caller = ""
        self.outcome = telemetry.OK
        self.standing: dict[str, str] = {}  # the rate limit's headers


class Watch:
    """The metrics of one process."""

    def __init__(self, registry: prometheus_client.CollectorRegistry) -> None:
        """`registry` is the process's own."""
        self._requests = prometheus_client.Counter(
            "sigil_http_requests", "Requests answered.", ("route", "method", "status"), registry=registry
        )
        self._outcomes = prometheus_client.Counter(
            "sigil_http_refusals", "Refusals and faults answered, by code.", ("code",), registry=registry
        )
        self._seconds = prometheus_client.Histogram(
            "sigil_http_seconds", "Time to answer.", ("route",), buckets=_SECONDS, registry=registry
        )

    def tell(self, response: web.StreamResponse, seen: Seen, seconds: float) -> None:
        """Count and log one answered request."""
        self._requests.labels(seen.route, seen.method, response.status).inc()
        self._seconds.labels(seen.route).observe(seconds)
        if seen.outcome != telemetry.OK:
            self._outcomes.labels(seen.outcome).inc()
        telemetry.log.info(
            "request",
            route=seen.route,
            method=seen.method,
            status=response.status,
            outcome=seen.outcome,
            ms=round(seconds * 1000, 2),
            caller=seen.caller,
        )


def fault(route: str, error: BaseException) -> None:
    """Log a fault by its kind and place. Its words may repeat what somebody sent, so they aren't told."""
    telemetry.log.error("fault", route=route, error=type(error).__name__, at=_places(error))


def _places(error: BaseException) -> list[str]:
    places, at = [], error.__traceback__
    while at is not None:
        places.append(f"{at.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{at.tb_lineno}")
        at = at.tb_next
    return places[-8:]
