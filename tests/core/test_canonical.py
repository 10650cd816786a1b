"""Canonical bytes: the printed vectors of RFC 8785, the two roads that must be one, and everything that is refused."""

import collections
import datetime as dt
import decimal
import enum
import json
import math
import struct
import time
from typing import Annotated, Literal

import msgspec
import pytest
import rfc8785
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sigilcore import canonical

# RFC 8785, appendix B: the bits of a double and its text. The two that have no text are among the refusals below.
APPENDIX_B = {
    "0000000000000000": "0",
    "8000000000000000": "0",
    "0000000000000001": "5e-324",
    "8000000000000001": "-5e-324",
    "7fefffffffffffff": "1.7976931348623157e+308",
    "ffefffffffffffff": "-1.7976931348623157e+308",
    "44b52d02c7e14af5": "9.999999999999997e+22",
    "44b52d02c7e14af6": "1e+23",
    "44b52d02c7e14af7": "1.0000000000000001e+23",
    "444b1ae4d6e2ef50": "1e+21",
    "3eb0c6f7a0b5ed8c": "9.999999999999997e-7",
    "3eb0c6f7a0b5ed8d": "0.000001",
    "41b3de4355555553": "333333333.3333332",
    "41b3de4355555554": "333333333.33333325",
    "41b3de4355555555": "333333333.3333333",
    "41b3de4355555556": "333333333.3333334",
    "41b3de4355555557": "333333333.33333343",
    "becbf647612f3696": "-0.0000033333333333333333",
    "43143ff3c1cb0959": "1424953923781206.2",
}

# The rows of the same table that are spelled as integers beyond ±(2^53 - 1), which I-JSON (RFC 7493, 2.2) can't exchange.
APPENDIX_B_BIG_INTEGERS = {
    "4340000000000000": "9007199254740992",
    "c340000000000000": "-9007199254740992",
    "4430000000000000": "295147905179352830000",
    "444b1ae4d6e2ef4e": "999999999999999700000",
    "444b1ae4d6e2ef4f": "999999999999999900000",
}

# RFC 8785, 3.2.2: the sample object as it is written, and 3.2.4: the bytes that it has.
SAMPLE = rb"""{
  "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
  "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
  "literals": [null, true, false]
}"""
SAMPLE_BYTES = bytes.fromhex(
    "7b226c69746572616c73223a5b6e756c6c2c747275652c66616c73655d2c226e756d62657273223a5b3333333333333333332e333333333333332c"
    "31652b33302c342e352c302e3030322c31652d32375d2c22737472696e67223a22e282ac245c75303030665c6e412742"
    "5c225c5c5c5c5c222f227d"
)

# RFC 8785, 3.2.3: names to sort, and the order in which their values must stand.
SORTING = rb"""{
  "\u20ac": "Euro Sign", "\r": "Carriage Return", "\ufb33": "Hebrew Letter Dalet With Dagesh", "1": "One",
  "\ud83d\ude00": "Emoji: Grinning Face", "\u0080": "Control", "\u00f6": "Latin Small Letter O With Diaeresis"
}"""
SORTED = [
    "Carriage Return",
    "One",
    "Control",
    "Latin Small Letter O With Diaeresis",
    "Euro Sign",
    "Emoji: Grinning Face",
    "Hebrew Letter Dalet With Dagesh",
]

BORDER_TEXTS = (
    "",
    "a",
    "é",
    "\x00",
    "\x7f",
    "\u2028",
    "\ud7ff",
    "\ue000",
    "\uffff",
    "\U00010000",
    "\U0001f600",
    '"',
    "\\",
)
TEXTS = st.sampled_from(BORDER_TEXTS) | st.text(max_size=6)
SAFE_INTS = st.integers(-canonical.MAX_INT, canonical.MAX_INT) | st.sampled_from(
    [canonical.MAX_INT, -canonical.MAX_INT, 0]
)
FLOATS = st.floats(allow_nan=False, allow_infinity=False).filter(lambda x: not canonical.MAX_INT < abs(x) < 1e21)
SCALARS = st.none() | st.booleans() | SAFE_INTS | FLOATS | TEXTS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=5), max_leaves=12
)


