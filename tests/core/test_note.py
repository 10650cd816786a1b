"""Signed notes: the known-good one, what keys vouch for, and every way of writing one wrongly."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tlog_scales.signing import Vkey

from sigilcore import note, signing

VECTORS = Path(__file__).parent.parent / "vectors" / "tlog"
CHECKPOINT = (VECTORS / "checkpoint").read_bytes()
VKEYS = (VECTORS / "vkeys").read_text().split()

TEXT = "This is an example message.\n"
LINE = (
    "— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)
GOOD = f"{TEXT}\n{LINE}".encode()
KEY = note.VerifierKey.parse("example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k")

ALICE = signing.Ed25519Signer(bytes(range(32)))
BOB = signing.Ed25519Signer(bytes(range(1, 33)))


def key_of(name: str, signer: signing.Signer) -> note.VerifierKey:
    return note.VerifierKey.of(name, note.ED25519, signer.public_key)


def signed(text: str, *lines: str) -> note.Note:
    return note.parse((text + "\n" + "".join(lines)).encode())


def test_the_known_good_note_verifies():
    """The specification's example: it parses, encodes to the same bytes, and its key signed it."""
    parsed = note.parse(GOOD)
    assert parsed.text == TEXT
    assert parsed.encode() == GOOD
    assert note.verify(parsed, [KEY]) == [KEY]


def test_the_golden_checkpoint_was_signed_by_its_three_keys():
    """Log and both cosigners, each by the rules of its own type, in the order of the lines."""
    keys = [note.VerifierKey.parse(vkey) for vkey in VKEYS]
    assert [key.type for key in keys] == [note.ED25519, note.COSIGNATURE, note.COSIGNATURE]
    assert note.verify(note.parse(CHECKPOINT), reversed(keys)) == keys


@pytest.mark.parametrize("vkey", [KEY.format(), *VKEYS])
def test_a_verifier_key_goes_round_and_agrees_with_another_package(vkey):
    """Text to key to text; the other package computes the same ID from name, type and key."""
    key = note.VerifierKey.parse(vkey)
    assert key.format() == vkey
    assert Vkey(key.name, None, key.type, key.public_key).serialize() == vkey
    assert key.key_id == note.key_hash(key.name, key.type, key.public_key)


@pytest.mark.parametrize(
    "vkey",
    [
        "",
        "example.com/foo",
        "example.com/foo+530d903a",
        "+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "example.com/fop+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "example.com foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "example.com/foo+530d903b+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "example.com/foo+530D903A+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "example.com/foo+0530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "example.com/foo+530d903a+",
        "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2",
        "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k\n",
        "example.com/foo+530d903a+BukyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "example.com/foo+530d903a+Aeky",
    ],
)
def test_a_verifier_key_whose_parts_don_t_fit_is_refused(vkey):
    """A wrong name, ID, spelling, type or length: NoteError."""
    with pytest.raises(note.NoteError):
        note.VerifierKey.parse(vkey)


@given(st.text())
@settings(deadline=None)
def test_hostile_text_is_a_verifier_key_or_an_error(text):
    """Only NoteError leaves the parser, with a valid head too."""
    for vkey in (text, f"{text}+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k", f"a+00000000+{text}"):
        with pytest.raises(note.NoteError):
            note.VerifierKey.parse(vkey)


