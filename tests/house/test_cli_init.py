"""`sigil init --from FILE` on a real house: killed again and again, it ends where one run would have ended, and then changes nothing."""

import itertools
import json
import subprocess

import pytest

from sigilcore import licence, trust
from tests.terminal import Person

MODEL = {
    "version": "2",
    "weights": {
        name: getattr(trust.DEFAULT_MODEL.weights, name) for name in trust.DEFAULT_MODEL.weights.__struct_fields__
    },
    "bias": trust.DEFAULT_MODEL.bias + 1,
    "threshold": trust.DEFAULT_MODEL.threshold,
}
WEIGHTS = "\n".join(f"{name} = {value}" for name, value in MODEL["weights"].items())
FILE = f"""
[root]
key = "root.key"
owner_id = "grace"
owner_name = "Grace"
licence = "root.toml"

[quorum]
k = 2
proposal_ttl_s = 3600
[quorum.kinds]
log_key = 2

[[mentor]]
id = "ada"
name = "Ada"
key = "ada.key"
licence = "ada.toml"
expires_at = "2035-01-01"
[[mentor]]
id = "bob"
name = "Bob"
key = "bob.key"
voice = "bob-voice.key"
licence = "bob.toml"
expires_at = "2035-01-01"
[[mentor]]
id = "cyd"
name = "Cyd"
key = "cyd.key"
licence = "cyd.toml"
expires_at = "2035-01-01"

[[licence]]
id = "olga"
name = "Olga"
loa = "operator"
expires_at = "2034-01-01"
scope = ["memory/*", "ping"]
out = "olga.toml"
[[licence]]
id = "otto"
name = "Otto"
loa = "operator"
expires_at = "2034-01-01"
key = "otto.key"
out = "otto.toml"

[model]
version = "2"
bias = {MODEL["bias"]}
threshold = {MODEL["threshold"]}
[model.weights]
{WEIGHTS}

[policy]
version = "tight"
rate_limit = 100000
[policy.rungs]
"memory/write" = "operator"
"""
KILL_AFTER = (2, 3)  # lines of progress, run by run, and from the first again


@pytest.fixture(scope="module")
def person(tmp_path_factory):
    """A house that was set up by a run that was killed again and again, and by one that came to its end."""
    person = Person(tmp_path_factory.mktemp("init"))
    person.sigil("up")
    try:
        (person.work / "house.toml").write_text(FILE)
        person.killed = []
        for lines in itertools.cycle(KILL_AFTER):
            person.killed.append(killed(person, lines))
            if person.killed[-1][0] == 0:
                break
        person.first = person.ask("init", "--from", "house.toml")
        yield person
        person.sigil("audit", "export", "--out", "ledger.jsonl")
        person.sigil("audit", "replay", "ledger.jsonl", "--genesis", person.first["genesis_hash"])
    finally:
        person.sigil("down")


