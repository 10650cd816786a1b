"""What a process tells its operator: log lines, trace ids, counters.

Invariants:

- one JSON object a line, to stderr; each line of a call carries its trace id, 32 hex digits, also across tasks;
- parameters, prompts, outputs, payloads, tokens and secrets are never logged: there is no function here that takes them;
- a caller appears as a keyed hash, so that lines of one caller can be joined and nobody is named;
- metrics live in a registry of their own, one a process, and their labels are declared commands and codes only.
"""

import contextlib
import contextvars
import functools
import hashlib
import logging
import re
import secrets
import sys
from collections.abc import Iterator, MutableMapping
from typing import Any

import prometheus_client

from sigilrun import spared

with spared.without("rich"):  # which draws tracebacks on a terminal
    import structlog

FAULT = "FAULT"
OK = "OK"

_TRACE_ID = re.compile("[0-9a-f]{32}")
_trace_id: contextvars.ContextVar[str] = contextvars.ContextVar("trace_id", default="")
_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": 50,
}

# From a bus round trip (0.2 ms) to the longest a caller waits.
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_ROWS = (1, 2, 5, 10, 25, 50, 100, 250, 500)

log: structlog.stdlib.BoundLogger = structlog.get_logger("sigil")


def configure(*, level: str, as_json: bool, resident: str) -> None:
    """Set logging up, once, before anything else speaks."""
    renderer: Any = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=False)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            _with_trace_id,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.bind_contextvars(service=resident)


def new_trace_id() -> str:
    """A fresh trace id."""
    return secrets.token_hex(16)


def trace_id_of(text: str | None) -> str:
    """The trace id that somebody sent if it is one, else a fresh one."""
    return text if text is not None and _TRACE_ID.fullmatch(text) else new_trace_id()


def current_trace_id() -> str:
    """The trace id of the call that this task works for; a fresh one outside of calls."""
    return _trace_id.get() or new_trace_id()


@contextlib.contextmanager
def tracing(trace_id: str) -> Iterator[None]:
    """Everything logged and asked inside belongs to this trace."""
    token = _trace_id.set(trace_id)
    try:
        yield
    finally:
        _trace_id.reset(token)


def caller_hash(runtime_id: str, owner_id: str) -> str:
    """A caller's name for the logs: the same within a deployment, and no name."""
    return hashlib.blake2s(owner_id.encode(), key=runtime_id.encode()[:32], digest_size=8).hexdigest()


class Metrics:
    """Counters of one process, in a registry of their own."""

    def __init__(self) -> None:
        """All start at nothing."""
        self.registry = prometheus_client.CollectorRegistry()
        self.calls = prometheus_client.Counter(
            "sigil_calls", "Calls answered.", ("command", "outcome"), registry=self.registry
        )
        self.call_seconds = prometheus_client.Histogram(
            "sigil_call_seconds", "Time to answer a call.", ("command",), buckets=_SECONDS, registry=self.registry
        )
        self.in_flight = prometheus_client.Gauge("sigil_in_flight", "Calls being answered.", registry=self.registry)
        self.asked = prometheus_client.Counter(
            "sigil_asked", "Calls made to other services.", ("command", "outcome"), registry=self.registry
        )
        self.append_seconds = prometheus_client.Histogram(
            "sigil_append_seconds", "Time from append to verified receipt.", buckets=_SECONDS, registry=self.registry
        )
        self.append_records = prometheus_client.Histogram(
            "sigil_append_records", "Records of one append.", buckets=_ROWS, registry=self.registry
        )
        self.append_queue = prometheus_client.Gauge(
            "sigil_append_queue", "Audit records waiting to be appended.", registry=self.registry
        )
        self.bad_receipts = prometheus_client.Counter(
            "sigil_bad_receipts", "Receipts that did not verify.", registry=self.registry
        )
        self.position = prometheus_client.Gauge(
            "sigil_position", "How far a view has read the canon.", ("view",), registry=self.registry
        )
        self.corrupt = prometheus_client.Counter(
            "sigil_corrupt", "Events that did not verify.", ("view",), registry=self.registry
        )
        self.contradictions = prometheus_client.Counter(
            "sigil_log_contradictions", "Other histories of this log that were seen.", registry=self.registry
        )
        self.cosigned = prometheus_client.Counter(
            "sigil_cosign_asked", "Cosigners asked, by what they answered.", ("outcome",), registry=self.registry
        )
        self.reconnects = prometheus_client.Counter(
            "sigil_bus_reconnects", "Times the bus came back.", registry=self.registry
        )
        self._asked: dict[tuple[str, str], prometheus_client.Counter] = {}
        self._answered: dict[tuple[str, str], tuple[prometheus_client.Counter, prometheus_client.Histogram]] = {}

    def answered(self, command: str, outcome: str) -> tuple[prometheus_client.Counter, prometheus_client.Histogram]:
        """The counter and the times of a command with this outcome; looked up once."""
        found = self._answered.get((command, outcome))
        if found is None:
            found = self.calls.labels(command, outcome), self.call_seconds.labels(command)
            self._answered[command, outcome] = found
        return found

    def asked_of(self, command: str, outcome: str) -> prometheus_client.Counter:
        """The counter of calls made to a command with this outcome; looked up once."""
        found = self._asked.get((command, outcome))
        if found is None:
            found = self._asked[command, outcome] = self.asked.labels(command, outcome)
        return found

    def render(self) -> bytes:
        """The registry in Prometheus's text format."""
        return prometheus_client.generate_latest(self.registry)


def bind_caller(runtime_id: str, owner_id: str) -> None:
    """From here on this task's log lines say for whom, as a hash."""
    structlog.contextvars.bind_contextvars(caller=caller_hash(runtime_id, owner_id))


def record_call(metrics: Metrics, *, command: str, outcome: str, seconds: float) -> None:
    """Count and log one answered call; `outcome` is OK, a refusal's code, or FAULT."""
    count, times = metrics.answered(command, outcome)
    count.inc()
    times.observe(seconds)
    if outcome != OK:
        log.info("call", command=command, outcome=outcome, ms=round(seconds * 1000, 2))
    elif structlog.get_config()["wrapper_class"] is _told_everything():
        log.debug("call", command=command, outcome=outcome, ms=round(seconds * 1000, 2))


@functools.cache
def _told_everything() -> type:
    """The logger of the level debug. Binding one for each call only to say nothing costs as much as counting it."""
    return structlog.make_filtering_bound_logger(_LEVELS["debug"])


def _with_trace_id(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    trace_id = _trace_id.get()
    if trace_id:
        event.setdefault("trace_id", trace_id)
    return event
