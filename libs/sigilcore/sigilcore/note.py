"""Signed notes (C2SP signed-note v1.0.0): a text, an empty line, and lines that sign the text.

Decides: which bytes are a note, which are a verifier key, and whether known keys signed the note.

Invariants:

1. The text is valid UTF-8 without control characters but LF, ends in LF, and is signed with that LF.
2. Text and signatures part at the last empty line, so a text may hold empty lines, a signature block may not.
3. One value has one spelling: what parses, encodes to the same bytes. Numbers are ASCII decimal without
   leading zeros, base64 is RFC 4648 section 4 with its padding and no stray bits.
4. A signature by an unknown (name, key ID) is ignored; one by a known pair that doesn't verify refuses the
   note; a note that no known key signed is refused.

Two kinds of key are known: `ED25519` signs the text; `COSIGNATURE` (tlog-cosignature v1) signs the text with
a time before it. Others count as unknown.

    key = note.VerifierKey.parse("example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k")
    assert note.verify(note.parse(data), [key]) == [key]
"""

import binascii
import functools
import hashlib
import re
from collections.abc import Iterable
from typing import Self

import msgspec

from sigilcore import signing

ED25519 = 0x01
COSIGNATURE = 0x04

MAX_NOTE_BYTES = 1 << 20  # a checkpoint with a hundred cosignatures is below 20 KiB
MAX_SIGNATURES = 100  # the specification asks for at least 16; each known one costs a verification
MAX_DECIMAL = 2**63 - 1

_MARK = "\u2014 "
_CONTROL = re.compile("[\x00-\x09\x0b-\x1f]")
_DECIMAL = re.compile("0|[1-9][0-9]{0,18}")
_KEY_ID = re.compile("[0-9a-f]{8}")


class NoteError(ValueError):
    """These bytes aren't what they are said to be."""


class SignatureError(NoteError):
    """The note can be read, but the keys given don't vouch for it."""


def parse_decimal(text: str) -> int:
    """A whole number from 0 to 2^63 - 1 in its only spelling; raises `NoteError`."""
    if not _DECIMAL.fullmatch(text) or int(text) > MAX_DECIMAL:
        raise NoteError(f"not a decimal number: {text[:40]!r}")
    return int(text)


def encode_base64(data: bytes) -> str:
    """Standard base64 with padding."""
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def parse_base64(text: str) -> bytes:
    """The bytes of standard base64 in its only spelling; raises `NoteError`."""
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError):
        raise NoteError(f"not base64: {text[:40]!r}") from None
    if encode_base64(data) != text:
        raise NoteError(f"base64 with stray bits: {text[:40]!r}")
    return data


def parse_hash(text: str) -> bytes:
    """A SHA-256 hash in base64; raises `NoteError`."""
    data = parse_base64(text)
    if len(data) != 32:
        raise NoteError(f"a hash is 32 bytes, not {len(data)}")
    return data