class Colour(enum.IntEnum):
    RED = 1


class Word(enum.StrEnum):
    RED = "red"


class Text(str):
    __slots__ = ()


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    counts: tuple[int, ...] = ()


class Whole(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    parts: list[Part]
    labels: frozenset[str] = frozenset()
    by_number: dict[int, str] = {}


def double(bits):
    return struct.unpack(">d", bytes.fromhex(bits))[0]


def nested(depth, innermost=0):
    value = innermost
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


def refusal(call, *arguments, **named):
    with pytest.raises(canonical.NotCanonical) as caught:
        call(*arguments, **named)
    return caught.value


@pytest.mark.parametrize(("bits", "text"), APPENDIX_B.items())
def test_numbers_of_appendix_b(bits, text):
    """RFC 8785 appendix B: these bits have this text, and the text reads back as the number."""
    assert canonical.encode(double(bits)) == text.encode()
    assert canonical.decode(text.encode()) == double(bits)


@pytest.mark.parametrize(("bits", "text"), APPENDIX_B_BIG_INTEGERS.items())
def test_a_double_spelled_as_a_big_integer_is_refused_both_ways(bits, text):
    """The standard prints these rows; were we to write them, nobody who refuses integers beyond 2^53 - 1 could read them."""
    assert rfc8785.dumps(double(bits)) == text.encode()
    for call, argument in (
        (canonical.encode, double(bits)),
        (canonical.decode, text.encode()),
        (canonical.parse, text.encode()),
    ):
        assert refusal(call, argument).reason == "an integer beyond ±(2^53 - 1)"


def test_the_sample_object_of_the_standard():
    """RFC 8785, 3.2.2 to 3.2.4: from the text as a person wrote it to the printed bytes."""
    assert canonical.encode(canonical.parse(SAMPLE)) == SAMPLE_BYTES
    assert canonical.decode(SAMPLE_BYTES) == json.loads(SAMPLE)


def test_the_sorting_sample_of_the_standard():
    """RFC 8785, 3.2.3: names are ordered by UTF-16 code units, so the emoji stands before U+FB33."""
    assert list(canonical.decode(canonical.encode(canonical.parse(SORTING))).values()) == SORTED


@given(VALUES)
@example({"\ue000": 1, "\U00010000": 2})
@example({"\uffff": "x", "\U0010ffff": "y", "a": -0.0})
@example([canonical.MAX_INT, -canonical.MAX_INT, -0.0, 1.0, 1e21, 5e-324])
@example({"a": "\U0001f600", "b": "\x00\x1f\x7f\u2028"})
@settings(max_examples=400)
def test_both_roads_are_one(value):
    """Whatever road serves a value, the bytes are the reference's, and they read back as the value."""
    data = canonical.encode(value)
    assert data == rfc8785.dumps(value)
    assert canonical.decode(data) == value


@given(VALUES, st.randoms(use_true_random=False))
def test_the_order_of_insertion_leaves_no_trace(value, rng):
    """Two dicts that are equal have the same bytes."""

    def shuffled(part):
        if isinstance(part, list):
            return [shuffled(item) for item in part]
        if isinstance(part, dict):
            items = [(key, shuffled(item)) for key, item in part.items()]
            rng.shuffle(items)
            return dict(items)
        return part

    assert canonical.encode(shuffled(value)) == canonical.encode(value)


@given(VALUES, st.sampled_from([{"indent": 1}, {"ensure_ascii": True}, {"ensure_ascii": False}]))
def test_any_other_spelling_parses_but_does_not_decode(value, style):
    """`parse` reads the value from other bytes of it; `decode` takes one spelling only."""
    data = json.dumps(value, **style).encode()
    assert canonical.parse(data) == value
    if data == canonical.encode(value):
        assert canonical.decode(data) == value
    else:
        refusal(canonical.decode, data)


@pytest.mark.parametrize(
    "value",
    [
        b"x",
        bytearray(b"x"),
        {1, 2},
        frozenset(),
        dt.datetime(2025, 1, 1, tzinfo=dt.UTC),
        dt.date(2025, 1, 1),
        decimal.Decimal(1),
        1j,
        Colour.RED,
        Word.RED,
        Text("x"),
        Part(name="x"),
        msgspec.UNSET,
        msgspec.Raw(b"1"),
        collections.OrderedDict(a=1),
        {"a": 1}.keys(),
        range(2),
        object(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_plain_json_data_is_encoded(value):
    """Types that an encoder would turn into something are refused wherever they stand; so are subclasses of plain types."""
    reason = f"{type(value).__name__} is not JSON"
    for place, path in ((value, "$"), ([1.5, value], "$[1]"), ({"a": {"b": value}}, "$.a.b")):
        error = refusal(canonical.encode, place)
        assert (error.reason, error.path) == (reason, path)


@pytest.mark.parametrize("key", [1, None, True, 1.5, b"a", Text("a"), Word.RED, (1, 2)], ids=repr)
def test_only_text_is_a_key(key):
    """A key that an encoder would spell as text is refused: two different keys could become one."""
    error = refusal(canonical.encode, {"a": {key: 1}})
    assert (error.reason, error.path) == ("a key that is no text", "$.a")


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_are_refused(number):
    """RFC 8785, 3.2.2.3: NaN and the infinities are errors."""
    assert refusal(canonical.encode, {"a": [number]}).path == "$.a[0]"


@pytest.mark.parametrize("number", [2**53, -(2**53), 2**64, -(10**400), float(2**53), -1e20, math.nextafter(1e21, 0)])
def test_integers_beyond_two_to_the_53_are_refused(number):
    """Their neighbours can't be told apart by a reader whose numbers are doubles."""
    assert refusal(canonical.encode, {"a": [number]}).reason == "an integer beyond ±(2^53 - 1)"


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("\ud800", "$"),
        (["a", "\udfff"], "$[1]"),
        ({"\ud83d": 1}, '$["\\ud83d"]'),
        ({"\U00010000": "\ud800", "a": 1.5}, '$["\\ud800\\udc00"]'),
    ],
)
def test_lone_surrogates_are_refused(value, path):
    """Half a character has no UTF-8; the path that tells of it is ASCII."""
    error = refusal(canonical.encode, value)
    assert error.path == path
    assert error.path.isascii()
    assert "surrogate" in error.reason


def test_depth_64_and_no_deeper():
    """Sixty-four containers, one in the other, are read and written; one more is refused everywhere."""
    good, deep = nested(64), nested(65)
    assert canonical.decode(canonical.encode(good)) == good
    assert canonical.parse(json.dumps(good).encode()) == good
    assert canonical.encode(nested(64, 1.5)) == rfc8785.dumps(nested(64, 1.5))
    for call, argument in (
        (canonical.encode, deep),
        (canonical.encode, nested(65, 1.5)),
        (canonical.encode, nested(64, [])),
        (canonical.decode, rfc8785.dumps(deep)),
        (canonical.parse, rfc8785.dumps(deep)),
    ):
        assert refusal(call, argument).reason == "nested deeper than 64"


@pytest.mark.parametrize("call", [canonical.decode, canonical.parse])
@pytest.mark.parametrize(
    "data", [b"[" * 500_000, b'{"a":' * 100_000, b"[" * 900 + b"]" * 900], ids=["lists", "dicts", "closed"]
)
def test_a_tower_of_brackets_is_refused_and_nothing_falls(call, data):
    """The reader's recursion limit is met inside; only our refusal comes out."""
    assert refusal(call, data).reason == "nested deeper than 64"


def test_a_loop_of_containers_is_refused():
    """A list that holds itself is only deeper than allowed."""
    loop = []
    loop.append(loop)
    assert refusal(canonical.encode, loop).reason == "nested deeper than 64"


def test_the_size_is_of_bytes_not_characters():
    """An é counts twice; the bound itself is allowed, and the default is one mebibyte."""
    assert canonical.encode("éé", max_bytes=6) == '"éé"'.encode()
    assert refusal(canonical.encode, "éé", max_bytes=5).reason == "6 bytes, at most 5"
    assert canonical.decode('"éé"'.encode(), max_bytes=6) == "éé"
    for call in (canonical.decode, canonical.parse):
        assert refusal(call, '"éé"'.encode(), max_bytes=5).reason == "6 bytes, at most 5"
    fits = "x" * (canonical.MAX_BYTES - 2)
    assert canonical.decode(canonical.encode(fits)) == fits
    refusal(canonical.encode, fits + "x")
    refusal(canonical.decode, b'"' + fits.encode() + b'x"')
    assert len(canonical.encode(fits + "x", max_bytes=None)) == canonical.MAX_BYTES + 1


def test_a_tuple_is_an_array():
    """`msgspec.to_builtins` leaves the tuples of a Struct, and they have one spelling."""
    assert canonical.encode({"a": (1, ("x",))}) == b'{"a":[1,["x"]]}'


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" 1",
        b"1 ",
        b"1\n",
        b'{"a": 1}',
        b'{"a":1,"a":1}',
        b'{"a":1,"a":2}',
        b'{"a":2,"b":1,"a":3}',
        b'{"b":1,"a":2}',
        b'{"\\u0061":1}',
        b'"\\u00e9"',
        b'"\\/"',
        b'"\\u0008"',
        b'"\\u001F"',
        b'"\x1f"',
        b'"\\ud800"',
        b'"\\ud83d\\ude00"',
        b"1.0",
        b"1e2",
        b"1E+30",
        b"1e30",
        b"-0",
        b"0.0",
        b"-0.0",
        b"01",
        b"+1",
        b".5",
        b"1.",
        b"0.10",
        b"1e-7 ",
        b"0.0000001",
        b"333333333.33333329",
        b"1e400",
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"1_000",
        "\u0661".encode(),
        b"nul",
        b"True",
        b"[1,]",
        b"[1] []",
        b"{}{}",
        b"'a'",
        b"/**/1",
        b"9007199254740992",
        b"-9007199254740993",
        b"123456789012345678901234567890",
        b"\xef\xbb\xbf1",
        b'"\xc3"',
        b'"\xc0\x80"',
        b'"\xed\xa0\x80"',
        b'"\xf5\x80\x80\x80"',
        "1".encode("utf-16"),
        b'{"\xee\x80\x80":1,"\xf0\x90\x80\x80":2}',
        b"\x00",
    ],
    ids=repr,
)
def test_decode_takes_one_spelling(data):
    """White space, order, repeated keys, escapes, number forms, bad UTF-8, a BOM: any other spelling is refused."""
    refusal(canonical.decode, data)
    refusal(canonical.convert, data, object)


