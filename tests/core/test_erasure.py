"""Ledgers with missing payloads: which are believed, which are not. Each attack is a few lines on a replayed ledger."""

import msgspec
import pytest

from sigilcore import canonical, clock, decision, record, replay, verify
from sigilcore.access import Loa
from sigilcore.records import audit, system, user
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

    def order(self, key, *, owner="ada", until_ms=60_000):
        """The quorum orders that a memory is erased."""
        payload = system.ErasureOrder(
            owner=owner,
            kind="memory_block",
            key=key,
            reason="a court said so",
            expires_at=clock.format_ms(self.now_ms + until_ms),
        )
        self.change("erasure_order", payload)
        return record.check(self.log[-1])

    def carry_out(self, order, key, *, owner="ada", names=None, author="knowledge", kind="memory_block"):
        """The erasure by an order, as knowledge writes it, or as somebody would like to."""
        live = self.live(key)
        payload = user.Erasure(
            owner=owner, kind=kind, key=key, records=tuple(live if names is None else names), request=None
        )
        link = record.Link(label="decision", target=decision.DecisionRef(record=order, index=0).link())
        head = self.heads.get((kind, owner, key))
        written = self.append("erasure", payload, self.instances[author], links=[link], prev=head)
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


# By the quorum


def refused(code):
    class Expect:
        def __enter__(self):
            self.raises = pytest.raises(Refused)
            self.caught = self.raises.__enter__()
            return self

        def __exit__(self, *error):
            caught = self.raises.__exit__(*error)
            assert self.caught.value.code is code, self.caught.value
            return caught

    return Expect()


def test_an_order_of_the_quorum_erases_anothers_thing(house):
    """No decision of the owner's: the erasure names the order, and the ledger replays with and without the payloads."""
    name = key(house, "note")
    written = house.carry_out(house.order(name).core.id, name)
    assert written.payload.request is None
    with_them = oracle.check(house.placed(), house.checkpoint())
    without_them = oracle.check(house.left(), house.checkpoint())
    assert (without_them.root, without_them.erased) == (with_them.root, 2)


def test_an_order_is_carried_out_once(house):
    """What is written after it stays; a ledger in which the order was used twice is found out."""
    name = key(house, "note")
    order = house.order(name)
    house.carry_out(order.core.id, name)
    house.remember(house.ada, "note", "written anew")
    with refused(Code.DECISION_USED):
        house.carry_out(order.core.id, name)
    row = house.rows[order.core.id, 0]
    house.rows[order.core.id, 0] = msgspec.structs.replace(row, used_by=None)  # a writer that forgot
    twice = house.carry_out(order.core.id, name)
    found = diverged(house, house.placed())
    assert (found.code, found.seq) == (Code.DECISION_USED, len(house.log) - 1), twice


def test_an_order_names_one_thing(house):
    """Another key, owner or kind is not what was signed."""
    note, other = key(house, "note"), key(house, "other")
    order = house.order(note)
    with refused(Code.DECISION_MISMATCH):
        house.carry_out(order.core.id, other)
    with refused(Code.DECISION_MISMATCH):
        house.carry_out(order.core.id, note, owner="bob")
    with refused(Code.DECISION_MISMATCH):
        house.carry_out(order.core.id, note, kind="document")


def test_an_order_ends(house):
    """It doesn't lie around: after its own end nothing is erased by it."""
    name = key(house, "note")
    order = house.order(name)
    house.clock.ms += 60_000
    with refused(Code.DECISION_UNKNOWN):
        house.carry_out(order.core.id, name)


def test_no_order_no_erasure(house):
    """Without a decision and without an order: links to other system records and to a memory, no link at all."""
    name = key(house, "note")
    house.order(name)
    genesis, change = (
        record.check(house.log[0]).core.id,
        next(one.core.id for one in map(record.check, house.log) if one.core.kind == "trusted_witness"),
    )
    for nothing in (genesis, change, house.live(name)[0]):
        with refused(Code.DECISION_UNKNOWN):
            house.carry_out(nothing, name)
    payload = user.Erasure(owner="ada", kind="memory_block", key=name, records=tuple(house.live(name)), request=None)
    with refused(Code.DECISION_UNKNOWN):
        house.append("erasure", payload, house.instances["knowledge"], prev=house.heads["memory_block", "ada", name])


def test_an_owners_decision_is_no_order(house):
    """Who writes for a person says for which call: an erasure at nobody's request needs the quorum."""
    name = key(house, "note")
    granted = house.granted(house.ada, "canon/user/erase", b"{}")
    payload = user.Erasure(owner="ada", kind="memory_block", key=name, records=tuple(house.live(name)), request=None)
    link = record.Link(label="decision", target=granted.decision.link())
    with refused(Code.DECISION_MISMATCH):
        house.append(
            "erasure",
            payload,
            house.instances["knowledge"],
            links=[link],
            prev=house.heads["memory_block", "ada", name],
        )


def test_an_order_admits_nothing_but_an_erasure(house):
    """Not a memory in the owner's name, and no audit effect."""
    name = key(house, "note")
    order = house.order(name)
    target = decision.DecisionRef(record=order.core.id, index=0).link()
    link = record.Link(label="decision", target=target)
    request = decision.Request(command="memory/write", salt="0" * 32, digest="0" * 64, parameters="0" * 64)
    forged = user.MemoryBlock(
        owner="ada", key=name, text="x", tags=(), origin="person", admitted_at="operator", request=request
    )
    head = house.heads["memory_block", "ada", name]
    with refused(Code.KIND_NOT_ALLOWED):
        house.append("memory_block", forged, house.instances["knowledge"], links=[link], prev=head)
    revoked = audit.KeyRevoked(key_id=house.instances["knowledge"].key_id, role="instance", reason="", request=request)
    with refused(Code.KIND_NOT_ALLOWED):
        house.append("key_revoked", revoked, house.instances["license"], links=[link])


def test_only_knowledge_carries_out(house):
    """Another service's instance, though the order is true, doesn't speak for it."""
    name = key(house, "note")
    with refused(Code.KEY_NOT_ALLOWED):
        house.carry_out(house.order(name).core.id, name, author="license")


@pytest.mark.parametrize("kind", ["genesis", "decision_batch", "erasure", "trusted_witness", ""])
def test_audit_and_system_can_not_be_ordered_away(kind):
    """There is no spelling of such an order."""
    plain = {"owner": "ada", "kind": kind, "key": "x", "reason": "x", "expires_at": "2035-01-01T00:00:00.000Z"}
    with pytest.raises(canonical.NotCanonical) as caught:
        canonical.typed(plain, system.ErasureOrder)
    assert caught.value.path == "$.kind"
