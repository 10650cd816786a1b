"""Ledgers with missing payloads: which are believed, which are not. Each attack is a few lines on a replayed ledger."""

import msgspec
import pytest

from sigilcore import decision, record, replay, verify
from sigilcore.access import Loa
from sigilcore.records import user
from sigilcore.refusals import Code, Refused
from tests import oracle
from tests.simulator import House, Person


class Memory(House):
    """A house in which Ada erases what she remembered."""

    def __init__(self):
        super().__init__()
        self.ada = self.issue(Person("ada"), Loa.OPERATOR)
        self.gone = set()

    def live(self, key):
        """The versions of a memory of Ada's since it was last erased."""
        name = ("memory_block", "ada", key)
        found = []
        for checked in map(record.check, self.log):
            if checked.kind.thing_name(checked.payload) == name:
                found = [] if checked.kind.erases else [*found, checked.core.id]
        return found

    def erase(self, key, *, owner="ada", names=None):
        """The erasure record, as knowledge writes it; the payloads that it names are missing from then on."""
        granted = self.granted(self.ada, "canon/user/erase", b"{}")
        live = self.live(key)
        payload = user.Erasure(
            owner=owner,
            kind="memory_block",
            key=key,
            records=tuple(live if names is None else names),
            request=decision.Request(
                command=granted.command, salt=granted.salt, digest=granted.digest, parameters="0" * 64
            ),
        )
        link = record.Link(label="decision", target=granted.decision.link())
        head = self.heads.get(("memory_block", owner, key))
        written = self.append("erasure", payload, self.instances["knowledge"], links=[link], prev=head)
        self.gone |= set(live)
        return written

    def left(self, gone=None):
        """The ledger without these payloads."""
        gone = self.gone if gone is None else gone
        return [without(one) if core_of(one).id in gone else one for one in self.placed()]


def core_of(placed):
    return record.open_header(bytes(placed.header))[0].core


def without(placed):
    return msgspec.structs.replace(placed, payload=msgspec.Raw(b"null"), salt=None)


@pytest.fixture
def house():
    """Two versions of one memory, one of another."""
    made = Memory()
    for key, text in (("note", "a canary"), ("other", "stays"), ("note", "a second canary")):
        made.remember(made.ada, key, text)
    return made


def key(house, slug):
    return next(
        one.payload.key
        for one in map(record.check, house.log)
        if one.core.kind == "memory_block" and slug in one.payload.key
    )


def diverged(house, records):
    with pytest.raises(replay.Diverged) as caught:
        oracle.check(records, house.checkpoint())
    return caught.value


def test_an_erased_thing_leaves_a_ledger_that_replays(house):
    """With the payloads and without them the same ledger stands, and the thing may be written and erased again."""
    house.erase(key(house, "note"))
    with_them = oracle.check(house.placed(), house.checkpoint())
    without_them = oracle.check(house.left(), house.checkpoint())
    assert (without_them.root, without_them.effects) == (with_them.root, with_them.effects)
    house.remember(house.ada, "note", "anew")
    oracle.check(house.left(), house.checkpoint())
    house.erase(key(house, "note"))
    oracle.check(house.left(), house.checkpoint())
    assert not any(b"canary" in bytes(placed.payload) for placed in house.left())


def test_a_payload_is_never_missing_without_an_erasure(house):
    """Whoever drops a payload and says nothing is found at the end, with its position."""
    missing = house.live(key(house, "other"))
    records = house.left(gone=set(missing))
    where = next(placed.seq for placed in records if core_of(placed).id in missing)
    assert diverged(house, records).seq == where


def test_half_of_a_thing_is_never_missing(house):
    """One key seals a thing's versions, so one of two missing payloads was taken by somebody else."""
    first, second = house.live(key(house, "note"))
    house.erase(key(house, "note"))
    for gone in ({first}, {second}):
        assert diverged(house, house.left(gone=gone)).code in {Code.RECORD_INVALID, Code.STALE_PREV}


def test_an_erasure_lists_exactly_what_it_erases(house):
    """A list with one id too few, or of another thing's, is no erasure of this thing."""
    live = house.live(key(house, "note"))
    house.erase(key(house, "note"), names=live[:1])
    assert diverged(house, house.left()).code == Code.RECORD_INVALID


@pytest.mark.parametrize("kind", ["decision_batch", "license_issued", "genesis", "erasure"])
def test_audit_system_and_erasures_are_never_erased(house, kind):
    """Their payloads can't be missing, whatever the ledger says of them."""
    house.erase(key(house, "note"))
    records = house.placed()
    gone = {core_of(placed).id for placed in records if core_of(placed).kind == kind}
    assert diverged(house, house.left(gone=gone)).code == Code.RECORD_INVALID


def test_anothers_thing_is_not_erasable(house):
    """The decision is for its caller; an erasure in another owner's name is refused."""
    with pytest.raises(Refused) as caught:
        house.erase(key(house, "note"), owner="bob")
    assert caught.value.code is Code.DECISION_MISMATCH


def test_a_bundle_of_an_erased_record_verifies(house):
    """Header, signature and inclusion hold without the payload, and step 3 says that it is erased."""
    house.erase(key(house, "note"))
    bundle = house.bundle(min(house.gone))
    results = verify.verify(msgspec.structs.replace(bundle, record={**bundle.record, "payload": None, "salt": None}))
    assert verify.verified(results), results
    assert "payload erased" in results[2].detail