@given(st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"]) | st.just("\n"), max_size=200))
@settings(deadline=None)
def test_any_text_can_be_signed_and_only_it_verifies(text):
    """Empty lines, U+2028 and lines like signatures within the text don't confuse anyone."""
    text += "\n"
    parsed = signed(text, note.sign(text, "alice", ALICE))
    assert parsed.text == text
    assert note.verify(parsed, [key_of("alice", ALICE)]) == [key_of("alice", ALICE)]
    forged = note.Note("x" + text, parsed.signatures)
    with pytest.raises(note.SignatureError):
        note.verify(forged, [key_of("alice", ALICE)])


def test_the_text_ends_at_the_last_empty_line():
    """A note within a note is text, and its inner signature isn't counted."""
    inner = GOOD.decode()
    parsed = signed(inner, note.sign(inner, "alice", ALICE))
    assert parsed.text == inner
    assert [one.name for one in parsed.signatures] == ["alice"]
    with pytest.raises(note.SignatureError):
        note.verify(parsed, [KEY])


def test_unknown_signatures_are_ignored():
    """Another name, or another ID under the same name, neither helps nor harms."""
    alice, mallory = key_of("alice", ALICE), key_of("alice", BOB)
    junk = note.Signature("stranger", 7, b"\x06 any length").line()
    parsed = signed(TEXT, junk, note.sign(TEXT, "alice", BOB), note.sign(TEXT, "alice", ALICE))
    assert note.verify(parsed, [alice]) == [alice]
    assert note.verify(parsed, [alice, mallory]) == [mallory, alice]
    assert note.verify(parsed, [alice, alice]) == [alice]


def test_a_note_no_known_key_signed_is_refused():
    """Strangers' signatures, however good, are none; so are no keys."""
    parsed = signed(TEXT, note.sign(TEXT, "bob", BOB))
    for keys in ([], [key_of("alice", ALICE)], [key_of("alice", BOB)]):
        with pytest.raises(note.SignatureError, match="no signature by a known key"):
            note.verify(parsed, keys)


def test_one_bad_signature_of_a_known_key_refuses_the_note():
    """Before or after good ones, a second line of the same key, of a wrong length: all the same."""
    alice, bob = key_of("alice", ALICE), key_of("bob", BOB)
    good = note.sign(TEXT, "alice", ALICE)
    for value in (ALICE.sign(b"another text"), b"\0" * 64, ALICE.sign(TEXT.encode())[:-1], b"\1" * 72):
        for owner in (alice, bob):
            bad = note.Signature(owner.name, owner.key_id, value).line()
            for lines in ((good, bad), (bad, good)):
                with pytest.raises(note.SignatureError, match=f"bad signature by {owner.name}"):
                    note.verify(signed(TEXT, *lines), [alice, bob])


def test_a_repeated_good_signature_counts_once():
    """Two lines, one key."""
    line = note.sign(TEXT, "alice", ALICE)
    assert note.verify(signed(TEXT, line, line), [key_of("alice", ALICE)]) == [key_of("alice", ALICE)]


def test_a_cosignature_is_no_signature_and_the_other_way_round():
    """The type is part of the key ID, and each type signs other bytes."""
    plain = key_of("alice", ALICE)
    cosigner = note.VerifierKey.of("alice", note.COSIGNATURE, ALICE.public_key)
    assert plain.key_id != cosigner.key_id
    time = (5).to_bytes(8)
    assert cosigner.verifies(TEXT, time + ALICE.sign(note.cosignature_message(TEXT, 5)))
    assert not cosigner.verifies(TEXT, (6).to_bytes(8) + ALICE.sign(note.cosignature_message(TEXT, 5)))
    assert not cosigner.verifies(TEXT, time + ALICE.sign(TEXT.encode()))
    assert not plain.verifies(TEXT, ALICE.sign(note.cosignature_message(TEXT, 5)))


def test_a_time_beyond_2_to_the_63_is_no_cosignature():
    """However well it is signed."""
    cosigner = note.VerifierKey.of("w", note.COSIGNATURE, ALICE.public_key)
    for time, holds in ((2**63 - 1, True), (2**63, False)):
        value = time.to_bytes(8) + ALICE.sign(note.cosignature_message(TEXT, time))
        assert cosigner.verifies(TEXT, value) == holds


def test_two_keys_of_one_name_and_id_are_refused(monkeypatch):
    """A collision of the 32-bit ID can be searched for; nobody guesses which key is meant."""
    monkeypatch.setattr(note, "key_hash", lambda *_: 7)
    keys = [key_of("alice", ALICE), key_of("alice", BOB)]
    parsed = signed(TEXT, note.sign(TEXT, "alice", ALICE))
    with pytest.raises(note.SignatureError, match="two keys share"):
        note.verify(parsed, keys)


BLOB = LINE.split(" ")[2].strip()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"\n\n",
        TEXT.encode(),
        f"{TEXT}\n".encode(),
        f"{TEXT}{LINE}".encode(),
        GOOD[:-1],
        GOOD + b"\n",
        GOOD + b"\n\n",
        GOOD + b"more",
        b"\xef\xbb\xbf\x00" + GOOD,
        GOOD.replace(b"\n", b"\r\n"),
        GOOD.replace(b"example message", b"example\tmessage"),
        GOOD.replace(b"example message", b"example\xff"),
        GOOD.replace("—".encode(), b"-"),
        GOOD.replace("— ".encode(), "—".encode()),
        GOOD.replace("— ".encode(), "—  ".encode()),
        GOOD.replace(b"com/foo", b"com+foo"),
        GOOD.replace(b"com/foo", "com\u00a0foo".encode()),
        GOOD.replace(b"com/foo", "com\u2028foo".encode()),
        GOOD.replace(b"example.com/foo ", b" "),
        GOOD.replace(b"=\n", b"\n"),
        GOOD.replace(b"=\n", b"==\n"),
        GOOD.replace(b"=\n", b"= \n"),
        GOOD.replace(b"yaQM=", b"yaQN="),
        GOOD.replace(b"Uw2QOk", b"Uw2Q\xd9\xa3"),
        GOOD.replace(b"Uw2QOk", b"Uw2Q-_"),
        GOOD.replace(BLOB.encode(), b""),
        GOOD.replace(BLOB.encode(), b"Uw2QOg=="),
        GOOD.replace(f" {BLOB}".encode(), b""),
        GOOD + LINE.encode() * note.MAX_SIGNATURES,
        b"x" * note.MAX_NOTE_BYTES + GOOD,
    ],
    ids=lambda data: repr(data[-24:]),
)
def test_a_note_written_wrongly_is_refused(data):
    """Each is one defect away from the known-good note: NoteError, and no SignatureError."""
    assert data != GOOD
    with pytest.raises(note.NoteError) as refusal:
        note.parse(data)
    assert not isinstance(refusal.value, note.SignatureError)


