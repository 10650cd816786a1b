"""The simulator's house by the name that tests of services first knew it by."""

from tests.simulator import DAY_MS, HASH, NOW_MS, TENANT, Person
from tests.simulator import House as World

__all__ = ["DAY_MS", "HASH", "NOW_MS", "TENANT", "Person", "World"]
