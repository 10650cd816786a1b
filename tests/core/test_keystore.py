"""Keys at rest: each way in which a key can be refused, what a thief of the file can't do, what never leaks."""

import copy
import getpass
import hashlib
import json
import os
import pickle
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sigilcore import canonical, signing
from sigilrun import key_format, keys

PASSPHRASE = b"correct horse"
CHEAP = key_format.CHEAPEST
SEED = bytes(range(32))
MESSAGE = b"what is signed"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bytes of one keystore with three keys, derived once for the module."""
    folder = tmp_path_factory.mktemp("made") / "keystore"
    store = keys.Keystore.create(folder, PASSPHRASE, kdf=CHEAP)
    store.generate("license")
    store.generate("gatekeeper")
    store.generate_aead("payload")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def folder(made: dict[str, bytes], tmp_path: Path) -> Path:
    """A fresh copy of that keystore."""
    path = tmp_path / "keystore"
    path.mkdir(mode=0o700)
    for name, data in made.items():
        put(path / name, data)
    return path


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "ada.key"
    keys.write_key_file(path, "ada", PASSPHRASE, SEED, kdf=CHEAP)
    return path


def put(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    path.chmod(0o600)


def forge(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a document as an attacker would, who computes the checksum anew."""
    document = json.loads(path.read_bytes())
    change(document)
    del document["sha256"]
    document["sha256"] = hashlib.sha256(canonical.encode(document)).hexdigest()
    put(path, canonical.encode(document))


def opened(folder: Path) -> keys.Keystore:
    return keys.Keystore.open(folder, PASSPHRASE)


# Round trips


def test_a_keystore_s_signature_verifies_under_its_public_key(tmp_path: Path) -> None:
    """What generate returned verifies what a signer opened afterwards has signed."""
    folder = tmp_path / "keystore"
    public = keys.Keystore.create(folder, PASSPHRASE, kdf=CHEAP).generate("license")
    store = opened(folder)
    signer = store.signer("license")
    assert signing.verify(public, MESSAGE, signer.sign(MESSAGE))
    assert not signing.verify(public, MESSAGE + b".", signer.sign(MESSAGE))
    assert store.public("license") == signer.public_key == public
    assert signer.key_id == signing.key_id(public)


def test_a_key_file_signs_as_the_house_signs(key_file: Path) -> None:
    """OpenSSL under a sealed seed and PyNaCl under an open one make the same bytes."""
    house = signing.Ed25519Signer(SEED)
    signer = keys.open_key_file(key_file, PASSPHRASE)
    assert signer.public_key == house.public_key
    assert signer.key_id == house.key_id
    assert [signer.sign(m) for m in (b"", MESSAGE, MESSAGE)] == [house.sign(m) for m in (b"", MESSAGE, MESSAGE)]


def test_a_new_key_file_has_a_new_key_each_time(tmp_path: Path) -> None:
    """Without a seed two files hold different keys, salts and nonces."""
    publics = [keys.write_key_file(tmp_path / n, "ada", PASSPHRASE, kdf=CHEAP) for n in ("a", "b")]
    one, two = (json.loads((tmp_path / n).read_bytes()) for n in ("a", "b"))
    assert publics[0] != publics[1]
    assert one["kdf"]["salt"] != two["kdf"]["salt"]
    assert one["nonce"] != two["nonce"]


def test_anyone_with_the_file_reads_the_public_half(key_file: Path, folder: Path) -> None:
    """The name and public key need no passphrase; a symmetric key has none."""
    public = signing.Ed25519Signer(SEED).public_key
    assert keys.read_public(key_file) == keys.KeyInfo(
        name="ada", algorithm="ed25519", public_key=public, key_id=signing.key_id(public)
    )
    assert keys.read_public(folder / "payload.json").public_key is None


def test_the_names_are_the_keys_and_nothing_else(folder: Path) -> None:
    """The keystore's own file and leftovers of a crash are not keys."""
    put(folder / ".license.json.0011", b"half")
    assert opened(folder).names() == ["gatekeeper", "license", "payload"]


