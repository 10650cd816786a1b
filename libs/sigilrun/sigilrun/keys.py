"""Keys at rest: keystores for services, key files for people, and the signers that use them.

Decides who may use a key file: whoever can read it as its owner and knows its passphrase. Owns this layout:

    keystore/               0700
        keystore.json       0600  format, derivation, check value
        license.json        0600  one `sigil-key/1` document a key, under the keystore's derivation
        payload.json        0600

A keystore has one salt, so its key-encryption key is derived once for all keys. `write_key_file` makes a
file with a salt of its own, for one person. Both are the same format, so a key copied out of a keystore
opens by itself.

Refuses, each by its own class (`key_faults`): files others can reach, wrong or empty passphrases, damage,
swapped or renamed files, derivations out of bounds, overwriting. What is promised about memory, and what
is not, stands in `key_format`.

Example:

    store = keys.Keystore.create(folder, keys.passphrase_from("file:/run/sigil/passphrase"))
    store.generate("license")
    signer = store.signer("license")
"""

import errno
import getpass
import hashlib
import hmac
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn

import _cffi_backend  # cffi itself would bring a parser of C
import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from nacl.bindings import crypto_sign, crypto_sign_BYTES

from sigilcore import signing
from sigilrun import key_format, private_files
from sigilrun.key_faults import (
    AlteredKey,
    BadName,
    DamagedKey,
    EmptyPassphrase,
    KeyExists,
    KeyMissing,
    KeystoreClosed,
    KeystoreError,
    NoSpace,
    NotRegularFile,
    PassphraseMismatch,
    PassphraseTooLong,
    SealBroken,
    TruncatedKey,
    UnknownFormat,
    UnknownSource,
    UnsafeKdf,
    UnsafeKey,
    WrongKeyKind,
    WrongPassphrase,
    WrongPermissions,
)
from sigilrun.key_format import DEFAULT, Cost

__all__ = [
    "DEFAULT",
    "AeadKey",
    "AlteredKey",
    "BadName",
    "Cost",
    "DamagedKey",
    "EmptyPassphrase",
    "KeyExists",
    "KeyInfo",
    "KeyMissing",
    "Keystore",
    "KeystoreClosed",
    "KeystoreError",
    "NoSpace",
    "NotRegularFile",
    "PassphraseMismatch",
    "PassphraseTooLong",
    "RoleSigner",
    "SealBroken",
    "SealedSigner",
    "TruncatedKey",
    "UnknownFormat",
    "UnknownSource",
    "UnsafeKdf",
    "UnsafeKey",
    "WrongKeyKind",
    "WrongPassphrase",
    "WrongPermissions",
    "open_key_file",
    "passphrase_from",
    "read_public",
    "rewrite_key_file",
    "signer_from",
    "write_key_file",
]

MAX_PASSPHRASE_BYTES: Final = 1024
_KEYSTORE_FILE: Final = "keystore.json"
_FFI: Final = _cffi_backend.FFI()
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class KeyInfo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a key file says of itself to anyone; nothing here is proven until the passphrase opens it."""

    name: str
    algorithm: key_format.Algorithm
    public_key: bytes | None
    key_id: str | None


class _Sealed:
    """A key that stays encrypted between uses; shows its name only and can't be pickled or copied."""

    __slots__ = ("_document", "_kek", "_where")

    def __init__(self, document: key_format.KeyDocument, kek: key_format.Kek, where: str) -> None:
        self._document = document
        self._kek = kek
        self._where = where

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._document.name}>"

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError("a key is never pickled or copied; open it where it is used")


