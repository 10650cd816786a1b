"""What messages look like on the bus: headers, refusals, faults. Shared by who asks (`bus`) and who answers (`answer`)."""

from collections.abc import Callable, Mapping

import msgspec

from sigilcore import faults, refusals
from sigilcore.refusals import Code, Refused
from sigilrun import telemetry

PERMIT = "Sigil-Permit"
TRACE = "Sigil-Trace"
DEADLINE = "Sigil-Deadline"
ERROR = "Nats-Service-Error"
ERROR_CODE = "Nats-Service-Error-Code"
INBOX = "_INBOX_"
MAPPED = "_R_."  # a reply that the server maps back into the account of who asked
STATUS = "Status"
DESCRIPTION = "Description"
NO_RESPONDERS = "503"


class Message(msgspec.Struct, frozen=True):
    """One message as it came."""

    subject: str
    reply: str
    data: bytes
    headers: Mapping[str, str]


Hear = Callable[[Message], None]
"""Who hears messages, each where it is read: it may not wait."""


class TraceBody(msgspec.Struct, frozen=True, kw_only=True):
    """All that a caller hears of a fault."""

    trace_id: str


class Forbidden(Exception):  # noqa: N818 - what the server said
    """The server doesn't let this identity publish there: an arrow that `contracts.house` doesn't draw."""

    def __init__(self, subject: str) -> None:
        """`subject` as the server named it."""
        super().__init__(f"this identity may not publish to {subject}")
        self.subject = subject


class NobodyAnswers(Refused):
    """UNAVAILABLE because nothing subscribes to the subject: it was not asked at all."""

    def __init__(self, subject: str) -> None:
        """`subject` as it was asked."""
        super().__init__(Code.UNAVAILABLE, f"nobody answers {subject}", detail={"outcome": "none"})


def refusal(refused: Refused) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a refusal."""
    body = msgspec.json.encode(refused.answer())
    return body, {ERROR: refused.code.value, ERROR_CODE: str(refused.code.status)}


def fault(trace_id: str) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a fault: a trace id and nothing else."""
    body = msgspec.json.encode(TraceBody(trace_id=trace_id))
    return body, {ERROR: telemetry.FAULT, ERROR_CODE: "500"}


def raise_for(reply: Message, trace_id: str) -> None:
    """Raise what the reply's headers say, if they say something.

    Raises:
        Refused: the other side's refusal.
        Fault: it said FAULT, or what it said can't be read.

    """
    error = reply.headers.get(ERROR)
    if error is None:
        return
    if error != telemetry.FAULT:
        try:
            told = msgspec.json.decode(reply.data, type=refusals.Refusal)
        except (msgspec.DecodeError, UnicodeDecodeError):
            telemetry.log.exception("refusal_unreadable", subject=reply.subject)
        else:
            raise refusals.raised(told)
    raise faults.Fault(trace_id)


def late(deadline_ms: int | None, now_ms: int) -> bool:
    """True if the caller has given up."""
    return deadline_ms is not None and now_ms >= deadline_ms


def deadline_of(headers: Mapping[str, str]) -> int | None:
    """The caller's deadline in Unix milliseconds; raises `Refused` for anything that isn't one."""
    text = headers.get(DEADLINE)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 16):
        raise Refused(Code.BAD_INPUT, f"{DEADLINE} is Unix milliseconds")
    return int(text)