def test_the_payload_key_opens_what_it_sealed_and_nothing_else(folder: Path) -> None:
    """Other associated data, a changed or cut ciphertext: SealBroken, never wrong plaintext."""
    key = opened(folder).aead_key("payload")
    sealed = key.seal(SEED, b"record one")
    again = opened(folder).aead_key("payload")
    assert again.unseal(sealed, b"record one") == SEED
    assert again.key_id == key.key_id
    assert key.seal(SEED, b"record one") != sealed
    flipped = sealed[:-1] + bytes([sealed[-1] ^ 1])
    for data, associated in (
        (sealed, b"record two"),
        (flipped, b"record one"),
        (sealed[:5], b""),
        (b"", b""),
    ):
        with pytest.raises(keys.SealBroken):
            key.unseal(data, associated)


def test_a_key_copied_out_of_a_keystore_opens_by_itself(folder: Path, tmp_path: Path) -> None:
    """One format for both: the copy is self-contained under the same passphrase."""
    put(tmp_path / "copy", (folder / "license.json").read_bytes())
    copied = keys.open_key_file(tmp_path / "copy", PASSPHRASE)
    assert copied.sign(MESSAGE) == opened(folder).signer("license").sign(MESSAGE)


@settings(max_examples=25, deadline=None)
@given(secret=st.binary(min_size=32, max_size=32), public=st.binary(min_size=32, max_size=32))
def test_sealing_goes_round(secret: bytes, public: bytes) -> None:
    """Any secret comes back from its bytes on disk, and the buffer it came in is zero afterwards."""
    kdf = key_format.new_kdf(CHEAP)
    kek = key_format.Kek(bytearray(32), "0" * 64)
    document = key_format.seal(kek, kdf, "k", "ed25519", public, secret=secret)
    again = key_format.parse_key(key_format.to_bytes(document), "k")
    with key_format.unsealed(kek, again, "k") as buffer:
        assert buffer == secret
    assert buffer == bytes(32)


# The wrong passphrase, and none


def test_a_wrong_passphrase_is_not_called_damage(folder: Path, key_file: Path) -> None:
    """A whole file and another passphrase: WrongPassphrase, for keystore and key file alike."""
    for wrong in (b"correct horse\n", b"Correct horse", b"x"):
        with pytest.raises(keys.WrongPassphrase):
            keys.Keystore.open(folder, wrong)
    with pytest.raises(keys.WrongPassphrase):
        keys.open_key_file(key_file, b"x")


def test_an_empty_passphrase_is_refused_everywhere(folder: Path, key_file: Path, tmp_path: Path) -> None:
    """Nothing is made and nothing opened under no passphrase."""
    for act in (
        lambda: keys.Keystore.create(tmp_path / "new", b"", kdf=CHEAP),
        lambda: keys.Keystore.open(folder, b""),
        lambda: keys.write_key_file(tmp_path / "new.key", "n", b"", kdf=CHEAP),
        lambda: keys.open_key_file(key_file, b""),
    ):
        with pytest.raises(keys.EmptyPassphrase):
            act()
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "new.key").exists()


# Damage and attack


def flip(text: str) -> str:
    return ("0" if text[0] != "0" else "1") + text[1:]


FIELDS: dict[str, Callable[[dict[str, Any]], object]] = {
    "name": lambda d: d.update(name="eve"),
    "algorithm": lambda d: d.update(algorithm="aes-256-gcm"),
    "public_key": lambda d: d.update(public_key=signing.Ed25519Signer(bytes(32)).public_key.hex()),
    "no public_key": lambda d: d.update(public_key=None),
    "weak public_key": lambda d: d.update(public_key="01" + "00" * 31),
    "nonce": lambda d: d.update(nonce=flip(d["nonce"])),
    "ciphertext": lambda d: d.update(ciphertext=flip(d["ciphertext"])),
    "tag": lambda d: d.update(ciphertext=d["ciphertext"][:-1] + ("0" if d["ciphertext"][-1] != "0" else "1")),
    "cipher": lambda d: d.update(cipher="aes-128-gcm"),
    "kdf name": lambda d: d["kdf"].update(name="argon2i"),
    "stray field": lambda d: d.update(note="x"),
    "missing field": lambda d: d.pop("nonce"),
    "upper case": lambda d: d.update(ciphertext=d["ciphertext"].upper()),
    "format missing": lambda d: d.pop("format"),
    "format a number": lambda d: d.update(format=1),
}
# With these the file becomes one that another passphrase would open, and nobody can tell otherwise.
KEYED: dict[str, Callable[[dict[str, Any]], object]] = {
    "salt": lambda d: d["kdf"].update(salt=flip(d["kdf"]["salt"])),
    "memory": lambda d: d["kdf"].update(memory_kib=d["kdf"]["memory_kib"] + 8),
    "iterations": lambda d: d["kdf"].update(iterations=d["kdf"]["iterations"] + 1),
    "lanes": lambda d: d["kdf"].update(lanes=d["kdf"]["lanes"] + 1),
    "check": lambda d: d.update(check=flip(d["check"])),
}


