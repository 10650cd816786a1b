"""Checkpoints and cosignatures: the golden bytes, another package's reading of ours, and each refusal."""

from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tlog_scales.signing import Vkey
from tlog_scales.tlog import Checkpoint as OtherCheckpoint

from sigilcore import checkpoint, merkle, note, signing

VECTORS = Path(__file__).parent.parent / "vectors" / "tlog"
GOLDEN = (VECTORS / "checkpoint").read_bytes()
REQUEST = (VECTORS / "add-checkpoint").read_bytes()
VKEYS = (VECTORS / "vkeys").read_text().split()
LOG_KEY, W1_KEY, W2_KEY = (note.VerifierKey.parse(vkey) for vkey in VKEYS)

# The seeds of RFC 8032 section 7.1, tests 1 to 3.
LOG, W1, W2 = (
    signing.Ed25519Signer(bytes.fromhex(seed))
    for seed in (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
    )
)
ENTRIES = [bytes.fromhex(line) for line in (VECTORS / "leaves.hex").read_text().split("\n")[:-1]]
LEAVES = [merkle.leaf_hash(entry) for entry in ENTRIES]
HEAD = checkpoint.Checkpoint("canon.example/log", 8, merkle.root(LEAVES))
SIGNED = checkpoint.sign(HEAD, LOG)
TEXT = HEAD.text()


def test_the_golden_checkpoint_is_made_byte_for_byte():
    """The log's note with both witnesses' lines appended is the published file."""
    made = checkpoint.add_signatures(SIGNED, checkpoint.cosign(TEXT, "witness.example/w1", W1, 1679315147).encode())
    made = checkpoint.add_signatures(made, checkpoint.cosign(TEXT, "witness.example/w2", W2, 1679315148).encode())
    assert made == GOLDEN
    assert sha256(made).hexdigest() == "2c95483f52b6a0d9057c72a2a1bd234a709d032a8474307a7391d6d2b4b89fa5"


def test_the_golden_checkpoint_is_read():
    """Size and root by the log's signature, two times by the witnesses' ones."""
    assert checkpoint.open_signed(GOLDEN, LOG_KEY) == HEAD
    cosigned = checkpoint.cosignatures(note.parse(GOLDEN), [W2_KEY, W1_KEY])
    assert [(one.key, one.timestamp) for one in cosigned] == [(W2_KEY, 1679315148), (W1_KEY, 1679315147)]


def test_the_golden_request_is_made_and_read_byte_for_byte():
    """add-checkpoint from 3 to 8: proof and note, both ways."""
    request = checkpoint.AddCheckpoint(3, tuple(merkle.consistency_path(3, LEAVES)), SIGNED)
    assert request.encode() == REQUEST
    assert sha256(REQUEST).hexdigest() == "31fe669ba6490268cdc5346eb3de16e92fa308c32e85d17b97120412cf6d55e4"
    assert checkpoint.AddCheckpoint.parse(REQUEST) == request


def test_another_package_reads_our_checkpoint():
    """Its verifier accepts log and witnesses over our bytes."""
    other = OtherCheckpoint.from_text(GOLDEN.decode())
    assert (other.origin, other.size, other.root_hash) == (HEAD.origin, HEAD.size, HEAD.root)
    for vkey in VKEYS:
        other.verify(Vkey.from_string(vkey))


TEXTS = st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"]), min_size=1, max_size=60)


@given(TEXTS, st.integers(0, 2**63 - 1), st.binary(min_size=32, max_size=32), st.lists(TEXTS, max_size=3))
@settings(deadline=None)
def test_every_checkpoint_goes_round(origin, size, root, extensions):
    """Any origin and extension lines on one line, any size and root."""
    head = checkpoint.Checkpoint(origin, size, root, tuple(extensions))
    assert checkpoint.parse_text(head.text()) == head


ROOT = note.encode_base64(HEAD.root)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "origin\n",
        "origin\n8\n",
        f"origin\n8\n{ROOT}",
        f"\n8\n{ROOT}\n",
        f"origin\n08\n{ROOT}\n",
        f"origin\n-8\n{ROOT}\n",
        f"origin\n+8\n{ROOT}\n",
        f"origin\n1_000\n{ROOT}\n",
        f"origin\n٣\n{ROOT}\n",
        f"origin\n 8\n{ROOT}\n",
        f"origin\n\n{ROOT}\n",
        f"origin\n{2**63}\n{ROOT}\n",
        f"origin\n8\n{ROOT[:-1]}\n",
        f"origin\n8\n{ROOT[:-2]}h=\n",
        f"origin\n8\n{ROOT} \n",
        f"origin\n8\n{HEAD.root.hex()}\n",
        f"origin\n8\n{note.encode_base64(HEAD.root[:31])}\n",
        f"origin\n8\n{ROOT}\n\n",
        f"origin\n8\n{ROOT}\n\nextension\n",
        f"origin\r\n8\r\n{ROOT}\r\n",
        f"origin\u2028\n8\u2028{ROOT}\n",
        f"origin\n8\n{ROOT}\n" + "extension\n" * (checkpoint.MAX_EXTENSIONS + 1),
        f"{'o' * (checkpoint.MAX_LINE_BYTES + 1)}\n8\n{ROOT}\n",
    ],
    ids=lambda text: repr(text[:24]),
)
def test_a_checkpoint_written_wrongly_is_refused(text):
    """Missing lines, other spellings of size and root, stray empty lines: NoteError."""
    with pytest.raises(note.NoteError):
        checkpoint.parse_text(text)


