"""A data folder becomes a house: each thing made once, each process told only what it needs."""

import contextlib
import json
import stat
from pathlib import Path

import pytest

from sigilcore import note
from sigilcore.contracts import house as contract
from sigilrun import house, keys, settings
from sigilrun.embedded.folder import DataFolder
from sigilrun.embedded.stack import Addresses


@contextlib.contextmanager
def furnished(path: Path):
    folder = DataFolder(path).acquire()
    try:
        yield folder, house.furnish(folder)
    finally:
        folder.release()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("house") / "data"
    with furnished(path):
        pass
    return path


def addresses(data: Path) -> Addresses:
    return Addresses(
        address="http://127.0.0.1:1",
        api_port=1,
        nats_url="nats://127.0.0.1:2",
        nats_monitor_url="http://127.0.0.1:3",
        postgres_host="127.0.0.1",
        postgres_port=4,
        database="sigil",
        role_passwords={role: f"password of {role}" for role in house.ROLES},
        folder=data,
    )


def specs(data: Path):
    with furnished(data) as (folder, _):
        for role in house.ROLES:
            folder.secret(f"postgres_role_{role}")
        return {spec.name: spec for spec in house.processes(folder, addresses(data), {})}


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_deployment_names_the_keys_of_the_keystore(data):
    """deployment.json repeats the keystore's public keys, and the log's key under the log's own name."""
    deployed = json.loads((data / "deployment.json").read_bytes())
    store = keys.Keystore.open(data / "keystore", (data / "keys/passphrase").read_bytes().strip())
    assert set(store.names()) == {*contract.SERVICE_KEYS, contract.LOG_KEY, contract.PAYLOAD_KEY}
    assert deployed["services"] == {name: store.public(name).hex() for name in contract.SERVICE_KEYS}
    log = note.VerifierKey.parse(deployed["log"])
    assert log.name == contract.origin(deployed["runtime_id"], deployed["tenant"])
    assert log.public_key == store.public(contract.LOG_KEY)


def test_nothing_is_made_twice(data):
    """A second run finds everything and changes none of it."""
    before = contents(data)
    with furnished(data) as (_, users):
        assert {user.name for user in users} == {*contract.RESIDENTS, "subscriber", "operator", contract.KEEPER}
    assert contents(data) == before


def test_a_first_run_that_broke_off_is_finished_with_the_same_keys(tmp_path):
    """Whatever stood when it was killed is kept; what was missing is made."""
    path = tmp_path / "data"
    with furnished(path):
        pass
    first = contents(path)
    (path / "deployment.json").unlink()
    (path / "keystore/license.json").unlink()
    (path / "bootstrap.token").unlink()
    with furnished(path):
        pass
    second = contents(path)
    assert second.keys() == first.keys()
    changed = {name for name in first if first[name] != second[name]}
    assert changed == {
        "deployment.json",
        "keystore/license.json",
        "bootstrap.token",
        "keys/bootstrap_token_hash",
    }


def test_a_process_is_told_only_what_it_needs(data):
    """The database for canon's processes alone, the keystore for those that sign, the token's hash for two; secrets as files only."""
    told = {name: spec.env for name, spec in specs(data).items()}
    with_database = {name for name, env in told.items() if "SIGIL_CANON_PASSWORD_FILE" in env}
    with_keystore = {name for name, env in told.items() if "SIGIL_KEYSTORE_PATH" in env}
    with_hash = {name for name, env in told.items() if any("TOKEN_HASH" in key for key in env)}
    assert with_database == {"canon_writer", "canon_reader"}
    assert with_keystore == {name for name, resident in contract.RESIDENTS.items() if resident.keystore}
    assert with_hash == {"canon_writer", "license"}
    secret = {path.read_text().strip() for path in (data / "keys").iterdir() if path.name != "bootstrap_token_hash"}
    for name, env in told.items():
        assert not secret & set(env.values()), name
        assert not any("password of" in value for value in env.values()), name
        assert str(data / "keys/postgres_role_canon_owner") not in env.values(), name


@pytest.mark.parametrize("more", ["", "\n[canon]\nreserve_mb = 512\n"], ids=["as it was made", "with a reserve"])
def test_every_process_can_read_its_settings(data, more):
    """What is told is a whole configuration: each process's settings load, and nothing in them is unknown; also with the reserve set."""
    config = data / "config.toml"
    given = data / "given.toml"
    given.write_text(config.read_text() + more)
    for name, spec in specs(data).items():
        needs = ("canon",) if name.startswith("canon_") else ()
        assert spec.env["SIGIL_CONFIG"] == str(config)
        loaded = settings.load(given, spec.env, resident=name, needs=needs)
        assert loaded.bus.nkey_seed_file == data / "keys" / f"bus_{name}"
        assert loaded.service.state_dir == data / "services" / name
        assert (loaded.canon is not None) is name.startswith("canon_")
        assert loaded.canon is None or loaded.canon.reserve_mb == (512 if more else 256)


def test_who_writes_stops_before_the_pen(data):
    """Stopping goes backwards: the face, then the services, then the pen and its reader, then the servers."""
    after = {name: set(spec.after) for name, spec in specs(data).items()}
    assert after["gateway"] == {"nats", "postgres", *contract.RESIDENTS} - {"gateway"}
    assert {"canon_writer", "canon_reader", "nats"} <= after["gatekeeper"]
    assert after["canon_writer"] == {"nats", "postgres"}


def test_the_token_is_shown_by_its_hash_only(data):
    """Services see SHA-256 of the token; the token itself is private."""
    import hashlib

    token = (data / "bootstrap.token").read_text().strip()
    assert (data / "keys/bootstrap_token_hash").read_text().strip() == hashlib.sha256(token.encode()).hexdigest()
    assert stat.S_IMODE((data / "bootstrap.token").stat().st_mode) == 0o600
    assert len(token) >= 43
