"""`sigil keys` for people: made, listed, exported, followed by another, used to sign; and each fault by its own exit code."""

import base64
import json
import os
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from sigilcore import canonical, envelope, signing
from sigilrun import key_faults, key_format, keys
from tests.core.test_keystore import forge
from tests.terminal import PASSPHRASE, Person

SECRET = PASSPHRASE.encode()


@pytest.fixture
def person(tmp_path: Path) -> Person:
    """Somebody with one key, of the cheapest derivation that is taken."""
    person = Person(tmp_path)
    keys.write_key_file(tmp_path / "ada.key", "ada", SECRET, kdf=key_format.CHEAPEST)
    return person


# Faults


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def break_a_byte(path: Path) -> None:
    """As an accident does it: the checksum tells."""
    path.write_bytes(path.read_bytes().replace(b'"cipher":"a', b'"cipher":"b', 1))


def alter(path: Path) -> None:
    """As somebody does it who mends the checksum: the cipher tells."""
    forge(path, lambda d: d.update(ciphertext=("0" if d["ciphertext"][0] != "0" else "1") + d["ciphertext"][1:]))


def rename(path: Path) -> None:
    forge(path, lambda d: d.update(name="eve"))


def age(path: Path) -> None:
    path.write_bytes(canonical.encode({"format": "sigil-key/9"}))


def weaken(path: Path) -> None:
    forge(path, lambda d: d["kdf"].update(memory_kib=8))


def enfeeble(path: Path) -> None:
    """The neutral point, for which anybody can sign."""
    forge(path, lambda d: d.update(public_key="01" + "00" * 31))


def link(path: Path) -> None:
    path.rename(path.with_suffix(".real"))
    path.symlink_to(path.with_suffix(".real"))


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir(mode=0o700)


