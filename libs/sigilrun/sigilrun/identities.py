"""The house's bus identities as nats-server is told of them: permissions derived from `contracts.house`, seeds in private files."""

from pathlib import Path

from sigilcore.contracts import catalogue, house
from sigilrun.embedded import nats

EVERYONE = (*house.RESIDENTS.values(), house.OPERATOR, house.SUBSCRIBER)


def seed_file(folder: Path, name: str) -> Path:
    """Where an identity's nkey seed is."""
    return folder / f"bus_{name}"


def bus_users(folder: Path, tenant: str) -> list[nats.BusUser]:
    """Everyone who may connect; seeds are made in `folder` at the first call."""
    return [*(bus_user(folder, resident, tenant) for resident in EVERYONE), _keeper(folder, tenant)]


def crossings(tenant: str) -> tuple[nats.Crossing, ...]:
    """What the house reaches of the stream's account, and what consumers outside the house may be let ask and hear parts of."""
    events = house.outside_events(tenant)
    heard = tuple(
        nats.Crossing(kind="stream", source=nats.STREAMS, subject=events, into=account)
        for account in (nats.HOUSE, nats.OUTSIDE)
    )
    doors = tuple(
        nats.Crossing(
            kind="service",
            source=nats.STREAMS,
            subject=house.asked_of_stream(house.KEEPER, door.verb),
            into=nats.HOUSE,
            named=house.asked_of_stream("", door.verb),
            many=door.many,
        )
        for door in house.doors(tenant)
    )
    asks = tuple(
        nats.Crossing(kind="service", source=nats.HOUSE, subject=subject, into=nats.OUTSIDE)
        for subject in house.OUTSIDE_ASKS
    )
    return (*heard, *doors, *asks)


def bus_user(folder: Path, resident: house.Resident, tenant: str) -> nats.BusUser:
    """One identity. Who answers something may answer to wherever it was asked from."""
    allowed = house.allowance(resident, tenant)
    return nats.BusUser(
        name=resident.name,
        public_nkey=nats.kept_nkey(seed_file(folder, resident.name)),
        publish=allowed.publish,
        subscribe=allowed.subscribe,
        allow_responses=bool(resident.module) or bool(catalogue.of_service(resident.name)),
    )


def _keeper(folder: Path, tenant: str) -> nats.BusUser:
    """The writer in the stream's account, where nobody else is."""
    allowed = house.keeper(tenant)
    return nats.BusUser(
        name=house.KEEPER,
        public_nkey=nats.kept_nkey(seed_file(folder, house.KEEPER)),
        publish=allowed.publish,
        subscribe=allowed.subscribe,
        account=nats.STREAMS,
    )
