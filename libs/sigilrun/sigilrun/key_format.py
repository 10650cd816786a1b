"""The key file, format `sigil-key/1`: one JSON object in which nothing can be changed or swapped unnoticed.

Argon2id turns the passphrase into 64 bytes: the first half encrypts keys (the KEK), the second is the
check value, stored in the file. Secrets are 32 bytes under AES-256-GCM, and the associated data is the
canonical bytes of every other field. What each check finds, in this order, so that the first true reason
is always the same:

1. not canonical JSON ........................................ DamagedKey; TruncatedKey if its end is missing
2. another format, or another version of this one ............ UnknownFormat
3. a field missing, strange or misshapen; or `sha256`,
   over all the other fields, differs ........................ DamagedKey, told without a passphrase
4. the derivation is outside its bounds ...................... UnsafeKdf, before a byte of memory is taken
5. the check value differs ................................... WrongPassphrase
6. decryption fails .......................................... AlteredKey, a DamagedKey

`sha256` is against accidents: who changes a file on purpose can compute it anew. Changing a salt or a
cost on purpose then reads as a wrong passphrase, since the file has become one that another passphrase
would open; changing anything else fails at step 6. Without the passphrase nothing in a file is proven,
not even its public key.

What we can't promise: Python copies bytes as it likes, the passphrase is an immutable object that lives
until it is collected, and freed memory is not cleared. We decrypt each secret just before its use into
one buffer and overwrite that buffer after it. The KEK stays in memory as long as its keystore or signer
is in use. Core dumps and swap belong to the operator.
"""

import contextlib
import functools
import hmac
import os
from collections.abc import Iterator
from typing import Annotated, Final, Literal, NoReturn, TypeVar

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from sigilcore import canonical, digest
from sigilcore.record_types import Hex32, Hex64
from sigilrun import key_faults

KEY_FORMAT: Final = "sigil-key/1"
KEYSTORE_FORMAT: Final = "sigil-keystore/1"
MAX_FILE_BYTES: Final = 4096
SECRET_BYTES: Final = 32
NONCE_BYTES: Final = 12
_SALT_BYTES: Final = 16
_KEK_BYTES: Final = 32

Algorithm = Literal["ed25519", "aes-256-gcm"]
Hex24 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{24}\Z")]
Hex96 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{96}\Z")]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Name = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._@-]{0,63}\Z")]