def killed(person, lines):
    """Run it, and kill it somewhere after so many things were done; how it ended, and what it had said."""
    process = subprocess.Popen(
        Person.argv("init", "--from", "house.toml"),
        cwd=person.work,
        env=person.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    said = [line for line, _ in zip(process.stderr, range(lines), strict=False)]
    process.kill()
    process.stderr.close()
    return process.wait(), said


def governing(person):
    """Everything in the log that governs, but instances and sessions: what a set-up may have changed."""
    person.sigil("audit", "export", "--out", "now.jsonl")
    lines = (person.work / "now.jsonl").read_bytes().splitlines()[1:]
    (person.work / "now.jsonl").unlink()
    cores = [json.loads(line)["header"]["core"] for line in lines]
    kinds = {"license_issued", "license_revoked", "proposal_opened", "proposal_attested", "proposal_closed"}
    return [core["id"] for core in cores if core["space"] == "system" or core["kind"] in kinds]


def test_killed_anywhere_it_is_finished_by_the_next_run(person):
    """Each run went on where the one before broke off, and nothing was made twice."""
    assert {code for code, _ in person.killed[:-1]} == {-9}
    assert len(person.killed) >= 4
    assert person.first["done"] == []
    witnesses = person.ask("witness", "list")
    assert [one["witness_id"] for one in witnesses["items"]] == ["ada", "bob", "cyd"]
    assert witnesses["quorum"] == 2
    listed = person.ask("license", "list")["items"]
    assert sorted((one["owner_id"], one["loa"]) for one in listed) == [
        ("ada", "mentor"), ("bob", "mentor"), ("cyd", "mentor"),
        ("grace", "root"), ("olga", "operator"), ("otto", "operator"),
    ]  # fmt: skip
    for one in listed:
        file = "root.toml" if one["loa"] == "root" else f"{one['owner_id']}.toml"
        document = licence.parse((person.work / file).read_text())
        assert document.license.id == one["license_id"]
        assert person.ask("license", "validate", file)["valid"] is True
        assert (document.license.owner.key is None) == (one["owner_id"] == "olga")
    assert person.ask("model", "current")["model"] == MODEL
    assert person.ask("trust", "status")["policy"] == "tight"


def test_a_complete_run_again_changes_nothing(person):
    """Not a record that governs, not a file, and it says so."""
    before, files = governing(person), contents(person)
    again = person.ask("init", "--from", "house.toml")
    assert again["done"] == []
    assert governing(person) == before
    assert contents(person) == files


def contents(person):
    names = [*person.work.glob("*.key"), *person.work.glob("*.toml")]
    return {path.name: path.read_bytes() for path in names}


@pytest.mark.parametrize("name", ["olga.toml", "bob.toml", "otto.toml"])
def test_a_document_that_never_arrived_is_the_same_when_it_does(person, name):
    """A run that was killed between the issuance and its file: the next one writes the very same bytes."""
    before, log = (person.work / name).read_bytes(), governing(person)
    (person.work / name).unlink()
    again = person.ask("init", "--from", "house.toml")
    assert [line.split()[:2] for line in again["done"]] == [["wrote", "again"]]
    assert (person.work / name).read_bytes() == before
    assert governing(person) == log


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (("k = 2\nproposal_ttl_s = 3600\n[quorum.kinds]\nlog_key = 2", "k = 3"), "$.quorum.k"),
        (('key = "root.key"', 'key = "missing.key"'), "$.root.key"),
        (('key = "ada.key"', 'key = "missing.key"'), "$.mentor[0].key"),
        (('scope = ["memory/*", "ping"]', ""), "$.licence[0].scope"),
        (('key = "otto.key"', ""), "$.licence[1].key"),
        (('version = "2"', 'version = "3"'), "$.model.version"),
    ],
    ids=str,
)
def test_a_file_that_says_otherwise_is_refused_by_the_field(person, change, field):
    """Nothing is changed to fit: not the log, and no file is made."""
    before = contents(person)
    (person.work / "other.house").write_text(FILE.replace(*change))
    told = person.refused("init", "--from", "other.house")
    assert told["field"] == field
    assert told["code"] == "CONTRADICTION"
    assert contents(person) == before


def test_somebody_elses_key_never_signed_here(person):
    """Keys are made on this side, private, and nothing of a seed is in the house's own folder."""
    for path in person.work.glob("*.key"):
        assert path.stat().st_mode & 0o077 == 0
    logs = b"".join(path.read_bytes() for path in (person.data / "logs").iterdir())
    for path in person.work.glob("*.key"):
        assert json.loads(path.read_bytes())["ciphertext"].encode() not in logs


def test_a_house_like_this_has_nothing_for_the_doctor(person):
    """Sealed with a voice to spare, everything private, witnessed, in step: exit 0, and as JSON an empty list."""
    assert person.sigil("doctor").stdout == "nothing found\n"
    assert person.ask("doctor") == {"findings": [], "unseen": [], "exit_code": 0}


def test_the_doctor_finds_licences_that_end(person):
    """Everybody's, by the log; who asks for a longer look sees more, and each names its renewal."""
    found = person.ask("doctor", "--days", "4000", code=1)["findings"]
    assert {one["code"] for one in found} == {"LICENCE_EXPIRING"}
    olga = licence.parse((person.work / "olga.toml").read_text()).license
    assert any(olga.id in one["next_step"] and "renew" in one["next_step"] for one in found)
    assert any("your licence as grace" in one["what"] for one in found)
    person.sigil("license", "renew", olga.id, "--expires-at", "2036-06-01", "--out", "olga2.toml", "--key", "root.key")
    again = person.ask("doctor", "--days", "4000", code=1)["findings"]
    assert not any(olga.id in one["next_step"] for one in again)


def test_init_names_one_way(person):
    """A key or a file: neither and both are usage."""
    person.sigil("init", code=2)
    person.sigil("init", "--key", "root.key", "--from", "house.toml", code=2)