@pytest.mark.parametrize("field", FIELDS)
def test_a_forged_field_is_refused_with_the_right_passphrase(field: str, key_file: Path) -> None:
    """An attacker who also mends the checksum changes no field of a key: not its name, kind or public half."""
    forge(key_file, FIELDS[field])
    fault = keys.WrongKeyKind if field == "algorithm" else keys.DamagedKey
    with pytest.raises(fault):
        keys.open_key_file(key_file, PASSPHRASE)


def test_a_signing_key_can_t_be_relabelled_as_an_encrypting_one(folder: Path) -> None:
    """The algorithm is bound too: relabelled either way the key does not decrypt."""
    forge(folder / "license.json", lambda d: d.update(algorithm="aes-256-gcm"))
    forge(folder / "payload.json", lambda d: d.update(algorithm="ed25519", public_key=SEED_PUBLIC))
    store = opened(folder)
    with pytest.raises(keys.DamagedKey):
        store.aead_key("license")
    with pytest.raises(keys.DamagedKey):
        store.signer("payload")


SEED_PUBLIC = signing.Ed25519Signer(SEED).public_key.hex()


@pytest.mark.parametrize("field", KEYED)
def test_a_forged_derivation_opens_nothing(field: str, key_file: Path, folder: Path) -> None:
    """A changed salt, cost or check value reads as a wrong passphrase; in a keystore's key it is damage."""
    forge(key_file, KEYED[field])
    with pytest.raises(keys.WrongPassphrase):
        keys.open_key_file(key_file, PASSPHRASE)
    forge(folder / "license.json", KEYED[field])
    with pytest.raises(keys.DamagedKey, match="another keystore"):
        opened(folder).signer("license")
    forge(folder / "keystore.json", KEYED[field])
    with pytest.raises(keys.WrongPassphrase):
        opened(folder)


@pytest.mark.parametrize("name", ["license.json", "keystore.json"])
def test_an_accident_anywhere_in_a_file_is_damage_and_never_a_wrong_passphrase(
    name: str, made: dict[str, bytes], tmp_path: Path
) -> None:
    """Every flipped byte and every cut is found before the passphrase is tried."""
    data = made[name]
    parse = key_format.parse_keystore if name == "keystore.json" else key_format.parse_key
    whole = parse(data, name)
    for position in range(len(data) - 1):
        damaged = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
        with pytest.raises((keys.DamagedKey, keys.UnknownFormat)):
            parse(damaged, name)
        with pytest.raises(keys.DamagedKey):
            parse(data[:position], name)
    assert parse(data, name) == whole


@given(
    st.binary(max_size=300)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode())
)
def test_hostile_bytes_are_refused_with_our_own_faults(data: bytes) -> None:
    """Whatever stands in a file, nothing but a KeystoreError comes out."""
    for parse in (key_format.parse_key, key_format.parse_keystore):
        with pytest.raises((keys.DamagedKey, keys.UnknownFormat)):
            parse(data, "file")


def test_a_deep_or_long_file_is_damage(key_file: Path) -> None:
    """Nesting and length are bounded before anything is built from them."""
    for data in (b"[" * 4000, b" " * 5000, b""):
        put(key_file, data)
        with pytest.raises(keys.DamagedKey):
            keys.open_key_file(key_file, PASSPHRASE)


def test_two_keys_of_one_keystore_can_t_change_places(folder: Path) -> None:
    """Both files are genuine and under one key; the name inside tells."""
    one, two = folder / "license.json", folder / "gatekeeper.json"
    first = one.read_bytes()
    put(one, two.read_bytes())
    put(two, first)
    for name in ("license", "gatekeeper"):
        with pytest.raises(keys.DamagedKey, match="swapped or renamed"):
            opened(folder).signer(name)


def test_a_key_of_another_keystore_is_refused_though_the_passphrase_is_the_same(folder: Path, tmp_path: Path) -> None:
    """An old keystore's key does not slip into a new one."""
    other = tmp_path / "other"
    keys.Keystore.create(other, PASSPHRASE, kdf=CHEAP).generate("license")
    put(folder / "license.json", (other / "license.json").read_bytes())
    with pytest.raises(keys.DamagedKey, match="another keystore"):
        opened(folder).signer("license")