class SealedSigner(_Sealed):
    """A `signing.Signer` that decrypts its seed for each signature and overwrites it after.

    PyNaCl's signing key would want immutable bytes, which nobody can overwrite; libsodium itself takes the two halves, seed and public
    key, from a buffer of ours. So the public key isn't computed anew each time either, which costs as much as the signature.
    """

    __slots__ = ("_public",)

    def __init__(self, document: key_format.KeyDocument, kek: key_format.Kek, where: str) -> None:
        """Decrypts once, so that a damaged key is found now. Raises WrongKeyKind, DamagedKey."""
        super().__init__(document, kek, where)
        self._public = _public_key(document, where)
        with key_format.unsealed(kek, document, where) as seed:
            made = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
        if made != self._public:
            raise AlteredKey(f"{where} holds the seed of another public key.")

    @property
    def public_key(self) -> bytes:
        """The raw public key, 32 bytes."""
        return self._public

    @property
    def key_id(self) -> str:
        """The public key's id."""
        return signing.key_id(self._public)

    def sign(self, message: bytes) -> bytes:
        """The signature, 64 bytes. Raises KeystoreClosed."""
        with key_format.unsealed(self._kek, self._document, self._where) as seed:
            halves = seed + self._public
            try:
                return crypto_sign(message, _FFI.from_buffer(halves))[:crypto_sign_BYTES]
            finally:
                key_format.overwrite(halves)


class AeadKey(_Sealed):
    """A symmetric key that wraps data keys: AES-256-GCM with a random nonce, good for 2**32 wrappings."""

    __slots__ = ("_key_id",)

    def __init__(self, document: key_format.KeyDocument, kek: key_format.Kek, where: str) -> None:
        """Decrypts once, so that a damaged key is found now. Raises WrongKeyKind, DamagedKey."""
        super().__init__(document, kek, where)
        if document.algorithm != "aes-256-gcm":
            raise WrongKeyKind(f"{where} is a signing key.")
        with key_format.unsealed(kek, document, where) as key:
            self._key_id = hmac.digest(key, b"sigil aead key id", hashlib.sha256)[:16].hex()

    @property
    def key_id(self) -> str:
        """Names the key beside what it sealed, and tells nothing of it."""
        return self._key_id

    def seal(self, plaintext: bytes, associated: bytes) -> bytes:
        """Nonce and ciphertext; the same `associated` bytes open it again. Raises KeystoreClosed."""
        nonce = os.urandom(key_format.NONCE_BYTES)
        with key_format.unsealed(self._kek, self._document, self._where) as key:
            return nonce + AESGCM(key).encrypt(nonce, plaintext, associated)

    def unseal(self, sealed: bytes, associated: bytes) -> bytes:
        """The plaintext. Raises SealBroken, KeystoreClosed."""
        nonce, ciphertext = sealed[: key_format.NONCE_BYTES], sealed[key_format.NONCE_BYTES :]
        with key_format.unsealed(self._kek, self._document, self._where) as key:
            try:
                return AESGCM(key).decrypt(nonce, ciphertext, associated)
            except (InvalidTag, ValueError):  # ValueError: the nonce is cut short
                raise SealBroken(f"The sealed bytes do not open under {self._document.name!r}.") from None


