"""Settings: everything wrong is told at once, with its origin; what is right is frozen, and shown without secrets."""

from pathlib import Path

import msgspec
import pytest

from sigilcore import ids, note, signing
from sigilrun import settings

GOOD = """
[bus]
url = "nats://127.0.0.1:4222"
nkey_seed_file = "keys/bus_{resident}"
[deployment]
file = "deployment.json"
[service]
state_dir = "services/{resident}"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder with all files that GOOD names."""
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "bus_license").write_text("seed")
    key = note.VerifierKey.of("sigil/x/default", note.ED25519, signing.Ed25519Signer.generate().public_key)
    deployed = settings.DeploymentFile(runtime_id=ids.new(), tenant="default", services={}, log=key.format())
    (tmp_path / "deployment.json").write_bytes(msgspec.json.encode(deployed))
    (tmp_path / "config.toml").write_text(GOOD)
    return tmp_path


def load(folder: Path, text: str | None = None, needs: tuple[str, ...] = (), **env: str) -> settings.Settings:
    """Load the folder's config as the license service would."""
    if text is not None:
        (folder / "config.toml").write_text(text)
    return settings.load(folder / "config.toml", env, resident="license", needs=needs)


def problems(folder: Path, text: str | None = None, needs: tuple[str, ...] = (), **env: str) -> list[str]:
    """What loading complains of."""
    with pytest.raises(settings.SettingsError) as caught:
        load(folder, text, needs, **env)
    return caught.value.problems


def test_paths_are_relative_to_the_file_and_name_the_resident(folder: Path) -> None:
    """One config serves every process: `{resident}` is the process identity."""
    loaded = load(folder)
    assert loaded.bus.nkey_seed_file == folder / "keys" / "bus_license"
    assert loaded.service.state_dir == folder / "services" / "license"
    assert loaded.deployed.tenant == "default"
    assert loaded.canon is None


def test_the_environment_wins_and_is_read_in_the_field_s_type(folder: Path) -> None:
    """Numbers, booleans and lists come as text and are no text afterwards."""
    loaded = load(
        folder,
        SIGIL_BUS_MAX_IN_FLIGHT="7",
        SIGIL_GATEWAY_COOKIE_SECURE="false",
        SIGIL_GATEWAY_TRUSTED_PROXIES="10.0.0.0/8, 192.168.0.0/16",
        SIGIL_TELEMETRY_LEVEL="debug",
    )
    assert loaded.bus.max_in_flight == 7
    assert loaded.gateway.cookie_secure is False
    assert loaded.gateway.trusted_proxies == ("10.0.0.0/8", "192.168.0.0/16")
    assert loaded.telemetry.level == "debug"


def test_all_problems_are_reported_together_each_with_its_origin(folder: Path) -> None:
    """Unknown section, unknown key, wrong type, wrong value, missing value, missing file, bad variable: one report."""
    text = """
[bus]
nkey_seed_file = "keys/nobody"
max_in_flight = "many"
colour = "red"
[deployment]
file = "deployment.json"
[service]
state_dir = "state"
instance = "Not A Name"
[surprise]
x = 1
"""
    found = problems(
        folder, text, ("keystore",), SIGIL_BUS_REQUEST_TIMEOUT_S="soon", SIGIL_BUSS_URL="x", SIGIL_GATE_SHAPE="y"
    )
    expected = (
        ("unknown section [surprise]", "config.toml"),
        ("unknown key", "[bus] colour"),
        ("Expected `int`, got `str`", "config.toml: [bus] max_in_flight"),
        ("doesn't exist", "[bus] nkey_seed_file"),
        ("[bus] url: missing", "SIGIL_BUS_URL"),
        ("Expected `int`", "environment SIGIL_BUS_REQUEST_TIMEOUT_S"),
        ("no such setting", "environment SIGIL_BUSS_URL"),
        ("unknown key", "environment SIGIL_GATE_SHAPE"),
        ("matching regex", "[service] instance"),
        ("[keystore] path: missing", "SIGIL_KEYSTORE_PATH"),
        ("[keystore] passphrase_file: missing", "SIGIL_KEYSTORE_PASSPHRASE_FILE"),
    )
    for reason, origin in expected:
        assert any(reason in problem and origin in problem for problem in found), (reason, origin, found)
    assert len(found) == len(expected)