@pytest.mark.parametrize(
    ("data", "reason", "path"),
    [
        (b'{"a":[{"b":1,"b":1}]}', "a key stands twice", "$.a[0].b"),
        (b'{"a b":1,"c":{"a b":1,"a b":2}}', "a key stands twice", '$.c["a b"]'),
        (b'{"a":1,"\\u0061":1}', "a key stands twice", "$.a"),
        (b'{"a":[1,NaN]}', "a number that is no finite double", "$.a[1]"),
        (b"[-Infinity]", "a number that is no finite double", "$[0]"),
        (b"[0, 1e400]", "a number that is no finite double", "$[1]"),
        (b"[9007199254740992]", "an integer beyond ±(2^53 - 1)", "$[0]"),
        (b"[-" + b"9" * 6000 + b"]", "an integer beyond ±(2^53 - 1)", "$[0]"),
        (b'{"a":1e20}', "an integer beyond ±(2^53 - 1)", "$.a"),
        (b'["\\ud800"]', "a lone surrogate", "$[0]"),
        (b'["\\ude00\\ud83d"]', "a lone surrogate", "$[0]"),
        (b'{"a":{"\\udc00":1}}', "a lone surrogate in a key", '$.a["\\udc00"]'),
        (b'{"a":' + b"[" * 64 + b"]" * 64 + b"}", "nested deeper than 64", "$.a" + "[0]" * 63),
        (b'"\xff"', "not UTF-8", ""),
        (b"\xef\xbb\xbf1", "not JSON: Unexpected UTF-8 BOM (decode using utf-8-sig), line 1 column 1", ""),
        (b"[1,\n2", "not JSON: Expecting ',' delimiter, line 2 column 2", ""),
        (b'"\x01"', "not JSON: Invalid control character, line 1 column 2", ""),
        (b"", "not JSON: Expecting value, line 1 column 1", ""),
    ],
    ids=lambda part: repr(part)[:40],
)
def test_parse_says_what_is_wrong_and_where(data, reason, path):
    """Input that people wrote gets the first true reason and its JSON path."""
    error = refusal(canonical.parse, data)
    assert (error.reason, error.path) == (reason, path)
    assert str(error) == (f"{reason} at {path}" if path else reason)