class Cost(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one guess at a passphrase costs: memory in KiB, passes over it, lanes side by side."""

    memory_kib: int
    iterations: int
    lanes: int


# RFC 9106, section 4, second recommended choice: 64 MiB, 3 passes, 4 lanes.
DEFAULT: Final = Cost(memory_kib=65_536, iterations=3, lanes=4)
# Below the cheapest a downgraded file is easy to guess; above the dearest a forged one eats the machine.
CHEAPEST: Final = Cost(memory_kib=19_456, iterations=2, lanes=1)
DEAREST: Final = Cost(memory_kib=1_048_576, iterations=10, lanes=8)


class Kdf(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a passphrase becomes a KEK."""

    name: Literal["argon2id"]
    memory_kib: Count
    iterations: Count
    lanes: Count
    salt: Hex32


class KeyDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One sealed key; `public_key` is null for a symmetric one."""

    format: Literal["sigil-key/1"]
    name: Name
    algorithm: Algorithm
    public_key: Hex64 | None
    kdf: Kdf
    check: Hex64
    cipher: Literal["aes-256-gcm"]
    nonce: Hex24
    ciphertext: Hex96
    sha256: Hex64


class KeystoreDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all keys of a folder share, so that one derivation opens them all."""

    format: Literal["sigil-keystore/1"]
    kdf: Kdf
    check: Hex64
    sha256: Hex64


_Document = TypeVar("_Document", KeyDocument, KeystoreDocument)


class Kek:
    """A key-encryption key and its check value; it shows itself to nobody and can't be pickled."""

    __slots__ = ("_key", "check")

    def __init__(self, key: bytearray, check: str) -> None:
        """Takes the buffer over; `wipe` overwrites it."""
        self._key = key
        self.check = check

    def cipher(self) -> AESGCM:
        """The cipher under this key. Raises KeystoreClosed after `wipe`."""
        if not self._key:
            raise key_faults.KeystoreClosed("The keystore is closed.")
        return AESGCM(self._key)

    def wipe(self) -> None:
        """Overwrite the key; copies inside the crypto library go when it frees them."""
        overwrite(self._key)
        self._key = bytearray()

    def __repr__(self) -> str:
        return "<Kek>"

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError("a key-encryption key is never pickled or copied")


def new_kdf(cost: Cost) -> Kdf:
    """A derivation with a fresh salt. Raises UnsafeKdf for a cost out of bounds."""
    kdf = Kdf(
        name="argon2id",
        memory_kib=cost.memory_kib,
        iterations=cost.iterations,
        lanes=cost.lanes,
        salt=os.urandom(_SALT_BYTES).hex(),
    )
    check_cost(kdf, "The asked derivation")
    return kdf


def check_cost(kdf: Kdf, where: str) -> None:
    """Refuse a derivation that is too cheap or too dear."""
    for field in Cost.__struct_fields__:
        value, low, high = getattr(kdf, field), getattr(CHEAPEST, field), getattr(DEAREST, field)
        if not low <= value <= high:
            raise key_faults.UnsafeKdf(f"{where} has {field} {value}, outside {low} to {high}.")


def derive(passphrase: bytes, kdf: Kdf) -> Kek:
    """The KEK of a passphrase; takes the memory and time that `kdf` asks for."""
    if not passphrase:
        raise key_faults.EmptyPassphrase("The passphrase is empty.")
    derived = bytearray(2 * _KEK_BYTES)
    Argon2id(
        salt=bytes.fromhex(kdf.salt),
        length=len(derived),
        iterations=kdf.iterations,
        lanes=kdf.lanes,
        memory_cost=kdf.memory_kib,
    ).derive_into(passphrase, derived)
    kek = Kek(derived[:_KEK_BYTES], derived[_KEK_BYTES:].hex())
    overwrite(derived)
    return kek


def unlock(passphrase: bytes, document: KeyDocument | KeystoreDocument, where: str) -> Kek:
    """The KEK that opens this document. Raises WrongPassphrase."""
    kek = derive(passphrase, document.kdf)
    if not hmac.compare_digest(kek.check, document.check):
        kek.wipe()
        raise key_faults.WrongPassphrase(f"The passphrase does not open {where}.")
    return kek


def seal(
    kek: Kek, kdf: Kdf, name: str, algorithm: Algorithm, public_key: bytes | None, *, secret: bytes
) -> KeyDocument:
    """Encrypt a secret of 32 bytes. Raises BadName."""
    check_name(name)
    draft = KeyDocument(
        format=KEY_FORMAT,
        name=name,
        algorithm=algorithm,
        public_key=None if public_key is None else public_key.hex(),
        kdf=kdf,
        check=kek.check,
        cipher="aes-256-gcm",
        nonce=os.urandom(NONCE_BYTES).hex(),
        ciphertext="",
        sha256="",
    )
    sealed = kek.cipher().encrypt(bytes.fromhex(draft.nonce), secret, _without(draft, "ciphertext", "sha256"))
    return _with_sum(msgspec.structs.replace(draft, ciphertext=sealed.hex()))


@contextlib.contextmanager
def unsealed(kek: Kek, document: KeyDocument, where: str) -> Iterator[bytearray]:
    """The secret, in a buffer that is overwritten when the block ends. Raises DamagedKey."""
    secret = bytearray(SECRET_BYTES)
    try:
        nonce, ciphertext, associated = _sealed(document)
        try:
            kek.cipher().decrypt_into(nonce, ciphertext, associated, secret)
        except InvalidTag:
            raise key_faults.AlteredKey(f"{where} does not decrypt: it has been changed.") from None
        yield secret
    finally:
        overwrite(secret)


@functools.lru_cache(maxsize=256)
def _sealed(document: KeyDocument) -> tuple[bytes, bytes, bytes]:
    """Nonce, ciphertext and associated data: nothing secret, and wanted for each signature."""
    return (
        bytes.fromhex(document.nonce),
        bytes.fromhex(document.ciphertext),
        _without(document, "ciphertext", "sha256"),
    )


def keystore_document(kdf: Kdf, kek: Kek) -> KeystoreDocument:
    """The document that begins a keystore."""
    return _with_sum(KeystoreDocument(format=KEYSTORE_FORMAT, kdf=kdf, check=kek.check, sha256=""))


def parse_key(data: bytes | None, where: str) -> KeyDocument:
    """Steps 1 to 4 of the module's list for a key; None stands for a file that is too long."""
    return _parse(data, KeyDocument, KEY_FORMAT, where)


def parse_keystore(data: bytes | None, where: str) -> KeystoreDocument:
    """Steps 1 to 4 of the module's list for a keystore."""
    return _parse(data, KeystoreDocument, KEYSTORE_FORMAT, where)


def to_bytes(document: KeyDocument | KeystoreDocument) -> bytes:
    """The file's content: canonical JSON and a newline."""
    return canonical.of(document) + b"\n"


def check_name(name: str) -> None:
    """Refuse a name that could leave its folder or hide in it."""
    try:
        msgspec.convert(name, Name)
    except msgspec.ValidationError:
        raise key_faults.BadName(f"{name[:80]!r} can't name a key.") from None


def overwrite(buffer: bytearray) -> None:
    """Zero a buffer in place."""
    buffer[:] = bytes(len(buffer))


def _parse(data: bytes | None, kind: type[_Document], known: str, where: str) -> _Document:
    if data is None:
        raise key_faults.DamagedKey(f"{where} is longer than {MAX_FILE_BYTES} bytes.")
    try:
        plain = canonical.decode(data.removesuffix(b"\n"), max_bytes=MAX_FILE_BYTES)
    except canonical.NotCanonical as error:
        if not data.rstrip().endswith(b"}") or data.count(b"{") > data.count(b"}"):
            raise key_faults.TruncatedKey(f"{where} breaks off after {len(data)} bytes.") from None
        raise key_faults.DamagedKey(f"{where} is not canonical JSON: {error}.") from None
    found = plain.get("format") if isinstance(plain, dict) else None
    if isinstance(found, str) and found != known:
        raise key_faults.UnknownFormat(f"{where} has format {found[:40]!r}, not {known!r}.")
    try:
        document = msgspec.convert(plain, kind)
    except msgspec.ValidationError as error:
        raise key_faults.DamagedKey(f"{where} is misshapen: {error}.") from None
    if document.sha256 != _sum(document):
        raise key_faults.DamagedKey(f"{where} does not match its checksum.")
    check_cost(document.kdf, where)
    return document


def _with_sum(document: _Document) -> _Document:
    return msgspec.structs.replace(document, sha256=_sum(document))


def _sum(document: KeyDocument | KeystoreDocument) -> str:
    return digest.sha256_hex(_without(document, "sha256"))


def _without(document: KeyDocument | KeystoreDocument, *fields: str) -> bytes:
    plain = msgspec.to_builtins(document)
    return canonical.encode({name: value for name, value in plain.items() if name not in fields})