def check_text(text: str) -> None:
    """Raises `NoteError` unless this can be the text of a note."""
    if not text.endswith("\n"):
        raise NoteError("the text doesn't end in a line feed")
    if _CONTROL.search(text):
        raise NoteError("the text has a control character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise NoteError("the text can't be written as UTF-8") from None


@functools.lru_cache(maxsize=64)  # few logs and cosigners are spoken of, and each checkpoint names them several times
def check_name(name: str) -> None:
    """Raises `NoteError` unless this can name a key: non-empty, no Unicode space, no plus."""
    if not name or "+" in name or any(char.isspace() for char in name):
        raise NoteError(f"not a key name: {name[:80]!r}")
    check_text(name + "\n")


@functools.lru_cache(maxsize=64)
def key_hash(name: str, key_type: int, public_key: bytes) -> int:
    """The key ID: the first four bytes, big-endian, of SHA-256(name || LF || type || public key)."""
    digest = hashlib.sha256(name.encode() + b"\n" + bytes([key_type]) + public_key).digest()
    return int.from_bytes(digest[:4])


class VerifierKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A public key under a name. Raises `NoteError` when its parts don't belong together."""

    name: str
    key_id: int
    type: int
    public_key: bytes

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.type not in {ED25519, COSIGNATURE}:
            raise NoteError(f"unsupported key type {self.type:#04x}")
        if len(self.public_key) != 32:
            raise NoteError(f"an Ed25519 key is 32 bytes, not {len(self.public_key)}")
        if self.key_id != key_hash(self.name, self.type, self.public_key):
            raise NoteError("the key ID isn't the hash of name, type and key")

    @classmethod
    def of(cls, name: str, key_type: int, public_key: bytes) -> Self:
        """The verifier key with its ID computed."""
        check_name(name)
        return cls(name, key_hash(name, key_type, public_key), key_type, public_key)

    @classmethod
    def parse(cls, vkey: str) -> Self:
        """Read `name+hex8+base64(type || key)`."""
        parts = vkey.split("+", 2)
        if len(parts) != 3:
            raise NoteError("a verifier key is name+id+key")
        name, key_id, key = parts
        if not _KEY_ID.fullmatch(key_id):
            raise NoteError("a key ID is eight lower-case hex digits")
        data = parse_base64(key)
        if not data:
            raise NoteError("a verifier key has a type")
        return cls(name, int(key_id, 16), data[0], data[1:])

    def format(self) -> str:
        """The text that `parse` reads."""
        return f"{self.name}+{self.key_id:08x}+{encode_base64(bytes([self.type]) + self.public_key)}"

    def verifies(self, text: str, value: bytes) -> bool:
        """Whether `value`, the signature without its key ID, is this key's signature of the text."""
        if self.type == ED25519:
            return len(value) == 64 and signing.verify(self.public_key, text.encode(), value)
        if len(value) != 72 or int.from_bytes(value[:8]) > MAX_DECIMAL:
            return False
        message = cosignature_message(text, int.from_bytes(value[:8]))
        return signing.verify(self.public_key, message, value[8:])


class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One signature line. What `value` holds depends on the key's type; the line doesn't tell it."""

    name: str
    key_id: int
    value: bytes

    def line(self) -> str:
        """The line with its line feed."""
        return f"{_MARK}{self.name} {encode_base64(self.key_id.to_bytes(4) + self.value)}\n"


class Note(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A text and its signatures, none of them verified."""

    text: str
    signatures: tuple[Signature, ...]

    def encode(self) -> bytes:
        """The note's bytes."""
        return (self.text + "\n" + "".join(signature.line() for signature in self.signatures)).encode()


def parse(data: bytes) -> Note:
    """Read a note and believe nothing of it; raises `NoteError`."""
    if len(data) > MAX_NOTE_BYTES:
        raise NoteError(f"a note has at most {MAX_NOTE_BYTES} bytes")
    text, gap, lines = _decode(data).rpartition("\n\n")
    if not gap:
        raise NoteError("no empty line before the signatures")
    text += "\n"
    check_text(text)
    return Note(text, _parse_lines(lines))


def parse_signatures(data: bytes) -> tuple[Signature, ...]:
    """Read signature lines alone, as a witness answers them; raises `NoteError`."""
    if len(data) > MAX_NOTE_BYTES:
        raise NoteError(f"signatures have at most {MAX_NOTE_BYTES} bytes")
    return _parse_lines(_decode(data))


def sign(text: str, name: str, signer: signing.Signer) -> str:
    """The Ed25519 signature line, with its line feed, for this text under this name."""
    check_text(text)
    key = VerifierKey.of(name, ED25519, signer.public_key)
    return Signature(name, key.key_id, signer.sign(text.encode())).line()


def cosignature_message(text: str, timestamp: int) -> bytes:
    """The bytes that a cosigner signs at that time, in POSIX seconds, for a checkpoint's text."""
    return f"cosignature/v1\ntime {timestamp}\n{text}".encode()


def verify(note: Note, keys: Iterable[VerifierKey]) -> list[VerifierKey]:
    """The keys among these that signed the note, each once, in the order of the note's lines.

    Raises `SignatureError` when a known key's signature is bad, or when no known key signed.
    """
    known: dict[tuple[str, int], VerifierKey] = {}
    for key in keys:
        if known.setdefault((key.name, key.key_id), key) != key:
            raise SignatureError(f"two keys share the name {key.name} and the ID {key.key_id:08x}")
    verified: list[VerifierKey] = []
    for signature in note.signatures:
        signed_by = known.get((signature.name, signature.key_id))
        if signed_by is None:
            continue
        if not signed_by.verifies(note.text, signature.value):
            raise SignatureError(f"bad signature by {signature.name}")
        if signed_by not in verified:
            verified.append(signed_by)
    if not verified:
        raise SignatureError("no signature by a known key")
    return verified


def _decode(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise NoteError("not UTF-8") from None


def _parse_lines(text: str) -> tuple[Signature, ...]:
    if not text.endswith("\n"):
        raise NoteError("the signatures don't end in a line feed")
    lines = text[:-1].split("\n", MAX_SIGNATURES)
    if len(lines) > MAX_SIGNATURES:
        raise NoteError(f"more than {MAX_SIGNATURES} signatures")
    return tuple(_parse_line(line) for line in lines)


def _parse_line(line: str) -> Signature:
    if not line.startswith(_MARK):
        raise NoteError("a signature line begins with an em dash and a space")
    name, _, blob = line.removeprefix(_MARK).partition(" ")
    check_name(name)
    data = parse_base64(blob)
    if len(data) < 5:
        raise NoteError("a signature has a key ID and at least one byte more")
    return Signature(name, int.from_bytes(data[:4]), data[4:])