def test_a_path_is_short_however_long_the_key():
    """A key of a mebibyte doesn't fill a log line."""
    error = refusal(canonical.parse, b'{"' + b"k" * 500_000 + b'":NaN}')
    assert error.path == '$["' + "k" * 64 + '\\u2026"]'


@pytest.mark.parametrize(
    ("data", "value"),
    [(b" [1, 2]\r\n", [1, 2]), (b'"\\ud83d\\ude00\\/"', "\U0001f600/"), (b"-0.0", 0), (b"1E2", 100), (b"1e21", 1e21)],
)
def test_parse_reads_what_need_not_be_canonical(data, value):
    """White space, escapes and other number forms are other spellings of I-JSON; what was parsed can be encoded."""
    assert canonical.parse(data) == value
    assert canonical.decode(canonical.encode(canonical.parse(data))) == value


def test_a_struct_goes_round():
    """Tuples, a set and a dict with integer keys come back as they were; the bytes are sorted throughout."""
    whole = Whole(parts=[Part(name="x", counts=(2, 1))], labels=frozenset({"b", "a"}), by_number={10: "x", 9: "y"})
    data = canonical.of(whole)
    assert data == b'{"by_number":{"10":"x","9":"y"},"labels":["a","b"],"parts":[{"counts":[2,1],"name":"x"}]}'
    assert canonical.convert(data, Whole) == whole


