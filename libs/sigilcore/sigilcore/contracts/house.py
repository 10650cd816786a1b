"""Who lives in the house, and what each may say and hear on the bus.

One entry a process identity. Bus permissions are derived from it, so an arrow that isn't drawn here can't be sent: a service may publish
to the commands it answers for nobody, to those it `asks`, to those that its own commands call on their callers' behalf, with its own door
at the gatekeeper for these, and to its own consumers of the change stream. Only the writer publishes change events.

The stream is in a bus account of its own, whose one user is the writer's second connection (`KEEPER`). JetStream sends its answers to
whatever subject a request names, and one that is named in the house's account means nothing in the stream's. The house reaches `doors`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from sigilcore import records
from sigilcore.contracts import canon, catalogue, gatekeeper

STREAM = "CANON"
EVENTS = "canon.v1"
# How the writer is called where it publishes and keeps the stream: it has no other word there, and nobody else has any.
KEEPER = "stream_keeper"
JETSTREAM = "$JS.API"
DOOR = "canon.stream"  # how the house calls what it reaches of JetStream; the server answers for `$JS.API` in every account


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resident:
    """A process identity. `asks` are command names; `follows` says that it consumes the change stream, `keystore` that it opens the
    keystore, `database` that it has a role in canon's database."""

    name: str
    asks: tuple[str, ...] = ()
    follows: bool = False
    keystore: bool = True
    database: bool = False
    module: str = ""
    looks: bool = False  # may ask everyone's health: $SRV
    hears: tuple[str, ...] = ()  # kinds whose change events it hears as hints, without following the log


@dataclasses.dataclass(frozen=True, kw_only=True)
class Allowance:
    """Allow-lists for one bus identity; everything else is denied."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


_AUTHOR = ("canon/append", "canon/events", "log/checkpoint")

RESIDENTS: Mapping[str, Resident] = MappingProxyType(
    {
        resident.name: resident
        for resident in (
            Resident(
                name="canon_writer",
                asks=("log/remembered",),
                database=True,
                module="services.canon_writer",
            ),
            Resident(
                name="canon_reader",
                follows=True,
                database=True,
                module="services.canon_writer.reader",
            ),
            Resident(name="gatekeeper", asks=_AUTHOR, follows=True, module="services.gatekeeper"),
            Resident(name="license", asks=(*_AUTHOR, "canon/bootstrap"), follows=True, module="services.license"),
            Resident(name="quorum", asks=_AUTHOR, follows=True, module="services.quorum"),
            Resident(
                name="notary",
                asks=(*_AUTHOR, "log/consistency", "canon/cosign", "canon/beyond"),
                follows=True,
                module="services.notary",
            ),
            Resident(name="grid", asks=_AUTHOR, follows=True, module="services.grid"),
            Resident(name="knowledge", asks=_AUTHOR, follows=True, module="services.knowledge"),
            Resident(
                name="projections",
                asks=("canon/events", "log/checkpoint"),
                follows=True,
                keystore=False,
                module="services.projections",
            ),
            Resident(
                name="gateway",
                asks=(*(command.name for command in catalogue.public()), "gate/refusals"),
                keystore=False,
                module="services.gateway",
                looks=True,
                hears=("license_revoked", "session_closed"),
            ),
        )
    }
)

# Not processes of ours: a subscriber of the operator's that reads the whole change stream as the house does, and the operator's own tools
# on this machine.
SUBSCRIBER = Resident(name="subscriber", asks=("canon/events", "log/checkpoint"), follows=True, keystore=False)
OPERATOR = Resident(
    name="operator",
    # canon/append: a finished system record, when those who would carry it are mute; the writer admits it by its signatures alone.
    asks=("canon/refill", "canon/restore", "canon/events", "log/checkpoint", "canon/append"),
    follows=True,
    keystore=False,
    looks=True,
)

# The keys in the keystore: one a service that signs, `writer` for checkpoints only.
SERVICE_KEYS = tuple(
    name for name, resident in RESIDENTS.items() if resident.keystore and name not in {"canon_writer", "canon_reader"}
)
LOG_KEY = "writer"
PAYLOAD_KEY = "payload"  # wraps the data keys that seal payloads at rest


def stream(tenant: str) -> str:
    """The tenant's change stream."""
    return f"{STREAM}_{tenant}"


def asked_of_stream(name: str, verb: str) -> str:
    """The subject on which this identity says JetStream's verb."""
    return f"{JETSTREAM if name == KEEPER else DOOR}.{verb}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Door:
    """A verb of JetStream's that who follows may say, of one stream; `many` messages may answer it."""

    verb: str
    many: bool = False


def doors(tenant: str) -> tuple[Door, ...]:
    """What the house reaches of the stream: to ask where it ends, and to read it by consumers of one's own.

    Consumers are ephemeral, acknowledge nothing, and have names of 128 random bits: a wildcard matches whole tokens only, so what
    keeps one follower from another's consumer is that it can't learn its name (no CONSUMER.LIST or NAMES).
    """
    name = stream(tenant)
    return (
        Door(verb=f"STREAM.INFO.{name}"),
        Door(verb=f"CONSUMER.CREATE.{name}.*"),
        Door(verb=f"CONSUMER.DELETE.{name}.*"),
        Door(verb=f"CONSUMER.MSG.NEXT.{name}.*", many=True),
    )