@pytest.mark.parametrize(
    ("origin", "size", "root", "extensions"),
    [
        ("", 8, HEAD.root, ()),
        ("a\nb", 8, HEAD.root, ()),
        ("a\0", 8, HEAD.root, ()),
        ("a", -1, HEAD.root, ()),
        ("a", 2**63, HEAD.root, ()),
        ("a", 8, HEAD.root[:31], ()),
        ("a", 8, HEAD.root, ("",)),
        ("a", 8, HEAD.root, ("b\nc",)),
    ],
)
def test_a_checkpoint_that_no_text_states_can_t_be_made(origin, size, root, extensions):
    """An origin of two lines would state another size."""
    with pytest.raises(note.NoteError):
        checkpoint.Checkpoint(origin, size, root, extensions)


def test_an_origin_that_can_t_name_a_key_isn_t_signed():
    """The log signs under its origin, so the origin must be a key name."""
    with pytest.raises(note.NoteError):
        checkpoint.sign(checkpoint.Checkpoint("two words", 8, HEAD.root), LOG)


def test_a_checkpoint_the_log_didn_t_sign_is_refused():
    """By nobody known, by another key under the log's name, by a witness's key alone."""
    for data in (checkpoint.sign(HEAD, W1), f"{TEXT}\n{note.sign(TEXT, 'someone', LOG)}".encode()):
        with pytest.raises(note.SignatureError):
            checkpoint.open_signed(data, LOG_KEY)
    with pytest.raises(note.SignatureError, match="not a cosigner"):
        checkpoint.open_signed(GOLDEN, W1_KEY)


def test_a_checkpoint_of_another_origin_is_refused_though_signed_with_the_log_s_key():
    """A key that signs for two logs can't pass one log's tree for the other's."""
    text = checkpoint.Checkpoint("other.example/log", 8, HEAD.root).text()
    data = f"{text}\n{note.sign(text, 'canon.example/log', LOG)}".encode()
    with pytest.raises(note.SignatureError, match=r"other\.example/log"):
        checkpoint.open_signed(data, LOG_KEY)


def test_a_signed_text_that_is_no_checkpoint_is_refused():
    """A log's key may have signed other notes."""
    data = f"hello\n\n{note.sign('hello' + chr(10), 'canon.example/log', LOG)}".encode()
    with pytest.raises(note.NoteError):
        checkpoint.open_signed(data, LOG_KEY)


@given(st.binary(min_size=1, max_size=1), st.integers(0, len(SIGNED) - 1))
@settings(deadline=None, max_examples=300)
def test_no_changed_byte_of_a_checkpoint_is_overlooked(byte, at):
    """Any one byte replaced: NoteError."""
    changed = SIGNED[:at] + byte + SIGNED[at + 1 :]
    if changed == SIGNED:
        return
    with pytest.raises(note.NoteError):
        checkpoint.open_signed(changed, LOG_KEY)


def test_a_cosignature_covers_the_extension_lines():
    """The whole text is signed: one extension more and it doesn't verify."""
    extended = checkpoint.Checkpoint(HEAD.origin, HEAD.size, HEAD.root, ("extension",)).text()
    line = checkpoint.cosign(extended, "witness.example/w1", W1, 5)
    assert checkpoint.verify_cosignature(extended, line, W1_KEY).timestamp == 5
    with pytest.raises(note.SignatureError):
        checkpoint.verify_cosignature(TEXT, line, W1_KEY)


def test_a_cosignature_speaks_for_one_key_text_and_time():
    """Another's key, another size, a shifted time, the log's own line: refused."""
    line = checkpoint.cosign(TEXT, "witness.example/w1", W1, 1679315147)
    assert checkpoint.verify_cosignature(TEXT, line, W1_KEY).timestamp == 1679315147
    (one,) = note.parse_signatures(line.encode())
    later = note.Signature(one.name, one.key_id, (1679315148).to_bytes(8) + one.value[8:])
    smaller = checkpoint.Checkpoint(HEAD.origin, 7, HEAD.root).text()
    for text, signature, key in (
        (TEXT, line, W2_KEY),
        (smaller, line, W1_KEY),
        (TEXT, later, W1_KEY),
        (TEXT, note.sign(TEXT, LOG_KEY.name, LOG), LOG_KEY),
    ):
        with pytest.raises(note.SignatureError):
            checkpoint.verify_cosignature(text, signature, key)


@given(st.text())
@settings(deadline=None)
def test_a_hostile_cosignature_line_is_an_error(text):
    """Only NoteError comes out, of no line, two lines and lone surrogates too."""
    line = checkpoint.cosign(TEXT, "witness.example/w1", W1, 5)
    for hostile in (text, line + line, line + text + "!", "\ud800" + line):
        with pytest.raises(note.NoteError):
            checkpoint.verify_cosignature(TEXT, hostile, W1_KEY)