@pytest.mark.parametrize(
    ("data", "path"),
    [
        (b'{"parts":[{"name":"x"},{"name":1}]}', "$.parts[1].name"),
        (b'{"parts":[{"counts":["1"],"name":"x"}]}', "$.parts[0].counts[0]"),
        (b'{"parts":[{"counts":[1.5],"name":"x"}]}', "$.parts[0].counts[0]"),
        (b'{"parts":[{"counts":[true],"name":"x"}]}', "$.parts[0].counts[0]"),
        (b'{"parts":[{"name":"x","new":1}]}', "$.parts[0]"),
        (b'{"extra":1,"parts":[]}', "$"),
        (b"{}", "$"),
        (b"[]", "$"),
    ],
)
def test_a_value_that_does_not_fit_its_type_names_its_path(data, path):
    """Conversion is strict: no text for a number, no number for text, no unknown field."""
    assert refusal(canonical.convert, data, Whole).path == path


@given(
    st.binary(max_size=60) | st.text('[]{}",:\\u0123456789abcdefDEF.+-Eetrufalsn \ud7ff', max_size=60).map(str.encode)
)
@example(b'"\\ud800\\udc00\\ud800"')
@example(b'{"":{"":{"":1,"":2}}}')
@settings(max_examples=600)
def test_hostile_bytes_meet_nothing_but_a_refusal(data):
    """`decode`, `convert` and `parse` answer with a value or NotCanonical; what decodes is its own encoding, what parses can be encoded."""
    try:
        assert canonical.encode(canonical.decode(data)) == data
    except canonical.NotCanonical:
        refusal(canonical.convert, data, object)
    try:
        value = canonical.parse(data)
    except canonical.NotCanonical:
        refusal(canonical.decode, data)  # canonical bytes are I-JSON
        return
    assert canonical.parse(canonical.encode(value)) == value


