"""Payloads and salts, sealed before they reach the database: each thing's under a data key of its own, so that its end is theirs.

Invariants:

- what is stored of a payload is nonce || AES-256-GCM(salt || payload), with the record's hash as associated data: moved to another
  record, or changed, it doesn't open;
- versions of a thing share a data key from one erasure to the next. Everything else (`audit`, `system`, the erasures themselves) is
  sealed by a key of its space and day, which the database never lets go;
- data keys are stored wrapped by the keystore's `payload` key, bound to tenant, number and purpose. Their numbers are random: nothing hangs
  on what was counted before, should a database be set back;
- in memory there is a bounded number of opened keys. An erasable one is used for reading only when the database has just shown that it is
  still there, so who reads doesn't read on after an erasure.
"""

import functools
import os
import secrets
from collections import OrderedDict
from collections.abc import Collection, Hashable, Sequence
from typing import Generic, Protocol, TypeVar

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from services.canon_writer.laws import Row, erases
from sigilcore import clock, digest
from sigilrun import key_faults

NONCE_BYTES = 12
TAG_BYTES = 16
NUMBER_BITS = 62
OVERHEAD_BYTES = NONCE_BYTES + digest.SALT_BYTES + TAG_BYTES  # `queries.sql` knows this number
OPENED = 20_000  # keys in memory, of about 300 bytes
_DAY_MS = 24 * 60 * 60 * 1000
_DAMAGED = (bytes(digest.SALT_BYTES), b"null")  # agrees with no payload hash, so whoever checks it says corrupt

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Wrapping(Protocol):
    """What wraps data keys; `sigilrun.keys.AeadKey`."""

    def seal(self, plaintext: bytes, associated: bytes) -> bytes:
        """Nonce and ciphertext."""

    def unseal(self, sealed: bytes, associated: bytes) -> bytes:
        """The plaintext. Raises `SealBroken`."""


class StoredKey(msgspec.Struct, frozen=True, kw_only=True):
    """A data key's row. `purpose` is a thing, or a space and a day; `wrapped` is None once the erasure at `erased_seq` destroyed it."""

    id: int
    purpose: bytes
    erasable: bool
    wrapped: bytes | None
    erased_seq: int | None = None


class Sealing(msgspec.Struct, frozen=True, kw_only=True):
    """What one commit writes: for each row its key's number and its sealed payload, the keys it makes, and those that it destroys by
    number, with the seq of the erasure. `active` is what memory learns once it is committed."""

    keys: tuple[int, ...]
    payloads: tuple[bytes, ...]
    made: tuple[StoredKey, ...]
    ended: tuple[tuple[int, int], ...]
    active: dict[bytes, "tuple[int, AESGCM] | None"]