def event_subject(tenant: str, space: str, kind: str) -> str:
    """Where a record's change event is published."""
    return f"{EVENTS}.{tenant}.{space}.{kind}"


# Scopes of `canon/events_of`: a space and a kind, or one of these two.
EVERYTHING = ("all", "all")
GOVERNING = ("all", "governing")


# Audit records that have room of their own in every queue that leads to the log: they brake, or carry a quorum, or hold the decision that
# either needs. All system records have it too. No caller makes many of them: a gate has one decision batch in flight.
RESERVED_KINDS = frozenset(
    {
        "approved_decision",
        "decision_batch",
        "key_revoked",
        "license_revoked",
        "proposal_attested",
        "proposal_closed",
        "proposal_opened",
        "session_closed",
    }
)


def kinds_in(space: str) -> tuple[str, ...]:
    """The kinds that stand in a space."""
    return tuple(kind.tag for kind in records.REGISTRY.values() if kind.space == space)


def kinds_of(scope: tuple[str, ...]) -> tuple[str, ...] | None:
    """The kinds that a scope names, none for all of them; None if it is no scope."""
    if scope == EVERYTHING:
        return ()
    if scope == GOVERNING:
        return tuple(kind.tag for kind in records.REGISTRY.values() if kind.governs)
    if len(scope) == 2 and scope[1] in records.REGISTRY and scope[0] == records.REGISTRY[scope[1]].space:
        return (scope[1],)
    return None


# What consumers outside the house may be let ask; each is let ask a part of it.
OUTSIDE_ASKS = (canon.CHECKPOINT.heard, canon.EVENTS_OF.heard)


def outside_events(tenant: str) -> str:
    """What consumers outside the house may be let hear; each is let hear a part of it."""
    return f"{EVENTS}.{tenant}.>"


def heard_by(scope: tuple[str, str], tenant: str) -> tuple[str, ...]:
    """The change events that say that there is something new of a scope."""
    if scope == EVERYTHING:
        return (outside_events(tenant),)
    return tuple(event_subject(tenant, scope[0], kind) for kind in kinds_of(scope) or ()) if scope != GOVERNING else ()


def outside(name: str, tenant: str, scopes: Sequence[tuple[str, str]]) -> Allowance:
    """The allow-lists of a consumer outside the house. It has no word with JetStream: whoever may make a consumer, or name the subject of a
    reply, can have the server publish there."""
    asks = tuple(canon.EVENTS_OF.subject_of(*scope) for scope in scopes)
    hears = tuple(subject for scope in scopes for subject in heard_by(scope, tenant))
    return Allowance(publish=(canon.CHECKPOINT.subject, *asks), subscribe=(*hears, f"_INBOX_{name}.>"))


def origin(runtime_id: str, tenant: str) -> str:
    """The log's origin: a schema-less name, the same as its key's."""
    return f"sigil/{runtime_id}/{tenant}"


def called_by(resident: str) -> tuple[str, ...]:
    """What a service's commands call on their callers' behalf, where it is asked; with it the service's own door at the gatekeeper."""
    called = dict.fromkeys(name for command in catalogue.of_service(resident) for name in command.calls)
    doors = (gatekeeper.CHILD.subject_of(resident),) if called else ()
    return (*doors, *(catalogue.COMMANDS[name].heard for name in called))


def allowance(resident: Resident, tenant: str) -> Allowance:
    """The allow-lists of one identity."""
    asked = tuple(catalogue.COMMANDS[name].heard for name in resident.asks)
    answered = tuple(command.heard for command in catalogue.of_service(resident.name))
    inbox = f"_INBOX_{resident.name}.>"
    publish = [*asked, *called_by(resident.name)]
    subscribe = [*answered, inbox]
    if resident.module:
        subscribe += [
            "$SRV.PING",
            "$SRV.INFO",
            "$SRV.STATS",
            f"$SRV.*.{resident.name}",
            f"$SRV.*.{resident.name}.>",
        ]
    subscribe += [event_subject(tenant, records.REGISTRY[kind].space, kind) for kind in resident.hears]
    if resident.looks:
        publish += [f"$SRV.{verb}{tail}" for verb in ("PING", "INFO", "STATS") for tail in ("", ".*", ".*.*")]
    if resident.follows:
        subscribe.append(outside_events(tenant))
        publish += [asked_of_stream(resident.name, door.verb) for door in doors(tenant)]
    return Allowance(publish=tuple(publish), subscribe=tuple(subscribe))


def keeper(tenant: str) -> Allowance:
    """The allow-lists of the writer in the stream's account: to publish change events, make the stream, compare it and erase from it."""
    name = stream(tenant)
    verbs = ("STREAM.INFO", "STREAM.CREATE", "STREAM.UPDATE", "STREAM.MSG.DELETE", "DIRECT.GET")
    return Allowance(
        publish=(f"{EVENTS}.{tenant}.>", *(asked_of_stream(KEEPER, f"{verb}.{name}") for verb in verbs)),
        subscribe=(f"_INBOX_{KEEPER}.>",),
    )