@pytest.mark.parametrize("timestamp", [0, -1, 2**63])
def test_a_cosigner_s_time_is_a_time(timestamp):
    """0 would say that the size was never checked."""
    with pytest.raises(note.NoteError):
        checkpoint.cosign(TEXT, "witness.example/w1", W1, timestamp)


def test_only_a_checkpoint_is_cosigned():
    """A witness's key signs no other text."""
    with pytest.raises(note.NoteError):
        checkpoint.cosign("hello\n", "witness.example/w1", W1, 5)


def test_the_latest_of_a_cosigner_s_lines_counts_and_none_may_be_bad():
    """Cosigned twice: one cosignature with the later time; a bad line of a known cosigner refuses all."""
    lines = [checkpoint.cosign(TEXT, "witness.example/w1", W1, time).encode() for time in (9, 7)]
    signed = note.parse(SIGNED + b"".join(lines))
    assert checkpoint.cosignatures(signed, [W1_KEY, W1_KEY, W2_KEY]) == [
        checkpoint.Cosignature(key=W1_KEY, timestamp=9)
    ]
    bad = note.Signature(W1_KEY.name, W1_KEY.key_id, bytes(72)).line().encode()
    assert checkpoint.cosignatures(note.parse(SIGNED + bad), [W2_KEY]) == []
    with pytest.raises(note.SignatureError):
        checkpoint.cosignatures(note.parse(SIGNED + lines[0] + bad), [W1_KEY])


def test_a_witness_s_answer_can_t_smuggle_text_into_the_note():
    """Only signature lines are appended."""
    line = checkpoint.cosign(TEXT, "witness.example/w1", W1, 5).encode()
    for answer in (b"", b"\n" + line, line + b"\n" + line, line[:-1], b"hello\n"):
        with pytest.raises(note.NoteError):
            checkpoint.add_signatures(SIGNED, answer)


HASH = note.encode_base64(bytes(32)).encode()


def test_a_request_from_nothing_has_no_proof():
    """`old 0` and an empty proof, and 63 hashes at most."""
    first = checkpoint.AddCheckpoint(0, (), SIGNED)
    assert first.encode() == b"old 0\n\n" + SIGNED
    assert checkpoint.AddCheckpoint.parse(first.encode()) == first
    longest = b"old 1\n" + (HASH + b"\n") * 63 + b"\n" + SIGNED
    assert len(checkpoint.AddCheckpoint.parse(longest).proof) == 63


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"old 3",
        b"old 3\n",
        b"\n\n" + SIGNED,
        SIGNED,
        b"old 3\n" + SIGNED,
        b"old\n\n" + SIGNED,
        b"old \n\n" + SIGNED,
        b"old 03\n\n" + SIGNED,
        b"old +3\n\n" + SIGNED,
        b"old 3_0\n\n" + SIGNED,
        "old ٣\n\n".encode() + SIGNED,
        b"old  3\n\n" + SIGNED,
        b"Old 3\n\n" + SIGNED,
        b"size 3\n\n" + SIGNED,
        b"old 3\r\n\r\n" + SIGNED,
        b"old 3\n" + HASH[:-1] + b"\n\n" + SIGNED,
        b"old 3\n" + HASH + b" \n\n" + SIGNED,
        b"old 3\n" + HASH[:-2] + b"B=\n\n" + SIGNED,
        b"old 3\nAAAA\n\n" + SIGNED,
        b"old 3\n" + (HASH + b"\n") * 64 + b"\n" + SIGNED,
        b"old 3\n\n",
        b"old 3\n\n\n" + SIGNED,
        b"old 3\n\n" + TEXT.encode(),
        b"old 3\n\n" + SIGNED + b"\n",
        b"old 3\n\nhello\n\n" + SIGNED.split(b"\n\n")[1],
        b"old 3\n\n" + b"x" * checkpoint.MAX_REQUEST_BYTES + SIGNED,
    ],
    ids=lambda data: repr(data[:16]),
)
def test_a_request_written_wrongly_is_refused(data):
    """What a witness answers 400 to: NoteError, and no SignatureError."""
    with pytest.raises(note.NoteError) as refusal:
        checkpoint.AddCheckpoint.parse(data)
    assert not isinstance(refusal.value, note.SignatureError)


@given(st.binary(max_size=100), st.data())
@settings(deadline=None, max_examples=300)
def test_a_hostile_request_is_canonical_or_an_error(junk, data):
    """Random bytes, and the golden request with bytes replaced."""
    start = data.draw(st.integers(0, len(REQUEST)))
    end = data.draw(st.integers(start, min(len(REQUEST), start + 8)))
    for hostile in (junk, REQUEST[:start] + junk[:6] + REQUEST[end:], b"old 3\n" + junk + b"\n\n" + SIGNED):
        try:
            request = checkpoint.AddCheckpoint.parse(hostile)
        except note.NoteError:
            continue
        assert request.encode() == hostile
