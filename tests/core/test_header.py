"""A sealed header is read by one expression where it is spelled as nearly all are, and slowly elsewhere: never to two ends."""

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sigilcore import canonical, digest, ids, record
from sigilcore.access import Loa
from sigilcore.refusals import Refused
from tests.simulator import House, Person

LABELS = st.from_regex(r"\A[a-z0-9_]{1,32}\Z")
LINKS = st.lists(st.builds(record.Link, label=LABELS, target=st.text(min_size=1, max_size=20)), max_size=4)
CORES = st.builds(
    record.Core,
    kind=LABELS,
    schema_version=st.integers(1, 1_000_000),
    id=st.just(ids.new()),
    tenant=st.from_regex(r"\A[a-z0-9-]{1,32}\Z"),
    ts=st.sampled_from(["2026-09-21T14:17:41.900Z", "9999-12-31T23:59:59.999Z"]),
    space=st.sampled_from(record.SPACES),
    payload_hash=st.just("0" * 64),
    links=LINKS.map(tuple),
    prev=st.sampled_from([None, "a" * 64]),
)


def sealed(core):
    """The leaf of a header over this core, its hash fitting."""
    core_hash = digest.sha256_hex(canonical.of(core))
    header = record.Header(core=core, hash=core_hash, key_id="f" * 32, sig="A" * 86 + "==", witnesses=())
    return canonical.of(header)


def slowly(leaf):
    """What the strict road says: header and core, or nothing."""
    try:
        return record._open_slowly(leaf)
    except Refused:
        return None


@given(core=CORES)
@settings(max_examples=150, deadline=None)
def test_any_core_is_read_as_it_was_written(core):
    """Whatever its links say; what the expression takes, the strict road reads the same."""
    leaf = sealed(core)
    assert record.open_header(leaf) == (slowly(leaf)[0], canonical.of(core))
    assert record._open_plain(leaf) in {None, record._open_slowly(leaf)}


@given(core=CORES, data=st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_other_spelling_is_taken_quickly(core, data):
    """A byte changed, put in or taken out anywhere: the expression takes nothing that the strict road doesn't read the same."""
    leaf = bytearray(sealed(core))
    at = data.draw(st.integers(0, len(leaf) - 1))
    byte = data.draw(st.sampled_from(b' "\\,:{}[]09afAFzZ+=\n\x00\x7f\xc3'))
    leaf[at : at + data.draw(st.integers(0, 1))] = bytes([byte]) * data.draw(st.integers(0, 1))
    quickly = record._open_plain(bytes(leaf))
    assert quickly is None or quickly == slowly(bytes(leaf))


def test_a_house_writes_plain_headers():
    """What the expression is for: of a whole ledger only records with witnesses are read slowly."""
    house = House()
    house.remember(house.issue(Person("ada", keyed=False), Loa.OPERATOR))
    house.seal(house.mentors(2), 2)
    for signed in house.log:
        leaf = bytes(signed.header)
        assert (record._open_plain(leaf) is None) == bool(record.check(signed).header.witnesses)


def test_longest_links():
    """As many and as long as a core takes."""
    link = record.Link(label="l" * 32, target="t" * 128)
    core = msgspec.structs.replace(record.check(House().log[0]).core, links=(link,) * 32)
    assert record.open_header(sealed(core))[0].core == core