FAULTS = {
    "missing": (Path.unlink, 10, "KeyMissing"),
    "wrong mode": (lambda path: path.chmod(0o640), 11, "WrongPermissions"),
    "a link": (link, 12, "NotRegularFile"),
    "a pipe": (pipe, 12, "NotRegularFile"),
    "a folder": (folder, 12, "NotRegularFile"),
    "truncated": (cut, 14, "TruncatedKey"),
    "emptied": (lambda path: path.write_bytes(b""), 14, "TruncatedKey"),
    "altered ciphertext": (alter, 15, "AlteredKey"),
    "altered name": (rename, 15, "AlteredKey"),
    "damaged": (break_a_byte, 16, "DamagedKey"),
    "unknown version": (age, 17, "UnknownFormat"),
    "weak derivation": (weaken, 18, "UnsafeKdf"),
    "weak key": (enfeeble, 19, "UnsafeKey"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_of_a_key_file_has_its_own_exit_code(fault: str, person: Person) -> None:
    """What is wrong with a key is told by code, message and next step, and nothing is signed."""
    spoil, code, name = FAULTS[fault]
    spoil(person.work / "ada.key")
    (person.work / "note.txt").write_text("hello")
    told = person.refused("keys", "sign", "note.txt", "--key", "ada.key", code=code)
    assert (told["code"], told["next_step"]) == (name, getattr(keys, name).next_step)
    assert "ada.key" in told["message"]
    assert not (person.work / "note.txt.sig.json").exists()


def test_a_wrong_passphrase_is_13_and_a_full_disk_20(person: Person) -> None:
    """The two that are no fault of the file; what couldn't be written leaves nothing behind."""
    other = person.work / "other"
    other.write_text("another")
    other.chmod(0o600)
    told = person.refused("keys", "export", "ada.key", "--prove", "--passphrase", f"file:{other}", code=13)
    assert told["code"] == "WrongPassphrase"
    before = sorted(person.work.iterdir())
    # A limit of nothing at all on the size of files: what a full disk says, by another name.
    words = " ".join(Person.argv("keys", "new", "--out", "new.key", "--json"))
    done = subprocess.run(
        ["bash", "-c", f"ulimit -f 0; exec {words}"],
        cwd=person.work,
        env={**person.environment, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 20, done.stderr
    assert json.loads(done.stderr.splitlines()[-1])["code"] == "NoSpace"
    assert sorted(person.work.iterdir()) == before


def test_no_two_faults_share_an_exit_code() -> None:
    """Scripts tell them apart, and from 0 to 3, which mean other things."""
    found: list[type[key_faults.KeystoreError]] = [key_faults.KeystoreError]
    for kind in found:
        found += kind.__subclasses__()
    codes = [kind.exit_code for kind in found]
    assert len(set(codes)) == len(codes)
    assert min(codes) == 10
    assert max(codes) < 64
    page = (Path(__file__).parents[2] / "docs/CLI.md").read_text()
    assert [kind.__name__ for kind in found if f"| {kind.exit_code} | `{kind.__name__}` |" not in page] == []


def test_a_passphrase_comes_through_a_descriptor(person: Person) -> None:
    """For scripts that keep it in no file."""
    read, write = os.pipe()
    os.write(write, SECRET)
    os.close(write)
    done = subprocess.run(
        Person.argv("keys", "export", "ada.key", "--prove", "--passphrase", f"fd:{read}"),
        cwd=person.work,
        env=person.environment,
        pass_fds=(read,),
        capture_output=True,
        text=True,
        check=False,
    )
    os.close(read)
    assert done.returncode == 0, done.stderr


# What is made


def test_a_folder_s_keys_are_listed_with_what_is_wrong(person: Person) -> None:
    """Good keys by name and id, bad ones by their fault, other files not at all."""
    (person.work / "notes.txt").write_text("nothing")
    (person.work / "old.key").write_bytes(b"{")
    (person.work / "old.key").chmod(0o600)
    rows = {row["file"]: row for row in person.ask("keys", "list", code=1)["items"]}
    assert set(rows) == {"ada.key", "old.key"}
    assert rows["ada.key"]["fault"] is None
    assert rows["ada.key"]["public_key"] == person.sigil("keys", "public", "ada.key").stdout.strip()
    assert rows["old.key"]["fault"] == "TruncatedKey"
    (person.work / "old.key").unlink()
    assert len(person.ask("keys", "list", ".")["items"]) == 1


def test_only_the_public_half_is_exported(person: Person) -> None:
    """PEM is what other programs read; nothing of the file's sealed half is in it; and a proof needs the passphrase."""
    pem = person.sigil("keys", "export", "ada.key", "--format", "pem").stdout
    public = serialization.load_pem_public_key(pem.encode()).public_bytes_raw()
    assert public.hex() == person.ask("keys", "export", "ada.key")["public_key"]
    assert person.ask("keys", "export", "ada.key", "--prove")["proven"] is True
    person.sigil("keys", "export", "ada.key", "--out", "ada.pub")
    assert (person.work / "ada.pub").read_text().strip() == public.hex()
    person.refused("keys", "export", "ada.key", "--out", "ada.pub")


def test_a_passphrase_is_changed_in_a_new_file(person: Person) -> None:
    """The same key opens by the new passphrase only; the old file isn't touched."""
    other = person.work / "other"
    other.write_text("another one\n")
    other.chmod(0o600)
    before = (person.work / "ada.key").read_bytes()
    words = ("keys", "passphrase", "ada.key", "--new-passphrase", f"file:{other}")
    told = person.ask(*words, "--out", "new.key")
    assert keys.open_key_file(person.work / "new.key", b"another one").public_key.hex() == told["public_key"]
    person.refused("keys", "export", "new.key", "--prove", code=13)
    assert (person.work / "ada.key").read_bytes() == before
    person.refused(*words, "--out", "ada.key", code=21)


def test_a_key_names_its_successor(person: Person) -> None:
    """Who trusts the old key learns the new one from a statement that both signed; a swapped key in it is found."""
    told = person.ask("keys", "rotate", "ada.key", "--out", "ada2.key")
    old = person.sigil("keys", "public", "ada.key").stdout.strip()
    found = person.ask("keys", "succession", told["statement"], "--public", "ada.key")
    assert found == {"verified": True, "new": told["public_key"]}
    assert told["public_key"] == person.sigil("keys", "public", "ada2.key").stdout.strip() != old
    person.sigil("keys", "succession", told["statement"], "--public", "ada2.key", code=1)
    thief = signing.Ed25519Signer.generate()
    opened = envelope.parse((person.work / told["statement"]).read_bytes().rstrip(b"\n"))
    body = opened.body().replace(told["public_key"].encode(), thief.public_key.hex().encode())
    mended = [*opened.signed()[:1], (thief.key_id, signing.sign_typed(thief, signing.SUCCESSION, body))]
    (person.work / "forged.json").write_bytes(envelope.export(signing.SUCCESSION, body, mended))
    person.sigil("keys", "succession", "forged.json", "--public", "ada.key", code=1)
    (person.work / "junk.json").write_bytes(b"{}")
    person.sigil("keys", "succession", "junk.json", "--public", "ada.key", code=2)


# Signatures over files


def test_a_signed_file_verifies_until_a_byte_changes(person: Person) -> None:
    """0, 1 and 2: it holds, it doesn't, it can't be read; and a key that didn't sign is no signer."""
    target = person.work / "note.txt"
    target.write_bytes(b"pay 10\n")
    person.sigil("keys", "sign", "note.txt", "--key", "ada.key")
    assert person.ask("keys", "verify", "note.txt", "--public", "ada.key")["verified"] is True
    stranger = signing.Ed25519Signer.generate().public_key.hex()
    assert "no signature by" in person.ask("keys", "verify", "note.txt", "--public", stranger, code=1)["reason"]
    person.sigil("keys", "verify", "note.txt", "--public", "ada.key", "--public", stranger, code=1)
    for changed, reason in ((b"pay 99\n", "not the signed ones"), (b"pay 100\n", "8 bytes, 7 were signed")):
        target.write_bytes(changed)
        assert reason in person.ask("keys", "verify", "note.txt", "--public", "ada.key", code=1)["reason"]
    assert person.refused("keys", "sign", "note.txt", "--key", "ada.key")["message"].startswith("note.txt.sig.json")
    (person.work / "note.txt.sig.json").write_text("{}")
    person.sigil("keys", "verify", "note.txt", "--public", "ada.key", code=2)


def test_any_dsse_library_verifies_a_signed_file(person: Person) -> None:
    """The envelope is DSSE's own JSON, and the signature is over its own encoding."""
    (person.work / "note.txt").write_bytes(b"hello")
    person.sigil("keys", "sign", "note.txt", "--key", "ada.key")
    plain = json.loads((person.work / "note.txt.sig.json").read_text())
    public = serialization.load_pem_public_key(
        person.sigil("keys", "export", "ada.key", "--format", "pem").stdout.encode()
    )
    body, kind = base64.b64decode(plain["payload"]), plain["payloadType"].encode()
    encoded = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(body), body)
    public.verify(base64.b64decode(plain["signatures"][0]["sig"]), encoded)


def test_a_signature_over_a_file_is_no_other_document(person: Person) -> None:
    """Somebody talked into signing a file that holds a record's core, a licence or a permit has signed none of them."""
    (person.work / "core.json").write_bytes(b'{"kind":"quorum_policy"}')
    person.sigil("keys", "sign", "core.json", "--key", "ada.key")
    opened = envelope.parse((person.work / "core.json.sig.json").read_bytes().rstrip(b"\n"))
    sig, public = opened.signed()[0][1], keys.read_public(person.work / "ada.key").public_key
    types = {value for name, value in vars(signing).items() if isinstance(value, str) and value.endswith("+json")}
    assert len(types) >= 12
    assert opened.payloadType == signing.FILE
    for payload_type in types:
        for body in (opened.body(), (person.work / "core.json").read_bytes()):
            meant = (payload_type, body) == (signing.FILE, opened.body())
            assert signing.verify_typed(public, payload_type, body, sig) == meant


def test_no_door_of_the_house_takes_these_types() -> None:
    """Their names stand where they are made, and nowhere else in the program."""
    root = Path(__file__).parents[2]
    for name in ("FILE", "SUCCESSION"):
        found = {
            str(path.relative_to(root))
            for part in ("libs", "services", "cli")
            for path in (root / part).rglob("*.py")
            if f"signing.{name}" in path.read_text()
        }
        assert found == {"libs/sigilcore/sigilcore/detached.py"}