def test_a_seed_of_another_public_key_is_refused(key_file: Path) -> None:
    """Even a file sealed under the right passphrase must hold the key that it shows."""
    document = key_format.parse_key(key_file.read_bytes(), "ada")
    kek = key_format.unlock(PASSPHRASE, document, "ada")
    liar = key_format.seal(kek, document.kdf, "ada", "ed25519", bytes.fromhex(SEED_PUBLIC), secret=bytes(32))
    put(key_file, key_format.to_bytes(liar))
    with pytest.raises(keys.DamagedKey, match="another public key"):
        keys.open_key_file(key_file, PASSPHRASE)


@pytest.mark.parametrize(
    "cost",
    [
        {"memory_kib": CHEAP.memory_kib - 1},
        {"memory_kib": 8},
        {"memory_kib": 2**31 - 1},
        {"iterations": 1},
        {"iterations": 0},
        {"iterations": 2**31 - 1},
        {"lanes": 0},
        {"lanes": 9},
    ],
    ids=str,
)
def test_a_derivation_out_of_bounds_is_refused_before_it_runs(
    cost: dict[str, int], key_file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a downgrade nor a memory bomb is ever derived, read or asked for."""
    forge(key_file, lambda d: d["kdf"].update(cost))
    forge(folder / "keystore.json", lambda d: d["kdf"].update(cost))
    asked = keys.Cost(**({"memory_kib": CHEAP.memory_kib, "iterations": 2, "lanes": 1} | cost))
    monkeypatch.setattr(key_format, "Argon2id", None)
    for act in (
        lambda: keys.open_key_file(key_file, PASSPHRASE),
        lambda: keys.read_public(key_file),
        lambda: opened(folder),
        lambda: keys.Keystore.create(folder.parent / "new", PASSPHRASE, kdf=asked),
        lambda: keys.write_key_file(folder.parent / "new.key", "n", PASSPHRASE, kdf=asked),
    ):
        with pytest.raises(keys.UnsafeKdf):
            act()


def test_the_default_derivation_is_the_standard_s() -> None:
    """RFC 9106's second recommendation, written into the file and within our own bounds."""
    kdf = key_format.new_kdf(keys.DEFAULT)
    assert (kdf.memory_kib, kdf.iterations, kdf.lanes, kdf.name) == (65_536, 3, 4, "argon2id")
    assert len(bytes.fromhex(kdf.salt)) == 16


@pytest.mark.parametrize("name", ["sigil-key/2", "sigil-key/0", "sigil-keystore/1", "pkcs8", ""])
def test_another_format_is_named_and_refused(name: str, key_file: Path) -> None:
    """A file of a later version is not called damaged, whatever its other fields are."""
    put(key_file, canonical.encode({"format": name, "new": "field"}))
    with pytest.raises(keys.UnknownFormat):
        keys.read_public(key_file)


def test_a_key_file_is_no_keystore(folder: Path) -> None:
    """A key's document in the place of keystore.json is refused by its format."""
    put(folder / "keystore.json", (folder / "license.json").read_bytes())
    with pytest.raises(keys.UnknownFormat):
        opened(folder)


# Permissions


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o644, 0o666])
def test_a_file_that_others_reach_is_refused(mode: int, key_file: Path, folder: Path) -> None:
    """One bit for group or others is enough, on a key file, a keystore's key and keystore.json."""
    store = opened(folder)
    for path, act in (
        (key_file, lambda: keys.open_key_file(key_file, PASSPHRASE)),
        (key_file, lambda: keys.read_public(key_file)),
        (folder / "license.json", lambda: store.signer("license")),
        (folder / "keystore.json", lambda: opened(folder)),
    ):
        path.chmod(mode)
        with pytest.raises(keys.WrongPermissions):
            act()


@pytest.mark.parametrize("mode", [0o750, 0o705, 0o701, 0o755, 0o777])
def test_a_folder_that_others_reach_is_refused(mode: int, folder: Path) -> None:
    """An open folder refuses opening, listing, reading and making keys, and creating in it."""
    store = opened(folder)
    folder.chmod(mode)
    for act in (
        lambda: opened(folder),
        store.names,
        lambda: store.signer("license"),
        lambda: store.aead_key("payload"),
        lambda: store.generate("new"),
        lambda: keys.Keystore.create(folder, PASSPHRASE, kdf=CHEAP),
    ):
        with pytest.raises(keys.WrongPermissions):
            act()
    assert not (folder / "new.json").exists()


