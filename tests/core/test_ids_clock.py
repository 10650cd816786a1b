"""Ids and times: one spelling each, strictly read."""

import datetime as dt
import hashlib
import time
import uuid

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sigilcore import clock, ids

PARENT = "0196f3a1-7c00-7abc-8def-0123456789ab"
LAST = "9999-12-31T23:59:59.999Z"


def test_a_new_id_is_a_uuid_of_version_7_made_now():
    """RFC 9562, 5.7: version, variant, and 48 bits of milliseconds; no two are the same."""
    before_ms = time.time_ns() // 1_000_000
    made = [ids.new() for _ in range(1000)]
    after_ms = time.time_ns() // 1_000_000
    assert len(set(made)) == 1000
    for text in made:
        parsed = uuid.UUID(text)
        assert ids.is_id(text)
        assert (str(parsed), parsed.version, parsed.variant) == (text, 7, uuid.RFC_4122)
        assert before_ms <= parsed.int >> 80 <= after_ms


@pytest.mark.parametrize(
    "text",
    [
        "",
        PARENT.upper(),
        PARENT.replace("-", ""),
        f"{{{PARENT}}}",
        f"urn:uuid:{PARENT}",
        PARENT + "\n",
        " " + PARENT,
        PARENT + "0",
        PARENT[:-1],
        PARENT.replace("-7abc-", "-4abc-"),
        PARENT.replace("-8def-", "-7def-"),
        PARENT.replace("-8def-", "-cdef-"),
        PARENT.replace("0196", "019g"),
        "\u0660" + PARENT[1:],
        PARENT.replace("-", "_"),
        "00000000-0000-0000-0000-000000000000",
    ],
)
def test_a_second_spelling_is_no_id(text):
    """Capitals, braces, white space, another version or variant, digits of other scripts."""
    assert ids.is_id(PARENT)
    assert not ids.is_id(text)


def test_a_derived_id_is_pinned():
    """The time is the parent's, the rest SHA-256 of parent and label: a rebuilt program derives the same id for a retry."""
    hashed = hashlib.sha256(f"{PARENT}/issued".encode()).hexdigest()
    derived = ids.derive(PARENT, "issued")
    assert derived == "0196f3a1-7c00-7" + hashed[:3] + "-" + derived[19] + hashed[4:7] + "-" + hashed[7:19]
    assert int(derived[19], 16) & 3 == int(hashed[3], 16) & 3


@given(st.text(max_size=20), st.text(max_size=20))
@example("", "/")
def test_derived_ids_are_valid_and_differ_by_label(one, other):
    """Every label gives a UUIDv7 with the parent's time, and another label another id."""
    derived = ids.derive(PARENT, one)
    assert ids.is_id(derived)
    assert derived[:13] == PARENT[:13]
    assert derived == ids.derive(PARENT, one) != PARENT
    assert (derived == ids.derive(PARENT, other)) is (one == other)


def test_derived_ids_differ_by_parent_and_need_one():
    """The whole parent counts, not only its time; what is no id derives nothing."""
    assert ids.derive(PARENT, "x") != ids.derive(PARENT[:-1] + "c", "x")
    for bad in ("", PARENT.upper(), PARENT + "/"):
        with pytest.raises(ValueError, match="UUIDv7"):
            ids.derive(bad, "x")


@given(st.integers(0, clock.LAST_MS))
@example(0)
@example(951_782_400_000)  # 2000-02-29
@example(clock.LAST_MS)
def test_times_go_round(ms):
    """Milliseconds to text to milliseconds, and Python's own reading agrees to the millisecond."""
    text = clock.format_ms(ms)
    assert len(text) == 24
    assert clock.parse_ms(text) == ms
    assert dt.datetime.fromisoformat(text) == dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(milliseconds=ms)


@given(st.integers(0, clock.LAST_MS), st.integers(0, clock.LAST_MS))
def test_texts_sort_as_times(one, other):
    """The order of the texts is the order of time."""
    assert (clock.format_ms(one) < clock.format_ms(other)) is (one < other)


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1, "1970-01-01T00:00:00.001Z"),
        (1_735_689_599_999, "2024-12-31T23:59:59.999Z"),
        (1_709_164_800_000, "2024-02-29T00:00:00.000Z"),
        (clock.LAST_MS, LAST),
    ],
)
def test_known_times(ms, text):
    """The milliseconds always stand there, three of them."""
    assert clock.format_ms(ms) == text
    assert clock.parse_ms(text) == ms


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2025-01-01T00:00:00Z",
        "2025-01-01T00:00:00.0Z",
        "2025-01-01T00:00:00.000000Z",
        "2025-01-01T00:00:00,000Z",
        "2025-01-01T00:00:00.000z",
        "2025-01-01t00:00:00.000Z",
        "2025-01-01 00:00:00.000Z",
        "2025-01-01T00:00:00.000+00:00",
        "2025-01-01T00:00:00.000",
        "2025-01-01T00:00:00.000Z\n",
        " 2025-01-01T00:00:00.000Z",
        "20250101T000000.000Z",
        "2025-W01-1T00:00:00.000Z",
        "2025-1-001T00:00:00.000Z",
        "\u0662025-01-01T00:00:00.000Z",
        "2_25-01-01T00:00:00.000Z",
        "2025-02-29T00:00:00.000Z",
        "1900-02-29T00:00:00.000Z",
        "2025-00-01T00:00:00.000Z",
        "2025-13-01T00:00:00.000Z",
        "2025-04-31T00:00:00.000Z",
        "2025-01-00T00:00:00.000Z",
        "2025-01-01T24:00:00.000Z",
        "2025-01-01T00:60:00.000Z",
        "2016-12-31T23:59:60.000Z",
        "0000-01-01T00:00:00.000Z",
        "0001-01-01T00:00:00.000Z",
        "1969-12-31T23:59:59.999Z",
    ],
)
def test_a_second_spelling_is_no_time(text):
    """Other precision, zone, case or digits; days and hours that don't exist; leap seconds; years before 1970."""
    with pytest.raises(ValueError, match=r"RFC 3339|no such day|1970"):
        clock.parse_ms(text)


@given(st.text("0123456789-:.TZ \u0661", max_size=26))
def test_hostile_text_is_a_time_or_a_value_error(text):
    """What is read is written back as it was."""
    try:
        ms = clock.parse_ms(text)
    except ValueError:
        return
    assert clock.format_ms(ms) == text


@pytest.mark.parametrize("ms", [-1, clock.LAST_MS + 1, 10**30])
def test_times_without_a_text_are_refused(ms):
    """Before 1970 and after 9999 there is no form to write."""
    with pytest.raises(ValueError, match="1970"):
        clock.format_ms(ms)


def test_clocks():
    """The machine's clock tells the machine's time; the fixed one stands until it is told."""
    before_ms = time.time_ns() // 1_000_000
    assert before_ms <= clock.SystemClock().now_ms() <= time.time_ns() // 1_000_000
    fixed = clock.FixedClock(5)
    assert (fixed.now_ms(), fixed.now_ms()) == (5, 5)
    fixed.advance(10)
    assert fixed.now_ms() == 15
    fixed.advance(-15)
    assert fixed.now_ms() == 0