@pytest.mark.parametrize("code", [code for code in range(32) if code != 10])
def test_a_control_character_is_refused(code):
    """Every one below the space but the line feed, read or signed."""
    text = f"left{chr(code)}right\n"
    with pytest.raises(note.NoteError, match="control character"):
        note.parse(f"{text}\n{LINE}".encode())
    with pytest.raises(note.NoteError, match="control character"):
        note.sign(text, "alice", ALICE)


def test_a_hundred_signatures_are_read():
    """The bound is where it is said to be."""
    parsed = note.parse(f"{TEXT}\n".encode() + LINE.encode() * note.MAX_SIGNATURES)
    assert len(parsed.signatures) == note.MAX_SIGNATURES
    assert note.verify(parsed, [KEY]) == [KEY]


@given(st.binary(max_size=300), st.sampled_from([GOOD, CHECKPOINT]), st.data())
@settings(deadline=None, max_examples=300)
def test_hostile_bytes_are_a_note_or_an_error(junk, base, data):
    """Random bytes, and good notes with bytes replaced: the same bytes come back, or NoteError."""
    start = data.draw(st.integers(0, len(base)))
    end = data.draw(st.integers(start, min(len(base), start + 8)))
    for hostile in (junk, base[:start] + junk[:6] + base[end:], base + junk, TEXT.encode() + b"\n" + junk):
        try:
            parsed = note.parse(hostile)
        except note.NoteError:
            continue
        assert parsed.encode() == hostile


@given(st.binary(min_size=1, max_size=1), st.integers(0, len(GOOD) - 1))
@settings(deadline=None, max_examples=300)
def test_no_changed_byte_is_overlooked(byte, at):
    """Any one byte of the known-good note replaced: it can't be read, or its key didn't sign it."""
    changed = GOOD[:at] + byte + GOOD[at + 1 :]
    if changed == GOOD:
        return
    with pytest.raises(note.NoteError):
        note.verify(note.parse(changed), [KEY])


def test_signature_lines_alone_are_read_as_a_witness_answers_them():
    """One or more whole lines and nothing else."""
    lines = note.parse_signatures(LINE.encode() * 2)
    assert [one.line() for one in lines] == [LINE, LINE]
    for data in (b"", b"\n", LINE.encode() + b"\n", LINE.encode()[:-1], b"\xff\n", TEXT.encode()):
        with pytest.raises(note.NoteError):
            note.parse_signatures(data)


@pytest.mark.parametrize("text", ["", "no line feed", "tab\t\n", "nul\0\n", "lone surrogate \ud800\n"])
def test_what_can_t_be_a_text_is_not_signed(text):
    """The signer refuses what no reader would take."""
    with pytest.raises(note.NoteError):
        note.sign(text, "alice", ALICE)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\u2003b", "a\nb", "a\0b", "a\ud800b"])
def test_what_can_t_be_a_name_is_not_signed_under(name):
    """Nor does it make a verifier key."""
    with pytest.raises(note.NoteError):
        note.sign(TEXT, name, ALICE)
    with pytest.raises(note.NoteError):
        note.VerifierKey.of(name, note.ED25519, ALICE.public_key)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-1",
        "+1",
        "01",
        "00",
        "1_000",
        " 1",
        "1 ",
        "1\n",
        "٣",
        "1.0",
        "1e3",
        "0x1",
        str(2**63),
        "9" * 5000,
    ],
)
def test_a_number_has_one_spelling(text):
    """What Python's int() takes and we don't."""
    with pytest.raises(note.NoteError):
        note.parse_decimal(text)


@given(st.integers(0, 2**63 - 1))
@settings(deadline=None)
def test_every_number_goes_round(number):
    """From 0 to 2^63 - 1."""
    assert note.parse_decimal(str(number)) == number


@given(st.one_of(st.text(), st.text("ABCDwxyz0189+/=-_ \n")))
@settings(deadline=None)
def test_base64_has_one_spelling(text):
    """What parses is what we write."""
    try:
        data = note.parse_base64(text)
    except note.NoteError:
        return
    assert note.encode_base64(data) == text


@given(st.binary(max_size=100))
@settings(deadline=None)
def test_a_hash_in_base64_is_32_bytes(data):
    """Any other length is refused."""
    text = note.encode_base64(data)
    assert note.parse_base64(text) == data
    assert note.parse_hash(note.encode_base64(bytes(32))) == bytes(32)
    if len(data) != 32:
        with pytest.raises(note.NoteError):
            note.parse_hash(text)