@given(VALUES, st.data())
@settings(max_examples=300)
def test_one_changed_byte_changes_the_value_or_is_refused(value, data):
    """No two byte strings decode to the same value."""
    original = canonical.encode(value)
    place = data.draw(st.integers(0, len(original) - 1))
    changed = bytearray(original)
    changed[place] ^= data.draw(st.integers(1, 255))
    try:
        other = canonical.decode(bytes(changed))
    except canonical.NotCanonical:
        return
    assert canonical.encode(other) != original


class Inner(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    word: Annotated[str, msgspec.Meta(max_length=3)]
    maybe: str | None = None


class Outer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    zed: tuple[Inner, ...]
    flag: bool
    count: Annotated[int, msgspec.Meta(ge=-canonical.MAX_INT, le=canonical.MAX_INT)]
    table: dict[str, Inner]
    choice: Literal["one", "two"]


TEXT = st.text(st.characters(codec="utf-8"), max_size=3)
INNERS = st.builds(Inner, word=TEXT, maybe=st.none() | TEXT)
OUTERS = st.builds(
    Outer,
    zed=st.lists(INNERS, max_size=3).map(tuple),
    flag=st.booleans(),
    count=st.integers(-canonical.MAX_INT, canonical.MAX_INT),
    table=st.dictionaries(TEXT, INNERS, max_size=3),
    choice=st.sampled_from(["one", "two"]),
)


def recognised(data, kind=Outer):
    """What the short way says; where it says anything, the long way says the same."""
    value = canonical.Shape(kind).read(data)
    assert value is None or value == canonical.typed(canonical.decode(data), kind)
    return value


def walked(value):
    """The bytes by the long way."""
    return canonical.encode(msgspec.to_builtins(value, str_keys=True, order="deterministic"))


@given(OUTERS)
def test_the_short_way_reads_what_is_canonical(value):
    """It recognises every canonical value of a closed type, except beside characters where the two orders of keys may differ."""
    data = walked(value)
    assert canonical.of(value) == data
    assert canonical.Shape(Outer).made(value) == (data if max(data) < 0xF0 else None)
    assert canonical.Shape(Outer).write(value) == data or max(data) >= 0xF0
    assert recognised(data) == (value if max(data) < 0xF0 else None)


@given(OUTERS, st.data())
def test_the_short_way_recognises_nothing_else(value, data):
    """Bytes changed, removed or put in: never more than the long way accepts."""
    raw = bytearray(walked(value))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at : at + data.draw(st.integers(0, 2))] = data.draw(
        st.sampled_from([b"", b" ", b"0", b".0", b"e0", b"\\u0061", b'"', b",", b'"zed":[],', b"\xff", b"null"])
    )
    recognised(bytes(raw))


@pytest.mark.parametrize(
    "data",
    [
        b'{"word":"a","word":"b"}',
        b'{"maybe":null,"word":"a"}',
        b'{"word": "a"}',
        b'{"word":"\\u0061"}',
        b'{"word":"a","maybe":"b"}',
        b'{"word":"abcd"}',
        b'{"other":1,"word":"a"}',
    ],
)
def test_the_short_way_leaves_other_spellings_to_the_long_one(data):
    """Doubled keys, spaces, escapes, another order, a default that is spelled out: not for it to judge."""
    assert recognised(data, Inner) is None