class Keystore:
    """A service's keys in one folder; open it once at start, close it at the end."""

    __slots__ = ("_folder", "_kdf", "_kek")

    def __init__(self, folder: Path, kdf: key_format.Kdf, kek: key_format.Kek) -> None:
        """Use `create` or `open`."""
        self._folder = folder
        self._kdf = kdf
        self._kek = kek

    @classmethod
    def create(cls, folder: Path, passphrase: bytes, *, kdf: Cost = DEFAULT) -> "Keystore":
        """Begin a keystore in a new or private folder. Raises KeyExists, UnsafeKdf, EmptyPassphrase."""
        parameters = key_format.new_kdf(kdf)
        kek = key_format.derive(passphrase, parameters)
        try:
            private_files.make_folder(folder)
        except FileNotFoundError:
            raise KeyMissing(f"The folder above {folder} does not exist.") from None
        _write(folder / _KEYSTORE_FILE, key_format.keystore_document(parameters, kek))
        return cls(folder, parameters, kek)

    @classmethod
    def open(cls, folder: Path, passphrase: bytes) -> "Keystore":
        """Open a keystore. Raises faults 1 to 5 of `key_format`'s list, KeyMissing, WrongPermissions."""
        path = folder / _KEYSTORE_FILE
        _check_folder(folder)
        document = key_format.parse_keystore(_read(path), str(path))
        return cls(folder, document.kdf, key_format.unlock(passphrase, document, str(path)))

    def names(self) -> list[str]:
        """The names of all keys, sorted."""
        _check_folder(self._folder)
        return sorted(path.stem for path in self._folder.glob("[!.]*.json") if path.name != _KEYSTORE_FILE)

    def generate(self, name: str) -> bytes:
        """Make a signing key and return its public key. Raises KeyExists, BadName."""
        seed = os.urandom(key_format.SECRET_BYTES)
        public = _public_of(seed)
        self._add(name, "ed25519", public, seed)
        return public

    def generate_aead(self, name: str) -> None:
        """Make a symmetric key for `aead_key`. Raises KeyExists, BadName."""
        self._add(name, "aes-256-gcm", None, AESGCM.generate_key(256))

    def public(self, name: str) -> bytes:
        """The public key of a signing key, proven by decrypting it. Raises as `signer`."""
        return self.signer(name).public_key

    def signer(self, name: str) -> SealedSigner:
        """A signer for the named key. Raises KeyMissing, WrongKeyKind, WrongPermissions, DamagedKey."""
        return SealedSigner(*self._load(name))

    def aead_key(self, name: str) -> AeadKey:
        """The named symmetric key. Raises as `signer`."""
        return AeadKey(*self._load(name))

    def generations(self, name: str) -> list[str]:
        """The names of a role's keys, oldest first: `license`, then `license.2`, `license.3`, which rotations put beside it."""
        later = [other for other in self.names() if re.fullmatch(rf"{re.escape(name)}\.[1-9][0-9]{{0,3}}", other)]
        return [name, *sorted(later, key=lambda other: int(other.rpartition(".")[2]))]

    def successor(self, name: str, known: Callable[[bytes], bool]) -> bytes:
        """The public key for a rotation of this role: its newest key, if nobody knows that yet, else one made now.

        So an attempt that came to nothing leaves no key behind that nobody will ever name, and no key is overwritten.
        """
        newest = self.generations(name)[-1]
        public = self.public(newest)
        if not known(public):
            return public
        number = 2 if newest == name else int(newest.rpartition(".")[2]) + 1
        return self.generate(f"{name}.{number}")

    def close(self) -> None:
        """Overwrite the key-encryption key; every signer made from this keystore stops working."""
        self._kek.wipe()

    def __repr__(self) -> str:
        return f"<Keystore {self._folder}>"

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError("a keystore is never pickled or copied; open it where it is used")

    def _path(self, name: str) -> Path:
        key_format.check_name(name)
        path = self._folder / f"{name}.json"
        if path.name == _KEYSTORE_FILE:
            raise BadName("A key can't have the name of the keystore's own file.")
        return path

    def _add(self, name: str, algorithm: key_format.Algorithm, public: bytes | None, secret: bytes) -> None:
        path = self._path(name)
        _check_folder(self._folder)
        _write(path, key_format.seal(self._kek, self._kdf, name, algorithm, public, secret=secret))

    def _load(self, name: str) -> tuple[key_format.KeyDocument, key_format.Kek, str]:
        path = self._path(name)
        _check_folder(self._folder)
        document = key_format.parse_key(_read(path), str(path))
        if document.name != name:
            raise DamagedKey(f"{path} holds the key {document.name!r}: files were swapped or renamed.")
        if document.kdf != self._kdf or not hmac.compare_digest(document.check, self._kek.check):
            raise DamagedKey(f"{path} belongs to another keystore.")
        return document, self._kek, str(path)


