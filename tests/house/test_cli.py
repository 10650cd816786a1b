"""The `sigil` command on a house of its own: files and modes, exit codes, refusals, and that keys and passphrases stay where they are."""

import json
import os
import signal
import stat
import subprocess
import sys
import time

import pytest

from cli import main
from tests import machine as machines
from tests.terminal import PASSPHRASE, Person


@pytest.fixture(scope="module")
def person(tmp_path_factory):
    """A house that was founded, with an operator and a guest."""
    person = Person(tmp_path_factory.mktemp("cli"))
    person.sigil("up")
    try:
        person.sigil("init", "--key", "root.key", "--owner-name", "Grace", "--out", "root.toml")
        for name, loa in (("olga", "operator"), ("gus", "guest")):
            licence = ("--owner-id", name, "--owner-name", name.title(), "--loa", loa, "--expires-at", "2035-01-01")
            person.sigil("license", "create", *licence, "--out", f"{name}.toml", "--key", "root.key")
            person.sigil("login", "--profile", name, "--license", f"{name}.toml")
        yield person
    finally:
        person.sigil("down")
    assert not (person.data / "run.json").exists()


# Without a house


def verbs() -> list[tuple[str, ...]]:
    """Every verb, as the words that name it."""
    app = main.application()
    found = [(command.name,) for command in app.registered_commands]
    for group in app.registered_groups:
        found += [
            (group.typer_instance.info.name, command.name) for command in group.typer_instance.registered_commands
        ]
    return [tuple(str(word) for word in words) for words in found]


def test_every_first_word_is_found_alone_and_together():
    """The table that loads one file a noun names what the whole program has, and nothing else."""
    assert {words[0] for words in verbs()} == set(main.HOMES)
    for word in main.HOMES:
        app = main.application([word])
        named = {command.name for command in app.registered_commands}
        assert word in named | {group.typer_instance.info.name for group in app.registered_groups}


@pytest.mark.parametrize("words", verbs(), ids=" ".join)
def test_every_verb_has_help_json_and_no_secret_option(words):
    """Each verb explains itself, prints JSON when asked, and takes no secret as an argument."""
    app = main.application()
    commands = [
        *app.registered_commands,
        *(c for g in app.registered_groups for c in g.typer_instance.registered_commands),
    ]
    command = next(command for command in commands if command.name == words[-1])
    assert command.callback is not None
    assert (command.callback.__doc__ or "").strip().endswith((".", ")"))
    assert "Exit codes" in (command.epilog or "")
    names = set(command.callback.__annotations__)
    assert {"as_json", "profile", "address"} <= names
    assert not names & {"password", "secret", "seed", "private_key"}


def test_a_passphrase_on_the_command_line_is_refused_and_not_repeated(tmp_path):
    """Who types the passphrase itself is told where it comes from, and the text is shown nowhere."""
    person = Person(tmp_path)
    done = person.sigil("keys", "new", "--out", "a.key", "--passphrase", "hunter2-my-secret", code=27)
    assert "hunter2" not in done.stdout + done.stderr
    assert not (tmp_path / "a.key").exists()


def test_a_key_file_is_private_and_never_overwritten(tmp_path):
    """Mode 0600, encrypted, and a second `keys new` on it changes nothing."""
    person = Person(tmp_path)
    public = person.sigil("keys", "new", "--out", "a.key").stdout.strip()
    before = (tmp_path / "a.key").read_bytes()
    assert stat.S_IMODE((tmp_path / "a.key").stat().st_mode) == 0o600
    assert person.sigil("keys", "public", "a.key").stdout.strip() == public
    assert person.refused("keys", "new", "--out", "a.key", code=21)["code"] == "KeyExists"
    assert (tmp_path / "a.key").read_bytes() == before