def test_a_stricter_mode_is_welcome(key_file: Path) -> None:
    """A read-only key file is private too."""
    key_file.chmod(0o400)
    assert keys.open_key_file(key_file, PASSPHRASE).sign(MESSAGE)


def test_a_file_of_another_user_is_refused(key_file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever owns the file can change it at will, so it must be us."""
    somebody = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: somebody)
    for act in (lambda: keys.open_key_file(key_file, PASSPHRASE), lambda: opened(folder)):
        with pytest.raises(keys.WrongPermissions, match="belongs to user"):
            act()


def test_links_pipes_and_folders_are_no_key_files(key_file: Path, folder: Path, tmp_path: Path) -> None:
    """A symbolic link is not followed, to a file or a folder; a pipe does not hang us."""
    link, pipe, linked = tmp_path / "link", tmp_path / "pipe", tmp_path / "linked"
    link.symlink_to(key_file)
    os.mkfifo(pipe, 0o600)
    linked.symlink_to(folder)
    for path in (link, pipe, folder):
        with pytest.raises(keys.WrongPermissions):
            keys.open_key_file(path, PASSPHRASE)
    with pytest.raises(keys.WrongPermissions):
        opened(linked)


def test_everything_made_is_private_whatever_the_umask(tmp_path: Path) -> None:
    """A careless umask opens nothing and a severe one breaks nothing; no scratch file remains."""
    for umask in (0o000, 0o277):
        folder = tmp_path / f"keystore{umask}"
        folder.mkdir(mode=0o700)
        before = os.umask(umask)
        try:
            keys.Keystore.create(folder, PASSPHRASE, kdf=CHEAP).generate("license")
        finally:
            os.umask(before)
        assert {path.name: path.stat().st_mode & 0o7777 for path in folder.iterdir()} == {
            "keystore.json": 0o600,
            "license.json": 0o600,
        }
    new = tmp_path / "new"
    keys.Keystore.create(new, PASSPHRASE, kdf=CHEAP)
    assert new.stat().st_mode & 0o7777 == 0o700


# Names, absence, presence


def test_what_is_not_there_is_missing(folder: Path, tmp_path: Path) -> None:
    """A key, a keystore, its file, a key file, or the folder to make one in: KeyMissing each time."""
    store, nowhere = opened(folder), tmp_path / "nowhere"
    (tmp_path / "empty").mkdir(mode=0o700)
    for act in (
        lambda: store.signer("nobody"),
        lambda: store.public("nobody"),
        lambda: store.aead_key("nobody"),
        lambda: opened(nowhere),
        lambda: opened(tmp_path / "empty"),
        lambda: keys.open_key_file(nowhere, PASSPHRASE),
        lambda: keys.read_public(nowhere),
        lambda: keys.write_key_file(nowhere / "k", "k", PASSPHRASE, kdf=CHEAP),
        lambda: keys.Keystore.create(nowhere / "k", PASSPHRASE, kdf=CHEAP),
    ):
        with pytest.raises(keys.KeyMissing):
            act()


def test_nothing_is_ever_overwritten(folder: Path, key_file: Path) -> None:
    """Making what exists is refused and leaves the bytes and the folder as they were."""
    store = opened(folder)
    before = {path: path.read_bytes() for path in (*folder.iterdir(), key_file)}
    for act in (
        lambda: store.generate("license"),
        lambda: store.generate_aead("license"),
        lambda: keys.Keystore.create(folder, PASSPHRASE, kdf=CHEAP),
        lambda: keys.write_key_file(key_file, "ada", PASSPHRASE, kdf=CHEAP),
    ):
        with pytest.raises(keys.KeyExists):
            act()
    assert {path: path.read_bytes() for path in (*folder.iterdir(), key_file)} == before


def test_of_two_who_make_one_key_at_once_one_wins(folder: Path) -> None:
    """The file system decides the race; the file is the winner's, whole."""
    store, won, lost = opened(folder), [], []
    start = threading.Barrier(6)

    def make() -> None:
        start.wait()
        try:
            won.append(store.generate("raced"))
        except keys.KeyExists:
            lost.append(1)

    threads = [threading.Thread(target=make) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 5)
    assert store.public("raced") == won[0]


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../license", "a/b", ".hidden", "a" * 65, "ü", "a\n", "a\0", "keystore"]
)
def test_a_name_can_t_leave_the_folder_or_hide_in_it(name: str, folder: Path) -> None:
    """Refused on making and on reading alike, so no lookup walks a path."""
    store = opened(folder)
    for act in (store.generate, store.generate_aead, store.signer, store.aead_key, store.public):
        with pytest.raises(keys.BadName):
            act(name)


