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
    return [bus_user(folder, resident, tenant) for resident in EVERYONE]


def exports(tenant: str) -> nats.Exports:
    """What consumers outside the house may be let ask and hear parts of."""
    return nats.Exports(services=house.OUTSIDE_ASKS, streams=(house.outside_events(tenant),))


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