class Vault:
    """One tenant's data keys, as far as they are in memory."""

    def __init__(self, wrapping: Wrapping, tenant: str) -> None:
        """Nothing is opened yet."""
        self._wrapping = wrapping
        self._tenant = tenant
        self._active: _Recent[bytes, tuple[int, AESGCM] | None] = _Recent(OPENED)
        self._opened: _Recent[int, AESGCM] = _Recent(OPENED)
        self._lasting: set[int] = set()

    # Writing: only the one writer knows which keys are in use, and only from one commit to the next.

    def forget(self) -> None:
        """Somebody else may have written."""
        self._active.clear()

    def unknown(self, rows: Sequence[Row]) -> set[bytes]:
        """The purposes whose key in use must be asked for before these rows are sealed."""
        wanted = {self.purpose_of(row)[0] for row in rows} | {row.thing for row in rows if erases(row)}
        return {one for one in wanted if one is not None and not self._active.has(one)}

    def learn(self, purposes: Collection[bytes], found: Sequence[StoredKey]) -> None:
        """The keys in use for these purposes; a purpose without one has none."""
        for purpose in purposes:
            self._active.put(purpose, None)
        for key in found:
            self._active.put(key.purpose, (key.id, self._open(key)))

    def seal(self, rows: Sequence[Row]) -> Sealing:
        """Seal these rows, whose purposes are all known; nothing in memory changes before `settle`."""
        active: dict[bytes, tuple[int, AESGCM] | None] = {}
        made: dict[int, StoredKey] = {}
        ended: list[tuple[int, int]] = []
        keys, payloads = [], []
        for row in rows:
            if erases(row) and row.thing is not None:
                self._end(row.thing, row.seq, active, made, ended)
            purpose, erasable = self.purpose_of(row)
            found = active[purpose] if purpose in active else self._active.get(purpose)
            if found is None:
                found, made_now = self._make(purpose, erasable=erasable)
                active[purpose], made[made_now.id] = found, made_now
            number, aead = found
            nonce = os.urandom(NONCE_BYTES)
            keys.append(number)
            payloads.append(nonce + aead.encrypt(nonce, row.salt + row.payload, row.hash))
        return Sealing(
            keys=tuple(keys),
            payloads=tuple(payloads),
            made=tuple(made.values()),
            ended=tuple(ended),
            active=active,
        )

    def settle(self, sealing: Sealing) -> None:
        """What was sealed is committed."""
        for purpose, found in sealing.active.items():
            self._active.put(purpose, found)
        for number, _ in sealing.ended:
            self._opened.drop(number)

    def purpose_of(self, row: Row) -> tuple[bytes, bool]:
        """What the row's key is for, and whether it may be destroyed."""
        if row.thing is not None and not erases(row):
            return row.thing, True
        return _lasting(self._tenant, row.space, row.ts_ms // _DAY_MS), False

    def _end(
        self,
        thing: bytes,
        seq: int,
        active: dict[bytes, tuple[int, AESGCM] | None],
        made: dict[int, StoredKey],
        ended: list[tuple[int, int]],
    ) -> None:
        """Destroy the thing's key: one that stands, or one of this very commit, which then is never stored."""
        found = active[thing] if thing in active else self._active.get(thing)
        active[thing] = None
        if found is None:
            return
        number = found[0]
        if number in made:
            made[number] = msgspec.structs.replace(made[number], wrapped=None, erased_seq=seq)
        else:
            ended.append((number, seq))

    def _make(self, purpose: bytes, *, erasable: bool) -> tuple[tuple[int, AESGCM], StoredKey]:
        number = secrets.randbits(NUMBER_BITS)
        secret = AESGCM.generate_key(256)
        wrapped = self._wrapping.seal(secret, self._bound(number, purpose, erasable=erasable))
        return (number, AESGCM(secret)), StoredKey(id=number, purpose=purpose, erasable=erasable, wrapped=wrapped)

    # Reading.

    def unseen(self, numbers: Collection[int]) -> set[int]:
        """The keys that the database must be asked for: all that could have been destroyed, and what isn't in memory."""
        return {number for number in numbers if number not in self._lasting or not self._opened.has(number)}

    def open(self, row: Row, number: int, stored: StoredKey | None) -> Row:
        """The row in the clear; without its payload once that was erased. What doesn't open becomes what no payload hash agrees with.
        `stored` may be None only for keys that aren't `unseen`."""
        if stored is not None and stored.wrapped is None:
            self._opened.drop(number)
            return msgspec.structs.replace(row, payload=b"", erased_bytes=len(row.payload) - OVERHEAD_BYTES)
        try:
            aead = self._aead(number, stored)
            opened = aead.decrypt(row.payload[:NONCE_BYTES], row.payload[NONCE_BYTES:], row.hash)
        except (InvalidTag, ValueError, key_faults.SealBroken):
            return msgspec.structs.replace(row, salt=_DAMAGED[0], payload=_DAMAGED[1])
        salt, payload = opened[: digest.SALT_BYTES], opened[digest.SALT_BYTES :]
        return msgspec.structs.replace(row, salt=salt, payload=payload)

    def _aead(self, number: int, stored: StoredKey | None) -> AESGCM:
        aead = self._opened.get(number)
        if aead is not None:
            return aead
        if stored is None:
            raise ValueError(f"there is no data key {number}")
        aead = self._open(stored)
        self._opened.put(number, aead)
        if not stored.erasable:
            self._lasting.add(number)
        return aead

    def _open(self, key: StoredKey) -> AESGCM:
        associated = self._bound(key.id, key.purpose, erasable=key.erasable)
        return AESGCM(self._wrapping.unseal(key.wrapped or b"", associated))

    def _bound(self, number: int, purpose: bytes, *, erasable: bool) -> bytes:
        """What a wrapped key is bound to, so that none can stand for another."""
        return b"\x00".join((b"sigil data key", self._tenant.encode(), b"%d%d" % (number, erasable), purpose))


@functools.lru_cache(maxsize=256)
def _lasting(tenant: str, space: str, day: int) -> bytes:
    """The purpose of the key of a space and a day. Three parts, where a thing's digest has four: no key is for both."""
    parts = (tenant, space, clock.format_ms(day * _DAY_MS)[:10])
    return bytes.fromhex(digest.sha256_hex("\x00".join(parts).encode()))[:16]


class _Recent(Generic[K, V]):
    """A bounded memory of what was used last."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._table: OrderedDict[K, V] = OrderedDict()

    def has(self, key: K) -> bool:
        return key in self._table

    def get(self, key: K) -> V | None:
        found = self._table.get(key)
        if found is not None:
            self._table.move_to_end(key)
        return found

    def put(self, key: K, value: V) -> None:
        self._table[key] = value
        self._table.move_to_end(key)
        while len(self._table) > self._most:
            self._table.popitem(last=False)

    def drop(self, key: K) -> None:
        self._table.pop(key, None)

    def clear(self) -> None:
        self._table.clear()