def test_each_kind_of_key_does_its_own_work_only(folder: Path) -> None:
    """The payload key signs nothing and a signing key encrypts nothing."""
    store = opened(folder)
    with pytest.raises(keys.WrongKeyKind):
        store.signer("payload")
    with pytest.raises(keys.WrongKeyKind):
        store.aead_key("license")


def test_a_closed_keystore_signs_no_more(folder: Path) -> None:
    """Closing overwrites the key-encryption key in place, under every signer made from it."""
    store = opened(folder)
    signer, key = store.signer("license"), store.aead_key("payload")
    buffer = store._kek._key
    assert any(buffer)
    store.close()
    assert not any(buffer)
    for act in (
        lambda: signer.sign(MESSAGE),
        lambda: key.seal(b"", b""),
        lambda: store.signer("license"),
        lambda: store.generate("new"),
    ):
        with pytest.raises(keys.KeystoreClosed):
            act()
    store.close()


# What leaks not


def test_no_key_shows_itself(folder: Path, key_file: Path) -> None:
    """repr and str of every object hold no secret; pickle and copy refuse; public facts may be pickled."""
    store, alone = opened(folder), keys.open_key_file(key_file, PASSPHRASE)
    signer, key = store.signer("license"), store.aead_key("payload")
    secrets = [bytes(store._kek._key), bytes(alone._kek._key), SEED, PASSPHRASE]
    for sealed in (signer, key):
        with key_format.unsealed(sealed._kek, sealed._document, "") as buffer:
            secrets.append(bytes(buffer))
    for thing in (store, store._kek, alone, signer, key, keys.read_public(key_file), signer._document):
        for text in (repr(thing), str(thing), f"{thing}"):
            for secret in secrets:
                assert secret.hex() not in text
                assert repr(secret)[2:-1] not in text
    for thing in (store, store._kek, alone, signer, key):
        assert not hasattr(thing, "__dict__")
        for act in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError):
                act(thing)
    assert pickle.loads(pickle.dumps(keys.read_public(key_file))) == keys.read_public(key_file)


def test_the_files_hold_no_secret_in_clear(key_file: Path) -> None:
    """Neither the seed, the key-encryption key nor the passphrase stands in the file."""
    data = key_file.read_bytes()
    signer = keys.open_key_file(key_file, PASSPHRASE)
    for secret in (SEED, PASSPHRASE, bytes(signer._kek._key)):
        assert secret not in data
        assert secret.hex().encode() not in data


def every_fault(kind: type[keys.KeystoreError]) -> list[type[keys.KeystoreError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in every_fault(child))]


@pytest.mark.parametrize("fault", every_fault(keys.KeystoreError)[1:], ids=lambda kind: kind.__name__)
def test_every_fault_says_what_to_do_next(fault: type[keys.KeystoreError]) -> None:
    """Each class has a next step of its own, which its text ends with, and is part of `keys`."""
    others = [kind.next_step for kind in every_fault(keys.KeystoreError) if kind is not fault]
    assert fault.next_step not in others
    assert str(fault("What happened.")) == f"What happened. {fault.next_step}"
    assert getattr(keys, fault.__name__) is fault


# Passphrase sources


def test_a_passphrase_comes_from_a_private_file(tmp_path: Path) -> None:
    """One trailing newline goes, everything else stays; others must not reach the file."""
    path = tmp_path / "passphrase"
    for data, passphrase in ((b"p w\n", b"p w"), (b"pw", b"pw"), (b"pw\n\n", b"pw\n"), (b" pw ", b" pw ")):
        put(path, data)
        assert keys.passphrase_from(f"file:{path}") == passphrase
    path.chmod(0o640)
    with pytest.raises(keys.WrongPermissions):
        keys.passphrase_from(f"file:{path}")


