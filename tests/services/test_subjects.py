"""Every identity of the house at the raw bus, trying every subject there is: what isn't its own is refused by the server itself.

What is tried: all commands, all change events, JetStream's own doors, health, and everybody's inbox; to send and to hear.
"""

import asyncio
import re
from collections.abc import AsyncIterator

import nats
import pytest

from sigilcore import records
from sigilcore.contracts import canon, catalogue, gatekeeper, house
from sigilcore.contracts.command import Admission
from sigilrun import identities, testing

NAMES = [*(one.name for one in identities.EVERYONE), house.KEEPER]
STREAM = "CANON_default"
COMMANDS = {
    subject: command
    for command in catalogue.COMMANDS.values()
    for subject in {command.subject, command.subject_of(*("x" * command.scopes))}
}
CHILDREN = {name: gatekeeper.CHILD.subject_of(name) for name in house.RESIDENTS}  # each service's own door at the gate
EVENTS = {
    f"canon.v1.{tenant}.{kind.space}.{kind.tag}"
    for tenant in ("default", "other")
    for kind in records.REGISTRY.values()
}
FOLLOWERS_VERBS = {
    f"STREAM.INFO.{STREAM}",
    f"CONSUMER.CREATE.{STREAM}.x",
    f"CONSUMER.DELETE.{STREAM}.x",
    f"CONSUMER.MSG.NEXT.{STREAM}.x",
}
KEEPERS_VERBS = {f"{verb}.{STREAM}" for verb in ("STREAM.CREATE", "STREAM.UPDATE", "STREAM.MSG.DELETE", "DIRECT.GET")}
FOLLOWERS_DOORS = {f"canon.stream.{verb}" for verb in FOLLOWERS_VERBS}
KEEPERS_DOORS = {f"$JS.API.{verb}" for verb in KEEPERS_VERBS | {f"STREAM.INFO.{STREAM}"}}
NOBODYS_VERBS = {
    f"STREAM.{verb}.{STREAM}" for verb in ("DELETE", "PURGE", "MSG.GET", "SNAPSHOT", "RESTORE", "LEADER.STEPDOWN")
} | {
    "INFO",
    "STREAM.LIST",
    "STREAM.NAMES",
    "STREAM.CREATE.CANON_other",
    "STREAM.MSG.GET.CANON_other",
    f"CONSUMER.LIST.{STREAM}",
    f"CONSUMER.NAMES.{STREAM}",
    f"CONSUMER.INFO.{STREAM}.x",
    f"CONSUMER.DURABLE.CREATE.{STREAM}.x",
    f"CONSUMER.CREATE.{STREAM}.x.canon.v1.default.user.memory_block",
    "CONSUMER.CREATE.CANON_other.x",
    f"DIRECT.GET.{STREAM}.canon.v1.default.user.memory_block",
}
NOBODYS_DOORS = {
    *(f"{prefix}.{verb}" for prefix in ("$JS.API", "canon.stream") for verb in NOBODYS_VERBS),
    *(f"canon.stream.{verb}" for verb in KEEPERS_VERBS),
    *(f"$JS.API.{verb}" for verb in FOLLOWERS_VERBS - {f"STREAM.INFO.{STREAM}"}),
    f"$JS.ACK.{STREAM}.x.1.1.1.1.0",
    "$SYS.REQ.SERVER.PING",
    "$SYS.REQ.ACCOUNT.default.CONNZ",
    "anything",
}
HEALTH = {"$SRV.PING", "$SRV.INFO", "$SRV.STATS", "$SRV.PING.gatekeeper", "$SRV.PING.gatekeeper.x"}
WIDE = {">", "*", "sigil.>", "sigil.v1.*.>", "canon.>", "canon.v1.>", "canon.v1.other.>", "$SYS.>", "$JS.>", "*.>"}
_VIOLATION = re.compile(r'permissions violation for (publish|subscription) to "([^"]+)"')


def may_send(name: str) -> set[str]:
    """What an identity may send, by what the house is said to be."""
    if name == house.KEEPER:
        return KEEPERS_DOORS | {subject for subject in EVENTS if ".default." in subject}
    resident = next(one for one in identities.EVERYONE if one.name == name)
    asked = {subject for subject, command in COMMANDS.items() if command.name in resident.asks and _whole(subject)}
    for command in catalogue.of_service(name):
        asked |= {catalogue.COMMANDS[called].subject for called in command.calls}
        asked |= {CHILDREN[name]} if command.calls else set()
    allowed = asked | (FOLLOWERS_DOORS if resident.follows else set())
    return allowed | (HEALTH if resident.looks else set())