class RoleSigner:
    """A `signing.Signer` for a role whose key is rotated: it signs with that of the role's keys in the keystore which the log names now.

    `named` tells which: None before the log has named any, then it is the first; it raises when the log lets none speak. So a key that
    the log no longer names signs nothing here any more.
    """

    def __init__(self, keystore: Keystore, name: str, named: Callable[[], bytes | None]) -> None:
        """Nothing is decrypted before it is needed but the role's first key, so that a damaged keystore is found now."""
        self._keystore = keystore
        self._name = name
        self._named = named
        self._held: dict[bytes, SealedSigner] = {}
        self._first = keystore.signer(name)

    @property
    def public_key(self) -> bytes:
        """The raw public key, 32 bytes."""
        return self._now().public_key

    @property
    def key_id(self) -> str:
        """The public key's id."""
        return self._now().key_id

    def sign(self, message: bytes) -> bytes:
        """The signature, 64 bytes. Raises KeystoreClosed, KeyMissing."""
        return self._now().sign(message)

    def _now(self) -> SealedSigner:
        wanted = self._named()
        return self._first if wanted is None or wanted == self._first.public_key else self.of(wanted)

    def publics(self) -> tuple[bytes, ...]:
        """The public keys of all the role's generations that the keystore holds now."""
        return tuple(self._keystore.public(name) for name in self._keystore.generations(self._name))

    def of(self, public: bytes) -> SealedSigner:
        """The role's key with this public key. Raises KeyMissing when the keystore doesn't hold it."""
        if public not in self._held:
            for name in reversed(self._keystore.generations(self._name)):
                signer = self._keystore.signer(name)
                self._held[signer.public_key] = signer
        if public not in self._held:
            raise KeyMissing(f"The keystore holds no key of {self._name} with the id {signing.key_id(public)}.")
        return self._held[public]


def write_key_file(
    path: Path, name: str, passphrase: bytes, seed: bytes | None = None, *, kdf: Cost = DEFAULT
) -> bytes:
    """Make a key file that stands alone and return its public key; without `seed` the key is new.

    Raises KeyExists, BadName, EmptyPassphrase, UnsafeKdf; ValueError for a seed that isn't 32 bytes.
    """
    key_format.check_name(name)
    if seed is not None and len(seed) != key_format.SECRET_BYTES:
        raise ValueError("an Ed25519 seed is 32 bytes")
    parameters = key_format.new_kdf(kdf)
    secret = os.urandom(key_format.SECRET_BYTES) if seed is None else seed
    public = _public_of(secret)
    kek = key_format.derive(passphrase, parameters)
    _write(path, key_format.seal(kek, parameters, name, "ed25519", public, secret=secret))
    kek.wipe()
    return public


def open_key_file(path: Path, passphrase: bytes) -> SealedSigner:
    """A signer for a key file. Raises every fault of `key_format`'s list, KeyMissing, WrongPermissions."""
    document = key_format.parse_key(_read(path), str(path))
    return SealedSigner(document, key_format.unlock(passphrase, document, str(path)), str(path))


def rewrite_key_file(path: Path, passphrase: bytes, out: Path, new_passphrase: bytes) -> bytes:
    """The same key in a new file under another passphrase and a fresh salt; its public key. The old file stays as it is.

    Raises as `open_key_file`, and as `write_key_file`.
    """
    document = key_format.parse_key(_read(path), str(path))
    public = _public_key(document, str(path))
    old = key_format.unlock(passphrase, document, str(path))
    parameters = key_format.new_kdf(DEFAULT)
    with key_format.unsealed(old, document, str(path)) as seed:
        if _public_of(bytes(seed)) != public:
            raise AlteredKey(f"{path} holds the seed of another public key.")
        kek = key_format.derive(new_passphrase, parameters)
        sealed = key_format.seal(kek, parameters, document.name, "ed25519", public, secret=bytes(seed))
    _write(out, sealed)
    old.wipe()
    kek.wipe()
    return public


def read_public(path: Path) -> KeyInfo:
    """What the file says of its key, without a passphrase and so without proof. Raises as `open_key_file`."""
    document = key_format.parse_key(_read(path), str(path))
    public = _public_key(document, str(path)) if document.algorithm == "ed25519" else None
    return KeyInfo(
        name=document.name,
        algorithm=document.algorithm,
        public_key=public,
        key_id=None if public is None else signing.key_id(public),
    )


def signer_from(uri: str, passphrase: bytes) -> signing.Signer:
    """The signer behind `file:PATH` or `file:FOLDER#NAME`; the path is taken as it is, not percent-decoded.

    Raises UnknownSource for every other scheme, by its name; otherwise as `open_key_file` and
    `Keystore.signer`.
    """
    scheme, colon, rest = uri.partition(":")
    if not colon or not re.fullmatch(r"[a-z][a-z0-9+.-]{0,15}", scheme):
        raise UnknownSource("A signer is named by a URI such as file:PATH.")
    if scheme != "file":
        raise UnknownSource(f"There is no signer behind {scheme}:.")
    if not rest:
        raise UnknownSource("file: names no path.")
    if "#" not in rest:
        return open_key_file(Path(rest), passphrase)
    folder, _, name = rest.rpartition("#")
    return Keystore.open(Path(folder), passphrase).signer(name)