def test_an_empty_missing_or_huge_passphrase_file_is_refused(tmp_path: Path) -> None:
    """Nothing, a newline, no file, and a file that can't be a passphrase each have their fault."""
    path = tmp_path / "passphrase"
    with pytest.raises(keys.EmptyPassphrase):
        keys.passphrase_from(f"file:{path}")
    for data, fault in (
        (b"", keys.EmptyPassphrase),
        (b"\n", keys.EmptyPassphrase),
        (b"x" * 1025, keys.PassphraseTooLong),
        (b"x" * 100_000, keys.PassphraseTooLong),
    ):
        put(path, data)
        with pytest.raises(fault):
            keys.passphrase_from(f"file:{path}")
    put(path, b"x" * 1024 + b"\n")
    assert keys.passphrase_from(f"file:{path}") == b"x" * 1024


def test_a_passphrase_comes_from_a_descriptor_once() -> None:
    """The descriptor is read to its end and closed, so no child inherits it."""
    reader, writer = os.pipe()
    os.write(writer, b"pw\n")
    os.close(writer)
    assert keys.passphrase_from(f"fd:{reader}") == b"pw"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(reader)
    with pytest.raises(keys.UnknownSource, match="can't be read"):
        keys.passphrase_from(f"fd:{reader}")


def test_a_passphrase_comes_from_the_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for once, or twice for a new one, and the two must agree."""
    answers = iter(["pw", "new", "new", "new", "knew", ""])
    monkeypatch.setattr(getpass, "getpass", lambda _prompt: next(answers))
    assert keys.passphrase_from("prompt") == b"pw"
    assert keys.passphrase_from("prompt", confirm=True) == b"new"
    with pytest.raises(keys.PassphraseMismatch):
        keys.passphrase_from("prompt", confirm=True)
    with pytest.raises(keys.EmptyPassphrase):
        keys.passphrase_from("prompt")


def test_without_a_terminal_the_prompt_refuses_rather_than_echo(monkeypatch: pytest.MonkeyPatch) -> None:
    """getpass would warn and show what is typed; that warning is a refusal here."""

    def warn(_prompt: str) -> str:
        warnings.warn("Can not control echo on the terminal.", getpass.GetPassWarning, stacklevel=2)
        return "shown to all"

    monkeypatch.setattr(getpass, "getpass", warn)
    with pytest.raises(keys.UnknownSource, match="no terminal"):
        keys.passphrase_from("prompt")


@pytest.mark.parametrize(
    "source",
    ["", "hunter2", "env:HUNTER2", "pass:hunter2", "fd:", "fd:-1", "fd:1_0", "fd:٣", "fd:99999", "PROMPT"],
)
def test_no_other_source_is_taken_and_its_text_is_not_repeated(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither argv nor the environment; the text may be the passphrase itself, so no message holds it."""
    monkeypatch.setenv("HUNTER2", "hunter2")
    with pytest.raises(keys.UnknownSource) as caught:
        keys.passphrase_from(source)
    assert "hunter2" not in str(caught.value).lower()


# Signer URIs


def test_a_uri_finds_a_key_file_and_a_keystore_s_key(folder: Path, key_file: Path) -> None:
    """file:PATH and file:FOLDER#NAME, both as the signers they name."""
    assert keys.signer_from(f"file:{key_file}", PASSPHRASE).public_key.hex() == SEED_PUBLIC
    by_uri = keys.signer_from(f"file:{folder}#license", PASSPHRASE)
    assert by_uri.public_key == opened(folder).public("license")
    with pytest.raises(keys.KeyMissing):
        keys.signer_from(f"file:{folder}#nobody", PASSPHRASE)
    with pytest.raises(keys.BadName):
        keys.signer_from(f"file:{folder}#../license", PASSPHRASE)


@pytest.mark.parametrize("scheme", ["pkcs11", "https", "env", "awskms", "files"])
def test_any_other_scheme_is_refused_by_its_name(scheme: str) -> None:
    """The scheme is named, the rest is not, since it may hold a PIN."""
    with pytest.raises(keys.UnknownSource, match=scheme) as caught:
        keys.signer_from(f"{scheme}:token=a;pin-value=1234", PASSPHRASE)
    assert "1234" not in str(caught.value)


@pytest.mark.parametrize("uri", ["", "file", "file:", ":path", "/key", "FILE:/key", "x y:z"])
def test_what_is_no_uri_is_refused(uri: str) -> None:
    """A bare path is not guessed at."""
    with pytest.raises(keys.UnknownSource):
        keys.signer_from(uri, PASSPHRASE)