def may_hear(name: str) -> set[str]:
    """What an identity may hear."""
    if name == house.KEEPER:
        return {f"_INBOX_{name}.x"}
    resident = next(one for one in identities.EVERYONE if one.name == name)
    allowed = {subject for subject, command in COMMANDS.items() if command.service == name and _whole(subject)}
    allowed |= {subject for subject in EVENTS if ".default." in subject and resident.follows}
    allowed |= set(CHILDREN.values()) if name == "gatekeeper" else set()
    if name == "gateway":  # two hints at what ended, and no other event
        allowed |= {"canon.v1.default.audit.license_revoked", "canon.v1.default.audit.session_closed"}
    if resident.module:
        allowed |= {"$SRV.PING", "$SRV.INFO", "$SRV.STATS"}
        allowed |= {subject for subject in HEALTH if name in subject.split(".")}
    return allowed | {f"_INBOX_{name}.x"}


def _whole(subject: str) -> bool:
    """Whether a scoped command's subject says its scope; the bare one is nobody's."""
    command = COMMANDS[subject]
    return subject == command.subject_of(*("x" * command.scopes))


@pytest.fixture(scope="module", name="served")
async def _served(tmp_path_factory) -> AsyncIterator[testing.BusHouse]:
    """A server with the house's own permissions, and nobody else there."""
    async with testing.bus_house(tmp_path_factory.mktemp("subjects") / "house") as house_:
        yield house_


async def refused_of(served: testing.BusHouse, name: str, verb: str, subjects: set[str], expected: int) -> set[str]:
    """The subjects that the server refuses to this identity; it hands its words on in lower case."""
    found: set[str] = set()

    async def told(error: Exception) -> None:
        violation = _VIOLATION.search(str(error).lower())
        assert violation is not None, error
        assert violation[1] == verb
        found.add(violation[2])

    options = served.options(name)
    client = await nats.connect(
        options.url, nkeys_seed=str(options.nkey_seed_file), error_cb=told, inbox_prefix=f"_INBOX_{name}"
    )
    try:
        for subject in sorted(subjects):
            if verb == "publish":
                await client.publish(subject, b"{}")
            else:
                await client.subscribe(subject)
        await client.flush()
        async with asyncio.timeout(5):
            while len(found) < expected:
                await asyncio.sleep(0.01)
        await client.flush()
        assert client.is_connected
    finally:
        await client.close()
    return found


@pytest.mark.parametrize("name", NAMES)
async def test_nobody_sends_what_is_not_its_own(served: testing.BusHouse, name: str) -> None:
    """Each identity publishes to exactly what it asks; change events are the writer's alone, a child's permit is asked in one's own name
    only, and no inbox is another's to fill."""
    inboxes = {f"_INBOX_{other}.x" for other in NAMES}
    doors = FOLLOWERS_DOORS | KEEPERS_DOORS | NOBODYS_DOORS | HEALTH | set(CHILDREN.values())
    everything = set(COMMANDS) | EVENTS | doors | inboxes
    expected = {subject.lower() for subject in everything - may_send(name)}
    assert await refused_of(served, name, "publish", everything, len(expected)) == expected


@pytest.mark.parametrize("name", NAMES)
async def test_nobody_hears_what_is_not_its_own(served: testing.BusHouse, name: str) -> None:
    """Each identity may subscribe to exactly what it answers, follows and is answered; no wildcard hears more."""
    inboxes = {f"_INBOX_{other}.x" for other in NAMES}
    doors = FOLLOWERS_DOORS | KEEPERS_DOORS | NOBODYS_DOORS | HEALTH | set(CHILDREN.values())
    everything = set(COMMANDS) | EVENTS | WIDE | doors | inboxes
    expected = {subject.lower() for subject in everything - may_hear(name)}
    assert await refused_of(served, name, "subscription", everything, len(expected)) == expected


def test_what_only_one_may_say_is_said_by_one():
    """Change events by the writer, appends by authors, and no face asks what takes no permit but what is open to all."""
    assert [name for name in NAMES if may_send(name) & EVENTS] == [house.KEEPER]
    authors = {name for name in NAMES if canon.APPEND.subject in may_send(name)}
    assert authors == {name for name, one in house.RESIDENTS.items() if one.keystore} - {
        "canon_writer",
        "canon_reader",
    } | {"operator"}
    gateways = {COMMANDS[subject] for subject in may_send("gateway") if subject in COMMANDS}
    inner = {command for command in gateways if command.admission in {Admission.AUTHOR, Admission.BUS}}
    assert inner == {gatekeeper.REPORT}