def passphrase_from(source: str, *, confirm: bool = False) -> bytes:
    """The passphrase behind `file:PATH` (private), `fd:N` (read to its end and closed) or `prompt`.

    One trailing newline is taken off. It never comes from the command line or the environment, where other
    processes can read it. `confirm` makes the prompt ask twice, for a new passphrase.

    Raises EmptyPassphrase, PassphraseTooLong, PassphraseMismatch, WrongPermissions, UnknownSource.
    """
    if source.startswith("file:"):
        data = _passphrase_file(Path(source.removeprefix("file:")))
    elif re.fullmatch(r"fd:[0-9]{1,4}", source, re.ASCII):
        data = _passphrase_descriptor(int(source.removeprefix("fd:")))
    elif source == "prompt":
        data = _passphrase_prompt(confirm=confirm)
    else:
        # The text itself is not repeated: it may be the passphrase.
        raise UnknownSource("This is no passphrase source.")
    passphrase = None if data is None else data.removesuffix(b"\n")
    if passphrase is None or len(passphrase) > MAX_PASSPHRASE_BYTES:
        raise PassphraseTooLong(f"The passphrase has more than {MAX_PASSPHRASE_BYTES} bytes.")
    if not passphrase:
        raise EmptyPassphrase("The passphrase is empty.")
    return passphrase


def _passphrase_file(path: Path) -> bytes | None:
    try:
        return private_files.read(path, MAX_PASSPHRASE_BYTES + 1)
    except FileNotFoundError:
        raise EmptyPassphrase(f"There is no passphrase file {path}.") from None


def _passphrase_descriptor(number: int) -> bytes:
    try:
        with os.fdopen(number, "rb", closefd=number > 2) as file:
            return file.read(MAX_PASSPHRASE_BYTES + 2)
    except OSError as error:
        raise UnknownSource(f"Descriptor {number} can't be read: {error.strerror}.") from None


def _passphrase_prompt(*, confirm: bool) -> bytes:
    with warnings.catch_warnings():
        # Without a terminal getpass warns and then shows what is typed.
        warnings.simplefilter("error", getpass.GetPassWarning)
        try:
            typed = getpass.getpass("Passphrase: ")
            again = getpass.getpass("Again: ") if confirm else typed
        except (getpass.GetPassWarning, EOFError):
            raise UnknownSource("There is no terminal to ask for the passphrase.") from None
    if typed != again:
        raise PassphraseMismatch("The two passphrases differ.")
    return typed.encode()


def _public_of(seed: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


def _public_key(document: key_format.KeyDocument, where: str) -> bytes:
    if document.algorithm != "ed25519":
        raise WrongKeyKind(f"{where} is no signing key.")
    if document.public_key is None:
        raise DamagedKey(f"{where} has no public key.")
    public = bytes.fromhex(document.public_key)
    try:
        signing.check_public_key(public)
    except signing.WeakKey:
        raise UnsafeKey(f"{where} has a public key that is not a safe curve point.") from None
    return public


def _check_folder(folder: Path) -> None:
    try:
        private_files.check_folder(folder)
    except FileNotFoundError:
        raise KeyMissing(f"There is no keystore {folder}.") from None


def _read(path: Path) -> bytes | None:
    try:
        return private_files.read(path, key_format.MAX_FILE_BYTES)
    except FileNotFoundError:
        raise KeyMissing(f"There is no {path}.") from None


def _write(path: Path, document: key_format.KeyDocument | key_format.KeystoreDocument) -> None:
    try:
        private_files.write_new(path, key_format.to_bytes(document))
    except FileExistsError:
        raise KeyExists(f"{path} is there already.") from None
    except FileNotFoundError:
        raise KeyMissing(f"The folder of {path} does not exist.") from None
    except OSError as error:
        if error.errno in _FULL:
            raise NoSpace(f"{path} can't be written: {error.strerror}.") from None
        raise