def test_what_is_for_another_process_is_checked_and_not_demanded_whole(folder: Path) -> None:
    """An operator sets the writer's reserve: who has no database starts all the same; a slip in that section is told to everyone."""
    reserve = GOOD + "[canon]\nreserve_mb = 512\n"
    assert load(folder, reserve).canon is None
    assert load(folder, GOOD, SIGIL_CANON_RESERVE_MB="512").canon is None
    missing = problems(folder, reserve, ("canon",))
    assert len(missing) == 5
    assert all(problem.startswith("[canon] ") and "missing" in problem for problem in missing)
    for slip, reason in (("reserve_mb = '512'", "Expected `int`"), ("reserved_mb = 512", "unknown key")):
        (problem,) = problems(folder, GOOD + f"[canon]\n{slip}\n")
        assert reason in problem
        assert "[canon] reserve" in problem
    (folder / "password").write_text("secret")
    whole = {"HOST": "db", "PORT": "5432", "DATABASE": "canon", "USER": "canon_writer", "PASSWORD_FILE": "password"}
    loaded = load(folder, reserve, ("canon",), **{f"SIGIL_CANON_{key}": value for key, value in whole.items()}).canon
    assert loaded is not None
    assert (loaded.reserve_mb, loaded.host) == (512, "db")


def test_strictness_of_the_file_is_not_that_of_the_environment(folder: Path) -> None:
    """In TOML a number is a number: text that looks like one is refused."""
    assert any("max_in_flight" in one for one in problems(folder, GOOD.replace("[bus]", '[bus]\nmax_in_flight = "5"')))


@pytest.mark.parametrize("given", ["0", "-1", "65537", "1_000", "١", ""])
def test_a_bound_is_a_bound(folder: Path, given: str) -> None:
    """Out of range, or no plain number: refused by name."""
    (problem,) = problems(folder, SIGIL_BUS_MAX_IN_FLIGHT=given)
    assert problem.startswith("environment SIGIL_BUS_MAX_IN_FLIGHT: ")


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"\xff", b'{"runtime_id":"x"', b'{"tenant":"a","tenant":"b"}'],
)
def test_a_deployment_file_that_says_nothing_is_refused(folder: Path, content: bytes) -> None:
    """Half a deployment is none."""
    (folder / "deployment.json").write_bytes(content)
    (problem,) = problems(folder)
    assert "deployment.json" in problem


@pytest.mark.parametrize("text", [None, "= nonsense"])
def test_a_file_that_cannot_be_read_is_one_problem_among_the_others(folder: Path, text: str | None) -> None:
    """No file, or no TOML: said, and what is missing besides."""
    (folder / "config.toml").unlink()
    found = problems(folder, text)
    assert "config.toml" in found[0]
    assert any("[bus] url: missing" in one for one in found)


def test_nothing_shown_and_nothing_digested_is_secret(folder: Path) -> None:
    """A password in a URL is the one secret that a setting could hold; it appears in neither."""
    plain = load(folder, SIGIL_BUS_URL="nats://one:1,nats://two:2")
    secret = load(folder, SIGIL_BUS_URL="nats://user:hunter2@one:1,nats://two:2")
    assert "hunter2" not in repr(settings.show(secret))
    assert settings.digest_hex(plain) == settings.digest_hex(secret)


def test_the_digest_moves_with_any_effective_value(folder: Path) -> None:
    """The log says by which settings an instance runs."""
    assert settings.digest_hex(load(folder)) == settings.digest_hex(load(folder))
    assert settings.digest_hex(load(folder)) != settings.digest_hex(load(folder, SIGIL_GATE_BATCH="17"))


def test_every_field_says_what_it_is(folder: Path) -> None:
    """Each setting has a unit and a reason, since `sigil config` and the documentation are made from them."""
    for kind in settings.SECTIONS.values():
        for field in msgspec.structs.fields(kind):
            info = msgspec.inspect.type_info(field.type)
            described = (getattr(info, "extra_json_schema", None) or {}).get("description", "")
            assert len(described) > 5, f"{kind.__name__}.{field.name}"
