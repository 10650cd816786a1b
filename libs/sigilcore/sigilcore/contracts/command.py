"""The shape of a declaration."""

import dataclasses
import enum
from typing import Generic, Literal, TypeVar

import msgspec

from sigilcore.access import Loa
from sigilcore.refusals import Code

Req = TypeVar("Req", bound=msgspec.Struct)
Rep = TypeVar("Rep", bound=msgspec.Struct)


# What any service may answer: the seam's own refusals, and the bus's.
SERVICE_REFUSALS = frozenset({Code.BAD_INPUT, Code.BODY_TOO_LARGE, Code.BUSY, Code.NOT_BOOTSTRAPPED, Code.UNAVAILABLE})
PERMIT_REFUSALS = frozenset(
    {Code.PERMIT_MISSING, Code.PERMIT_INVALID, Code.PERMIT_EXPIRED, Code.PERMIT_MISMATCH, Code.PERMIT_REPLAYED}
)


class Action(enum.StrEnum):
    """What a command does; the trust model's action risk."""

    READ = "read"
    EXECUTE = "execute"
    WRITE = "write"
    ELEVATION = "elevation"
    DELETE = "delete"
    ADMINISTER = "administer"


class Target(enum.StrEnum):
    """What it does it to; the trust model's target sensitivity."""

    MODULE = "module"
    PROFILE = "profile"
    MEMORY = "memory"
    CONFIG = "config"
    AUDIT = "audit"
    CANON = "canon"
    SYSTEM = "system"


class Admission(enum.StrEnum):
    """What admits a call."""

    PERMIT = "permit"  # the gate's signed yes
    OPEN = "open"  # anyone, by what the request itself carries: health, bootstrap, session/*, validate, public log
    WITNESS = "witness"  # a registered witness's signature in the request
    AUTHOR = "author"  # record signatures and decisions; bus only
    BUS = "bus"  # the caller's bus permission; bus only, reads what the change stream shows anyway


@dataclasses.dataclass(frozen=True, kw_only=True)
class Http:
    """A route of its own, beside `POST /api/commands/<name>`. `{x}` in the path and query parameters fill the request's fields."""

    method: Literal["GET", "POST"]
    path: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command(Generic[Req, Rep]):
    """One thing that can be asked of one service."""

    name: str
    service: str
    request: type[Req]
    reply: type[Rep]
    summary: str
    action: Action
    target: Target
    rung: Loa = Loa.GUEST
    admission: Admission = Admission.PERMIT
    writes: tuple[str, ...] = ()  # kinds that one call may append, each linking its decision
    calls: tuple[str, ...] = ()  # commands it may ask for on the caller's behalf
    refusals: tuple[Code, ...] = ()  # beside those that every command may give
    longest_run_s: int = 10
    scored: bool = True  # braking (revoke, withdraw, close) skips the trust score
    http: Http | None = None
    scopes: int = 0  # so many tokens after the subject say of what it is asked, where a bus permission can pin them
    module_field: str | None = None  # the request's field that names a module: policies may speak of that module alone
    candidate_field: str | None = None  # the field that proposes witnesses, as name or record: their standing counts
    example: dict[str, object] = dataclasses.field(default_factory=dict, hash=False)

    def may_refuse(self, code: Code) -> bool:
        """True if its service may answer with this refusal: one that it declares, or that any service may give."""
        permitted = self.admission is Admission.PERMIT and code in PERMIT_REFUSALS
        return permitted or code in self.refusals or code in SERVICE_REFUSALS

    @property
    def subject(self) -> str:
        """Where it is asked on the bus; derived, never typed by hand."""
        return f"sigil.v1.{self.service}.{self.name.replace('/', '.')}"

    @property
    def heard(self) -> str:
        """What its service hears: the subject, of whatever scope."""
        return self.subject_of(*("*" * self.scopes))

    def subject_of(self, *scope: str) -> str:
        """Where it is asked of this scope; for a scoped command the bare subject is nobody's."""
        if len(scope) != self.scopes:
            raise ValueError(f"{self.name} has {self.scopes} scope tokens, not {len(scope)}")
        return ".".join((self.subject, *scope))

    @property
    def mutates(self) -> bool:
        """True if it changes something."""
        return self.action is not Action.READ

    @property
    def reserved(self) -> bool:
        """True if every queue on its way keeps room that others can't take: what brakes, and what the quorum does.

        Not what anyone below mentor may call as often as they like, as taking back one's own: they would have that room instead.
        """
        brakes = not self.scored and (self.admission is not Admission.PERMIT or self.rung.includes(Loa.MENTOR))
        return brakes or (self.service == "quorum" and self.mutates)

    @property
    def needs_owner(self) -> bool:
        """True if it needs the owner's word under every policy, which may raise a rung and never lowers one."""
        return self.needs_owner_at(self.rung)

    def needs_owner_at(self, rung: Loa) -> bool:
        """True for mutations of rung mentor and root, by the rung in force: the owner's own proof, or a certificate that names them."""
        return self.mutates and rung.includes(Loa.MENTOR)

    @property
    def internal(self) -> bool:
        """True if only services on the bus may ask it."""
        return self.admission in {Admission.AUTHOR, Admission.BUS}
