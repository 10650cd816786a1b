"""What the house promises about itself: floors, rooms, words, and that what is declared is documented."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from sigilcore import records, refusals
from sigilcore.contracts import catalogue, house
from sigilcore.contracts.command import Command

ROOT = Path(__file__).parents[2]
SERVICES = sorted(path.parent.name for path in (ROOT / "services").glob("*/__init__.py"))


def tracked():
    """The files that git knows, as text where they are text."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / line for line in listed.splitlines() if (ROOT / line).is_file()]


def test_floors_and_rooms():
    """Imports point down only; services never import services; sigilcore doesn't talk; only sigilrun speaks NATS and Postgres."""
    done = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_services_are_shaped_alike():
    """A service folder is README, __init__, __main__, service and rules, and its README says what it decides."""
    for name in SERVICES:
        folder = ROOT / "services" / name
        for part in ("README.md", "__init__.py", "__main__.py"):
            assert (folder / part).is_file(), f"{name} lacks {part}"
        text = (folder / "README.md").read_text()
        for word in ("Decides", "Owns", "Answers", "Listens", "Refuses"):
            assert word in text, f"{name}/README.md doesn't say what it {word.lower()}"


def test_every_resident_has_a_program():
    """Whoever is drawn in the house can be started."""
    for resident in house.RESIDENTS.values():
        path = ROOT.joinpath(*resident.module.split("."))
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), resident.module


def test_every_command_is_answered_by_a_resident():
    """A command without a service is a promise nobody keeps."""
    for command in catalogue.COMMANDS.values():
        assert command.service in house.RESIDENTS, command.name


def test_everything_declared_is_in_the_catalogue_page():
    """Every command, kind and refusal is documented."""
    text = (ROOT / "docs" / "CATALOGUE.md").read_text()
    names = [*catalogue.COMMANDS, *records.REGISTRY, *refusals.Code]
    assert [name for name in names if f"`{name}`" not in text] == []


@pytest.mark.parametrize("command", catalogue.COMMANDS.values(), ids=lambda command: command.name)
def test_subjects_are_derived(command: Command):
    """A subject is made of service and name, and is a valid NATS subject without wildcards."""
    assert command.subject == f"sigil.v1.{command.service}.{command.name.replace('/', '.')}"
    assert re.fullmatch(r"[a-z0-9_]+(\.[a-z0-9_]+)+", command.subject)


def test_only_the_writer_publishes_events():
    """One pen: nobody else may publish a change event."""
    for resident in (*house.RESIDENTS.values(), house.SUBSCRIBER, house.OPERATOR):
        allowed = house.allowance(resident, "default").publish
        assert not any(subject.startswith((house.EVENTS, house.JETSTREAM)) for subject in allowed), resident.name
    assert house.outside_events("default") in house.keeper("default").publish


def test_nobody_may_say_everything():
    """No allow-list holds a bare wildcard."""
    for resident in (*house.RESIDENTS.values(), house.SUBSCRIBER, house.OPERATOR):
        allowed = house.allowance(resident, "default")
        for subject in (*allowed.publish, *allowed.subscribe):
            assert subject not in {">", "*", "sigil.>", "$JS.>", "$JS.API.>", "$SYS.>"}, (resident.name, subject)


def test_no_words_that_promise_later():
    """What isn't there isn't promised in code."""
    word = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|NotImplementedError|pytest\.(skip|xfail)|mark\.(skip|xfail)")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked()
        if path.suffix in {".py", ".sql", ".sh"} and path != Path(__file__)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if word.search(line)
    ]
    assert found == []


def test_locks_hold_hashes_and_no_addresses():
    """The lock pins by hash and records no registry."""
    lock = (ROOT / "requirements.lock").read_text()
    assert "--hash=sha256:" in lock
    assert not re.search(r"https?://|^--(index|extra-index|find)", lock, re.MULTILINE)
    for path in tracked():
        if path.name == "package-lock.json":
            assert '"resolved"' not in path.read_text(), path


def test_claims_are_proven_by_tests_that_exist():
    """Each promise of the README names the test that keeps it."""
    claims = tomllib.loads((ROOT / "claims.toml").read_text())["claim"]
    readme = (ROOT / "README.md").read_text()
    for claim in claims:
        assert claim["says"] in readme, claim["says"]
        path, _, name = claim["test"].partition("::")
        assert f"def {name}(" in (ROOT / path).read_text(), claim["test"]


def test_core_is_installable_alone():
    """An auditor needs sigilcore and five small libraries, none of which talks."""
    project = tomllib.loads((ROOT / "libs" / "sigilcore" / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[<>=]", text)[0] for text in project["dependencies"]}
    assert names == {"msgspec", "pynacl", "rfc8785", "tomli-w", "uuid-utils"}
