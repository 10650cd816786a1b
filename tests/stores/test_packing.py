"""Headers as they are stored: the very bytes come back, whatever they say, and damage never passes for a header."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.canon_writer import laws, packing
from sigilcore import canonical, clock, ids, record, signing
from sigilcore.access import Loa
from tests.simulator import House, Person


def hexes(size):
    return st.binary(min_size=size, max_size=size).map(bytes.hex)


signatures = st.binary(min_size=64, max_size=64).map(signing.signature_text)
names = st.uuids(version=4).map(lambda one: ids.derive(str(ids.new()), str(one)))
texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)
decisions = st.builds(
    lambda name, index: record.Link(label="decision", target=f"{name}.{index}"), names, st.integers(0, 300)
)
others = st.builds(record.Link, label=st.from_regex(r"\A[a-z0-9_]{1,32}\Z"), target=texts)
witnesses = st.builds(record.WitnessSignature, witness_id=texts, key_id=hexes(16), sig=signatures)
cores = st.builds(
    record.Core,
    kind=st.sampled_from(["memory_block", "x"]),
    schema_version=st.integers(1, 1_000_000),
    id=names,
    tenant=st.just("default"),
    ts=st.integers(0, clock.LAST_MS).map(clock.format_ms),
    space=st.sampled_from(record.SPACES),
    payload_hash=hexes(32),
    links=st.lists(decisions | others, max_size=3).map(tuple),
    prev=st.none() | hexes(32),
)
headers = st.builds(
    record.Header,
    core=cores,
    hash=hexes(32),
    key_id=hexes(16),
    sig=signatures | st.text("ab=", min_size=88, max_size=88),
    witnesses=st.lists(witnesses, max_size=2).map(tuple),
)


def columns(header):
    core = header.core
    return packing.Columns(
        core.tenant, clock.parse_ms(core.ts), core.id, header.key_id, core.space, core.kind, bytes.fromhex(header.hash)
    )


@given(headers)
@settings(deadline=None)
def test_every_header_comes_back_to_the_byte(header):
    """Any links, witnesses, versions and times; also characters that need the slow road, and signatures that are none."""
    leaf = canonical.of(header)
    assert packing.unpack(packing.pack(leaf, columns(header)), columns(header)) == leaf


@given(st.binary(max_size=700))
def test_what_is_no_header_comes_back_as_it_came(leaf):
    """Nothing is lost of bytes that nobody can read."""
    header = record.open_header(_leaf())[0]
    assert packing.unpack(packing.pack(leaf, columns(header)), columns(header)) == leaf


@given(st.data())
@settings(deadline=None)
def test_damage_is_never_a_fault_and_never_the_same_header(data):
    """A changed, cut or lengthened stored header gives other bytes or none."""
    leaf = _leaf()
    header = record.open_header(leaf)[0]
    stored = packing.pack(leaf, columns(header))
    at = data.draw(st.integers(0, len(stored) - 1))
    flip = data.draw(st.integers(1, 255))
    changed = bytearray(stored)
    changed[at] ^= flip
    for other in (bytes(changed), stored[:at], stored + bytes((flip,)), b""):
        assert packing.unpack(other, columns(header)) != leaf


@pytest.mark.parametrize("changed", [{"ts_ms": -1}, {"id": "x"}, {"kind": "other"}, {"hash": b""}, {"author": "0"}])
def test_a_changed_column_gives_another_header(changed):
    """Columns are part of the header: none can be changed and leave it as it was."""
    leaf = _leaf()
    sound = columns(record.open_header(leaf)[0])
    stored = packing.pack(leaf, sound)
    assert packing.unpack(stored, msgspec.structs.replace(sound, **changed)) != leaf


def test_what_is_stored_of_a_header_is_a_fraction_of_it():
    """Of the house's own kinds, an effect with its decision among them."""
    house = House()
    house.remember(house.issue(Person("ada"), Loa.OPERATOR), "note")
    for checked in map(record.check, house.log):
        row = laws.row_of(checked, 0, None)
        stored = packing.pack(row.header, columns(checked.header))
        assert stored[:1] != packing.AS_IT_CAME
        assert len(stored) < 0.4 * len(row.header)


def _leaf():
    """A real header, with a decision."""
    if not _LEAVES:
        house = House()
        house.remember(house.issue(Person("ada"), Loa.OPERATOR), "note")
        _LEAVES.append(bytes(house.log[-1].header))
    return _LEAVES[0]


_LEAVES: list[bytes] = []