class Loose(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    number: int


class Endless(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    next: "Endless | None"


class Fraction(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    part: float


@pytest.mark.parametrize(
    ("kind", "data"), [(Loose, b'{"number":1}'), (Endless, b'{"next":null}'), (Fraction, b'{"part":0.5}')]
)
def test_a_type_that_says_too_little_has_no_short_way(kind, data):
    """Integers without bounds, types within themselves, floats."""
    assert recognised(data, kind) is None
    value = canonical.convert(data, kind)
    assert canonical.Shape(kind).made(value) is None
    assert canonical.Shape(kind).write(value) == canonical.of(value) == data


@pytest.mark.parametrize(
    "made", [{"count": 2**53}, {"flag": "\ud800"}, {"table": {"\ud800": Inner(word="a")}}, {"count": math.inf}]
)
def test_what_code_built_wrongly_takes_the_long_way_and_is_refused(made):
    """A Struct isn't checked when it is made, so its bytes are: a number or text that JSON can't bear is never signed."""
    value = Outer(**{"zed": (), "flag": True, "count": 1, "table": {}, "choice": "one"} | made)
    assert canonical.Shape(Outer).made(value) is None
    with pytest.raises(canonical.NotCanonical):
        canonical.of(value)


def test_what_code_built_of_another_type_is_written_as_it_is():
    """The short way knows only values of the declared type; whatever else is plain JSON has the long way's bytes."""
    value = Outer(zed=(), flag="yes", count=1, table={}, choice="three")
    assert canonical.Shape(Outer).made(value) is None
    assert canonical.of(value) == walked(value) == b'{"choice":"three","count":1,"flag":"yes","table":{},"zed":[]}'


# What is costly to read


def seconds(work):
    """The least processor time of three turns."""
    spent = []
    for _ in range(3):
        began = time.process_time()
        work()
        spent.append(time.process_time() - began)
    return min(spent)


def test_no_double_is_much_dearer_than_another():
    """msgspec needs a second for half a MiB of 1e+300, and the writer, where all must pass, would stand still for as long."""
    cheap, dear = (b"[" + b",".join([number] * 20_000) + b"]" for number in (b"1.5", b"1e+300"))
    assert seconds(lambda: canonical.decode(dear)) < 10 * seconds(lambda: canonical.decode(cheap))


@given(st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=8))
def test_both_readers_read_the_same(number, text):
    """A double with an exponent, beside texts that may look like one, is read as what was written."""
    value = {"a": [number, text, f"1e{text}"], text: number}
    data = canonical.encode(value) if abs(number) <= canonical.MAX_INT or abs(number) >= 1e21 else b'{"a":1E5}'
    assert canonical.loads(data) == json.loads(data) == msgspec.json.decode(data)


class Kept(msgspec.Struct, forbid_unknown_fields=True):
    """A document that is kept as it came."""

    kept: msgspec.Raw
    beside: int = 0


class Keeper(msgspec.Struct, forbid_unknown_fields=True):
    """It may stand in another."""

    inner: Kept | None = None


@pytest.mark.parametrize("kept", [{"b": 1e300, "a": [1, None]}, [], "text", 7])
def test_what_a_type_leaves_as_it_is_comes_from_plain_data_in_canonical_form(kept):
    """The converter has no road for it; its absence, and what else doesn't fit, are what they were."""
    assert bytes(canonical.typed({"inner": {"kept": kept}}, Keeper).inner.kept) == canonical.encode(kept)
    assert canonical.typed({}, Keeper).inner is None
    for plain, path in (({"kept": kept, "beside": "1"}, "$.inner.beside"), ({}, "$.inner"), (kept, "$.inner")):
        with pytest.raises(canonical.NotCanonical) as caught:
            canonical.typed({"inner": plain}, Keeper)
        assert caught.value.path == path