def test_verify_loads_nothing_that_talks():
    """The offline verb imports no HTTP, no bus, no database."""
    script = (
        "import sys; from cli import main; main.application(['verify']); import sigilcore.verify; "
        "print(sorted({'nats', 'aiohttp', 'asyncpg', 'sigilrun.bus', 'sigilrun.http'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_nobody_there_is_exit_code_3(tmp_path):
    """No stack, or an address where nobody listens: 3, with the next step."""
    person = Person(tmp_path)
    assert person.refused("whoami", code=3)["code"] == "NO_HOUSE"
    told = person.refused("whoami", "--address", "http://127.0.0.1:9", code=3)
    assert told["code"] == "UNREACHABLE"
    assert "sigil up" in told["next_step"]
    assert person.refused("status", code=3)["code"] == "NO_HOUSE"


def test_usage_and_unreadable_files_are_exit_code_2(tmp_path):
    """A missing option, an unknown verb, a file that isn't there."""
    person = Person(tmp_path)
    person.sigil("memory", "write", code=2)
    person.sigil("nonsense", code=2)
    assert person.refused("verify", "nowhere.json", code=2)["code"] == "FILE"


def test_a_house_that_cannot_start_says_why(tmp_path):
    """`up` fails with the end of the log when the data folder's config.toml is wrong."""
    person = Person(tmp_path)
    person.data.mkdir(mode=0o700)
    (person.data / "config.toml").write_text('[bus]\nurl = "nats://127.0.0.1:1"\nnkey = "x"\n')
    done = person.sigil("up", code=1)
    assert "[bus] nkey" in done.stderr
    assert not (person.data / "run.json").exists()


def test_the_doctor_says_what_it_could_not_look_at(tmp_path):
    """No house at all is exit 2: nothing was found, and nothing was called good."""
    told = Person(tmp_path).ask("doctor", code=2)
    assert told["findings"] == []
    assert "nothing runs" in told["unseen"][0]
    assert "no such folder" in told["unseen"][1]


# On the house


def test_the_first_run_makes_private_files_only(person):
    """Folders 0700, files 0600, and nothing of the keystore's passphrase or the token in any log."""
    secrets = [
        (person.data / "keys/passphrase").read_text().strip(),
        (person.data / "bootstrap.token").read_text().strip(),
        PASSPHRASE,
    ]
    for path in [person.data, *machines.paths_below(person.data), *(person.work / "home").rglob("*")]:
        if path.is_relative_to(person.data / "postgres") or path.name == "JetStream" or "jetstream" in path.parts:
            continue
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode & 0o077 == 0 or path.is_relative_to(person.data / "nats"), (path, oct(mode))
    for log in (person.data / "logs").iterdir():
        text = log.read_text("utf-8", "replace")
        assert not any(secret in text for secret in secrets), log


def test_the_token_is_gone_from_run_json_once_root_exists(person):
    """run.json tells programs address and processes, and no token that was used."""
    told = json.loads((person.data / "run.json").read_text())
    assert stat.S_IMODE((person.data / "run.json").stat().st_mode) == 0o600
    for _ in range(100):
        told = json.loads((person.data / "run.json").read_text())
        if told["bootstrap_token"] is None:
            break
        subprocess.run(["sleep", "0.1"], check=True)
    assert told["bootstrap_token"] is None
    assert {"nats", "postgres", "gateway", "canon_writer"} <= set(told["processes"])


def test_up_twice_is_nothing_and_a_second_run_is_refused(person):
    """A house that runs is found; nobody else may hold its data."""
    before = (person.data / "run.json").read_text()
    assert person.sigil("up").stdout.startswith("ready http://127.0.0.1:")
    assert (person.data / "run.json").read_text() == before
    done = person.sigil("run", code=1)
    assert "in use by process" in done.stderr


def test_root_is_founded_once(person):
    """Another key with the same token finds the door closed; the same key hears the same licence."""
    told = person.refused("init", "--key", "other.key", "--profile", "thief")
    assert told["code"] == "ALREADY_BOOTSTRAPPED"
    again = person.ask("init", "--key", "root.key", "--owner-name", "Grace", "--profile", "again")
    assert again["genesis_hash"] == person.ask("canon", "get", "0")["header"]["hash"]


def test_a_key_bound_licence_needs_its_own_key(person):
    """Root's licence with another key is refused on this side, before anything is sent."""
    person.sigil("keys", "new", "--out", "stranger.key")
    told = person.refused("login", "--license", "root.toml", "--key", "stranger.key", "--profile", "thief")
    assert "isn't it" in told["message"]
    assert person.refused("login", "--license", "root.toml", "--profile", "thief")["code"] == "REFUSED"


def test_who_am_i(person):
    """Each profile is who its licence says; a profile without a session is a stranger."""
    assert person.ask("whoami")["loa"] == "root"
    assert person.ask("whoami", "--profile", "olga")["owner_id"] == "olga"
    address = json.loads((person.data / "run.json").read_text())["address"]
    assert person.refused("whoami", "--profile", "nobody", "--address", address)["code"] == "SESSION_MISSING"


def test_memory_is_written_listed_and_read(person):
    """What was written is listed and read; the same id again is the first place."""
    words = ("memory", "write", "--profile", "olga", "--key", "greeting", "--text", "Good morning")
    first = person.ask(*words, "--id", "0190a000-0000-7000-8000-000000000001")
    again = person.ask(*words, "--id", "0190a000-0000-7000-8000-000000000001")
    assert (again["seq"], again["hash"], again["existing"]) == (first["seq"], first["hash"], True)
    listed = person.ask("memory", "list", "--profile", "olga")
    assert [item["key"] for item in listed["items"]] == ["greeting"]
    assert person.sigil("memory", "read", "greeting", "--profile", "olga").stdout == "Good morning\n"


def test_versions_are_told_and_compared(person):
    """History by id and by kind and key, page by page; the difference of two versions; a strange cursor and another's thing are refused."""
    olga = ("--profile", "olga")
    first, second = (person.ask("memory", "write", "--key", "told", "--text", text, *olga) for text in ("one", "two"))
    whole = [second["seq"], first["seq"]]
    named = ("--kind", "memory_block", "--key", "mem::olga::told")
    for asked in ((first["id"],), named):
        page = person.ask("canon", "history", *asked, *olga)
        assert ([one["seq"] for one in page["items"]], page["cursor"], page["corrupt"]) == (whole, None, [])
    page = person.ask("canon", "history", *named, "--limit", "1", *olga)
    assert [one["seq"] for one in page["items"]] == whole[:1]
    page = person.ask("canon", "history", *named, "--limit", "1", "--cursor", page["cursor"], *olga)
    assert ([one["seq"] for one in page["items"]], page["cursor"]) == (whole[1:], None)
    refused = person.refused("canon", "history", *named, "--cursor", "one", *olga)
    assert (refused["code"], refused["field"]) == ("BAD_INPUT", "$.cursor")
    for old in ((), (first["id"],)):
        told = person.ask("canon", "diff", second["id"], *old, *olga)
        assert {"path": "$.text", "old": "one", "new": "two"} in told["lines"]
    assert '$.text: "one" -> "two"' in person.sigil("canon", "diff", second["id"], *olga).stdout
    for verb in ("history", "diff"):
        hidden = person.refused("canon", verb, first["id"], "--profile", "gus")
        absent = person.refused("canon", verb, "0190b2c4-7c1e-7000-8000-000000000000", "--profile", "gus")
        assert hidden["code"] == absent["code"], (hidden, absent)


def test_an_erasure_of_anothers_thing_is_proposed(person):
    """A kind that can't be erased is refused here; before the seal there is no quorum that could order anything."""
    words = ("--owner", "olga", "--name", "told", "--reason", "a court", "--key", "root.key")
    assert "no kind" in person.refused("proposal", "erase", *words, "--kind", "genesis")["message"]
    assert person.refused("proposal", "erase", *words)["code"] == "NOT_SEALED"


def test_files_are_imported_once(person):
    """A folder becomes documents; the second run finds them there; what is too long is named and the exit code says so."""
    folder = person.work / "notes"
    folder.mkdir()
    (folder / "one.md").write_text("First.")
    (folder / "two.html").write_text("<title>Two</title><body><nav>menu</nav><main><p>Second.</p></main></body>")
    words = ("memory", "import", "notes", "--licence", "MIT", "--profile", "olga")
    assert person.ask(*words) == {"documents": 2, "written": 2, "existing": 0, "refused": {}}
    assert person.ask(*words)["existing"] == 2
    (folder / "three.txt").write_text("x" * 300_000)
    done = person.sigil(*words, code=1)
    assert "three.txt" in done.stdout
    listed = person.ask("call", "canon/user/list", "--kind", "document")
    assert listed["items"] == []
    mine = json.loads(person.sigil("call", "--profile", "olga", "canon/user/list", "--kind", "document").stdout)
    assert {item["value"]["text"] for item in mine["items"]} == {"First.", "Second."}


def test_a_refusal_names_code_decision_and_next_step(person):
    """A guest who writes is refused with exit 1; the decision it names is in the log."""
    told = person.refused("memory", "write", "--profile", "gus", "--key", "a", "--text", "b")
    assert told["code"] == "LOA_TOO_LOW"
    assert "licence" in told["next_step"]
    named = told["detail"]["decision"]
    name = named if isinstance(named, str) else f"{named['record']}.{named['index']}"
    shown = json.dumps(person.ask("audit", "get", name)["payload"])
    assert '"Deny"' in shown
    assert '"memory/write"' in shown


def test_root_verbs_need_the_owners_proof(person):
    """Without the key, and without a certificate that names the command, Root's own session issues nothing."""
    words = (
        "license",
        "create",
        "--owner-id",
        "eve",
        "--owner-name",
        "Eve",
        "--loa",
        "guest",
        "--expires-at",
        "2035-01-01",
    )
    assert person.refused(*words, "--out", "eve.toml")["code"] == "OWNER_PROOF_NEEDED"
    assert not (person.work / "eve.toml").exists()
    person.sigil(
        "login", "--profile", "named", "--license", "root.toml", "--key", "root.key", "--may", "license/create"
    )
    assert person.ask(*words, "--out", "eve.toml", "--profile", "named")["bearer"] is True
    assert stat.S_IMODE((person.work / "eve.toml").stat().st_mode) == 0o600


def test_a_revoked_licence_is_felt_at_once(person):
    """The next call of its session is refused, and validate says REVOKED with exit 1."""
    licence = ("--owner-id", "ivo", "--owner-name", "Ivo", "--loa", "operator", "--expires-at", "2035-01-01")
    issued = person.ask("license", "create", *licence, "--out", "ivo.toml", "--key", "root.key")
    person.sigil("login", "--profile", "ivo", "--license", "ivo.toml")
    assert person.ask("license", "validate", "ivo.toml")["valid"] is True
    person.sigil("license", "revoke", issued["license_id"], "--key", "root.key")
    assert (
        person.refused("memory", "write", "--profile", "ivo", "--key", "a", "--text", "b")["code"] == "LICENSE_INVALID"
    )
    told = json.loads(person.sigil("license", "validate", "ivo.toml", "--json", code=1).stdout)
    assert told["reasons"] == ["REVOKED"]


def test_a_proof_verifies_offline_and_a_changed_one_does_not(person):
    """Exit 0, 1 and 2: verified, does not verify, can't be read; the genesis can be pinned."""
    written = person.ask("canon", "write", "--profile", "olga", "--key", "colour", "--value", "teal")
    person.sigil("canon", "proof", written["id"], "--out", "proof.json")
    genesis = person.ask("canon", "get", "0")["header"]["hash"]
    assert person.sigil("verify", "proof.json", "--genesis", genesis).stdout.splitlines()[-1] == "verified"
    person.sigil("verify", "proof.json", "--genesis", "0" * 64, code=1)
    changed = (person.work / "proof.json").read_text().replace("teal", "leaf")
    (person.work / "changed.json").write_text(changed)
    done = person.sigil("verify", "changed.json", code=1)
    assert "3. FAILED" in done.stdout
    (person.work / "broken.json").write_text(changed[:-2])
    person.sigil("verify", "broken.json", code=2)


def test_the_ledger_is_exported_and_judged_again(person):
    """An export is its owner's alone and replays from the pinned genesis; a changed byte is refused at its seq."""
    person.sigil("audit", "export", "--out", "ledger.jsonl")
    assert (person.work / "ledger.jsonl").stat().st_mode & 0o077 == 0, "what everybody wrote is in it"
    genesis = person.ask("canon", "get", "0")["header"]["hash"]
    report = person.ask("audit", "replay", "ledger.jsonl", "--genesis", genesis)
    assert report["genesis"] == genesis
    lines = (person.work / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    assert report["records"] == len(lines) - 1
    lines[6] = lines[6].replace(b'"ts":"2', b'"ts":"3', 1)
    (person.work / "changed.jsonl").write_bytes(b"".join(lines))
    assert "seq 5:" in person.refused("audit", "replay", "changed.jsonl")["message"]


def test_call_asks_anything_and_adapts_words(person):
    """Words become parameters by the one rule; what the schema doesn't have is refused with the names it has."""
    assert json.loads(person.sigil("call", "--profile", "olga", "ping").stdout)["owner_id"] == "olga"
    one = json.loads(person.sigil("call", "canon/list", "--limit", "1", "--Space", "system").stdout)
    assert [item["header"]["core"]["kind"] for item in one["items"]] == ["genesis"]
    assert json.loads(person.sigil("call", "canon/get", '{"seq": 0}').stdout)["seq"] == 0
    assert "--wait_for" in person.refused("call", "canon/list", "--nope")["message"]
    assert person.refused("call", "no/such", "--a", "1")["code"] == "UNKNOWN_COMMAND"


def test_logout_closes_and_forgets(person):
    """The session's token and key leave the profile; the house knows the session no more."""
    person.sigil("login", "--profile", "brief", "--license", "olga.toml")
    kept = person.work / "home/profiles/brief/session.json"
    text = kept.read_text()
    person.sigil("logout", "--profile", "brief")
    assert not kept.exists()
    kept.write_text(text)
    kept.chmod(0o600)
    assert person.refused("whoami", "--profile", "brief")["code"] == "SESSION_CLOSED"


def test_config_show_is_effective_and_holds_no_secret(person):
    """What a process would read, with an override; a misspelt one is refused with its origin."""
    shown = json.loads(person.sigil("config", "show", "--json", SIGIL_GATE_BATCH="7").stdout)
    assert shown["gate"]["batch"] == 7
    passphrase = (person.data / "keys/passphrase").read_text().strip()
    assert passphrase not in json.dumps(shown)
    done = person.sigil("config", "show", code=1, SIGIL_GATE_BATHC="7")
    assert "SIGIL_GATE_BATHC" in done.stderr


def doctors(person, code=1, *words, **environment):
    """The findings' codes."""
    done = person.sigil("doctor", "--json", *words, code=code, **environment)
    return [one["code"] for one in json.loads(done.stdout)["findings"]]


def test_the_doctor_finds_what_is_open_to_others(person):
    """Run.json, the data folder, the keystore and a key in it, the profile's session: each by its path, with the command that mends it."""
    assert doctors(person) == ["UNSEALED"]
    spoilt = {
        person.data: 0o755,
        person.data / "run.json": 0o644,
        person.data / "keystore": 0o750,
        person.data / "keystore/license.json": 0o640,
        person.work / "home/profiles/default/session.json": 0o604,
    }
    before = {path: stat.S_IMODE(path.stat().st_mode) for path in spoilt}
    for path, mode in spoilt.items():
        path.chmod(mode)
    try:
        found = person.ask("doctor", code=1)["findings"]
    finally:
        for path, mode in before.items():
            path.chmod(mode)
    mended = {one["next_step"].split(";")[0] for one in found if one["code"] == "PERMISSIONS"}
    kept = {path: "700" if path.is_dir() else "600" for path in spoilt}
    assert mended == {f"chmod {mode} {path}" for path, mode in kept.items()}


def test_the_doctor_finds_settings_that_nobody_knows(person):
    """A misspelt setting, in the environment or in config.toml, by its origin."""
    assert "SETTINGS" in doctors(person, SIGIL_GATE_BATHC="7")
    config = person.data / "config.toml"
    before = config.read_text()
    config.write_text(before + "\n[gate]\nbathc = 7\n")
    try:
        assert doctors(person) == ["SETTINGS", "UNSEALED"]
    finally:
        config.write_text(before)


def test_the_doctor_finds_who_is_silent(person):
    """A service that hangs is told, with its log; the look goes on."""
    pid = json.loads((person.data / "run.json").read_text())["processes"]["notary"]
    os.kill(pid, signal.SIGSTOP)
    try:
        found = person.ask("doctor", code=1)["findings"]
    finally:
        os.kill(pid, signal.SIGCONT)
    silent = [one for one in found if one["code"] == "UNHEALTHY"]
    assert [one["what"].split(";")[0] for one in silent] == ["notary: silent"]
    assert "logs/notary.log" in silent[0]["next_step"]
    assert "UNSEALED" in [one["code"] for one in found]


def test_the_doctor_of_a_profile(person):
    """One's own licence is looked at from anywhere, also where the log isn't one's to read; a revoked one is found by the log."""
    soon = time.strftime("%Y-%m-%d", time.gmtime(time.time() + 5 * 86_400))
    words = ("--owner-id", "eva", "--owner-name", "Eva", "--loa", "observer", "--expires-at", soon)
    issued = person.ask("license", "create", *words, "--out", "eva.toml", "--key", "root.key")
    person.sigil("login", "--profile", "eva", "--license", "eva.toml")
    assert sorted(doctors(person, 1, "--profile", "eva")) == ["LICENCE_EXPIRING", "UNSEALED"]
    address = json.loads((person.data / "run.json").read_text())["address"]
    remote = ("--profile", "eva", "--data", str(person.work / "nowhere"), "--address", address)
    assert sorted(doctors(person, 1, *remote)) == ["LICENCE_EXPIRING", "UNSEALED"]
    person.sigil("license", "revoke", issued["license_id"], "--key", "root.key")
    assert sorted(doctors(person, 1, "--profile", "eva")) == ["LICENCE_ENDED", "UNSEALED"]
