"""What goes wrong at a terminal at three in the morning: a clear line names it, and nobody's process, folder or file is hurt."""

import contextlib
import errno
import http.server
import json
import os
import pty
import stat
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from sigilrun import private_files
from sigilrun.embedded import folder
from tests.terminal import PASSPHRASE, Person

LICENCE = ("--owner-id", "ann", "--owner-name", "Ann", "--loa", "operator", "--expires-at", "2035-01-01")


@pytest.fixture
def person(tmp_path: Path) -> Person:
    """Somebody without a house."""
    return Person(tmp_path)


@contextlib.contextmanager
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with us."""
    with subprocess.Popen(["sleep", "600"]) as one:
        try:
            yield one
        finally:
            one.kill()


def at_a_terminal(person: Person, *words: str, typed: Sequence[bytes] = ()) -> tuple[int, str]:
    """What the terminal shows, and the exit code; to each prompt the next of `typed` is sent."""
    pid, screen = pty.fork()
    if not pid:
        os.chdir(person.work)
        os.execve(person.argv()[0], person.argv(*words), person.environment)
    shown, answers = b"", list(typed)
    with contextlib.suppress(OSError):  # the terminal ends with its program
        while chunk := os.read(screen, 65536):
            shown += chunk
            while answers and shown.count(b": ") > len(typed) - len(answers):
                os.write(screen, answers.pop(0))
    os.close(screen)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode()


# Without a house


def test_a_stale_run_file_names_nobody_s_process(person: Person) -> None:
    """A run that was killed left run.json; its process id is somebody else's by now, and `down` doesn't end that."""
    person.data.mkdir(mode=0o700)
    (person.data / "lock").write_text("1\n")
    with bystander() as other:
        told = {"logs": "", "started_at": "", "supervisor": other.pid, "address": "http://127.0.0.1:9"}
        (person.data / "run.json").write_text(json.dumps(told))
        assert person.refused("status", code=3)["code"] == "NO_HOUSE"
        assert person.ask("down") == {"stopped": False}
        assert other.poll() is None


def test_a_folder_of_other_things_is_left_as_it_is(person: Person) -> None:
    """`make run DATA=~` must not shut the home against everyone, nor strew keys into it."""
    home = person.work / "photos"
    home.mkdir()
    home.chmod(0o755)
    (home / "cat.jpg").write_bytes(b"cat")
    for verb in ("up", "run"):
        told = person.refused(verb, "--data", str(home))
        assert "cat.jpg" in told["message"], verb
    assert stat.S_IMODE(home.stat().st_mode) == 0o755
    assert [path.name for path in home.iterdir()] == ["cat.jpg"]


def test_where_it_goes_is_looked_at_before_the_house_is_asked(person: Person) -> None:
    """A licence that was issued and can't be written is lost, so a wrong path is told first: here nobody could be asked at all."""
    told = person.refused("license", "create", *LICENCE, "--out", "nowhere/ann.toml", code=2)
    assert (told["code"], "nowhere" in told["message"]) == ("FILE", True)
    (person.work / "gone.toml").symlink_to(person.work / "elsewhere")
    assert "is there already" in person.refused("license", "create", *LICENCE, "--out", "gone.toml")["message"]
    person.sigil("keys", "new", "--out", "old.key")
    told = person.refused("keys", "rotate", "old.key", "--out", "new.key", "--statement", "nowhere/said.json", code=2)
    assert "nowhere" in told["message"]
    assert not (person.work / "new.key").exists()


def test_a_path_through_a_file_is_a_key_that_is_missing(person: Person) -> None:
    """Not one that others could read: chmod wouldn't help."""
    told = person.refused("keys", "sign", "pass", "--key", "pass/root.key", code=10)
    assert (told["code"], "pass/root.key" in told["message"]) == ("KeyMissing", True)


def test_broken_files_of_one_s_own_are_told_by_name(person: Person) -> None:
    """A profile, run.json, deployment.json, a draft and a record whose bytes a failing disk changed."""
    profile = person.work / "home" / "profiles" / "default"
    profile.mkdir(parents=True)
    for path in (profile.parent.parent, profile.parent, profile):
        path.chmod(0o700)
    garbage = b'{"address": "\xff"}'
    for name in ("profile.json", "license.toml", "session.json"):
        private_files.write_new(profile / name, garbage)
    away = ("--address", "http://127.0.0.1:9")
    assert "session.json" in person.refused("whoami")["message"]
    (profile / "session.json").unlink()
    assert "profile.json" in person.refused("whoami")["message"]
    assert "license.toml" in person.refused("login", *away)["message"]
    person.data.mkdir(mode=0o700)
    (person.data / "run.json").write_bytes(garbage)
    assert person.refused("status", code=3)["code"] == "NO_HOUSE"
    (person.data / "bootstrap.token").write_text("token")
    (person.data / "bootstrap.token").chmod(0o600)
    (person.data / "deployment.json").write_bytes(garbage)
    assert "deployment.json" in person.refused("init", "--key", "root.key", *away)["message"]
    assert not (person.work / "root.key").exists()
    (person.work / "draft").write_bytes(garbage)
    assert "draft" in person.refused("proposal", "propose", "draft", "--key", "root.key")["message"]
    told = person.refused("keys", "attest", "draft", "--as", "ada", "--key", "root.key")
    assert "draft" in told["message"]


def test_a_file_to_verify_says_nothing_in_our_name(person: Person) -> None:
    """Names in somebody else's proof end no line of ours, so none of them reads `verified`, and none moves the cursor."""
    (person.work / "proof.json").write_text(json.dumps({"x\nverified\n\x1b[2J\u202e": 1}))
    done = person.sigil("verify", "proof.json", code=2)
    assert "verified" not in (done.stdout + done.stderr).splitlines()
    assert not {"\x1b", "\u202e"} & set(done.stdout + done.stderr)


def test_a_full_disk_takes_no_voice_that_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that travels from witness to witness keeps what it held when the next voice can't be written."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    packet = tmp_path / "proposal"
    private_files.replace(packet, b"one voice")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        private_files.replace(packet, b"two voices")
    assert [path.name for path in tmp_path.iterdir()] == ["proposal"]
    assert packet.read_bytes() == b"one voice"


def test_a_name_that_is_no_text_is_shown_all_the_same(person: Person) -> None:
    """A file's name of any bytes, and a terminal that has few letters: neither ends in a fault."""
    (person.work / os.fsdecode(b"\xff.key")).touch(mode=0o600)
    assert r"\udcff.key" in person.sigil("keys", "list", ".", code=1).stdout
    (person.work / "\xfc.key").touch(mode=0o600)
    assert r"\xfc.key" in person.sigil("keys", "list", ".", code=1, PYTHONIOENCODING="ascii").stdout


def test_the_doctor_looks_where_it_is_told_or_says_that_it_did_not(person: Person) -> None:
    """A folder that isn't there, and one where nothing runs, are never called good, whatever else is in order."""
    told = person.ask("doctor", "--data", "nowhere", "--address", "http://127.0.0.1:9", code=2)
    assert told["unseen"][-1] == "nowhere: there is no such folder"
    person.data.mkdir(mode=0o700)
    told = person.ask("doctor", "--address", "http://127.0.0.1:9", code=2)
    assert told["unseen"][-1].endswith("nothing runs there")


def test_what_is_no_address_is_said_to_be_none(person: Person) -> None:
    """Nothing is asked, and the next step says how one is written."""
    told = person.refused("whoami", "--address", "localhost:8080")
    assert ("localhost:8080" in told["message"], "http://" in told["next_step"]) == (True, True)


def test_the_token_goes_to_no_other_house(person: Person) -> None:
    """The profile knows another house; a token in a folder where nothing runs isn't shown to it."""
    heard: list[bytes] = []

    class Other(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_error(500)

    server = http.server.HTTPServer(("127.0.0.1", 0), Other)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    profile = person.work / "home" / "profiles" / "default"
    private_files.make_folder(person.work / "home")
    private_files.make_folder(profile.parent)
    private_files.make_folder(profile)
    about = json.dumps({"address": f"http://127.0.0.1:{server.server_port}"})
    private_files.write_new(profile / "profile.json", about.encode())
    person.data.mkdir(mode=0o700)
    private_files.write_new(person.data / "bootstrap.token", b"only-for-this-house\n")
    told = person.refused("init", "--key", "root.key", code=3)
    assert (told["code"], str(person.data) in told["message"]) == ("NO_HOUSE", True)
    server.shutdown()
    server.server_close()
    assert heard == []


def test_ctrl_c_at_a_prompt_is_130(person: Person) -> None:
    """Nothing was made, and nothing is said but that."""
    code, shown = at_a_terminal(person, "keys", "new", "--out", "a.key", "--passphrase", "prompt", typed=[b"\x03"])
    assert (code, "Traceback" in shown) == (130, False), shown
    assert not (person.work / "a.key").exists()


# On a house


def test_a_passphrase_that_was_mistyped_seals_no_new_key(person: Person) -> None:
    """A whole house from one file, at a terminal: Root's new key needs its passphrase twice, or nobody could ever open it."""
    (person.work / "house.toml").write_text(
        '[root]\nkey = "root.key"\n[quorum]\nk = 1\n'
        '[[mentor]]\nid = "ada"\nname = "Ada"\nkey = "ada.key"\nlicence = "ada.toml"\nexpires_at = "2035-01-01"\n'
    )
    person.sigil("up")
    try:
        words = ("init", "--from", "house.toml", "--passphrase", "prompt")
        code, shown = at_a_terminal(person, *words, typed=[b"correct horse\n", b"corect horse\n"])
        assert (code, "PassphraseMismatch" in shown) == (24, True), shown
        assert not (person.work / "root.key").exists()
    finally:
        person.sigil("down")


@pytest.fixture(scope="module")
def housed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Person]:
    """Root, by a passphrase that came through a descriptor, and an operator."""
    one = Person(tmp_path_factory.mktemp("mishaps"))
    one.sigil("up")
    try:
        read, write = os.pipe()
        os.write(write, PASSPHRASE.encode() + b"\n")
        os.close(write)
        founded = subprocess.run(
            one.argv("init", "--key", "root.key", "--passphrase", f"fd:{read}"),
            cwd=one.work,
            env=one.environment,
            pass_fds=(read,),
            capture_output=True,
            text=True,
            check=False,
        )
        os.close(read)
        assert founded.returncode == 0, founded.stderr
        one.sigil("license", "create", *LICENCE, "--out", "ann.toml", "--key", "root.key")
        one.sigil("login", "--profile", "ann", "--license", "ann.toml")
        yield one
    finally:
        one.sigil("down")


def test_every_answer_has_its_fields(housed: Person) -> None:
    """`--field` holds for `call` and for a proof on stdout as for every verb."""
    assert housed.sigil("call", "--field", "owner_id", "--profile", "ann", "ping").stdout == "ann\n"
    assert housed.refused("call", "--field", "nope", "--profile", "ann", "ping")["message"].endswith("'nope'")
    founding = housed.ask("canon", "get", "0")["header"]["core"]["id"]
    assert housed.sigil("canon", "proof", founding, "--field", "format").stdout.startswith("sigil-")


def test_what_others_wrote_moves_nothing_on_a_terminal(housed: Person) -> None:
    """Ann's memory would set Root's clipboard and turn text around; Root's terminal shows it, and a file gets it as it is."""
    text = "hello\x1b]52;c;cm0=\x07\u202eevil\x9b2J"
    housed.sigil("memory", "write", "--profile", "ann", "--key", "note", "--text", text)
    assert housed.sigil("memory", "read", "note", "--profile", "ann").stdout == text + "\n"
    code, shown = at_a_terminal(housed, "memory", "read", "note", "--user", "ann")
    assert (code, shown) == (0, "hello\\u001b]52;c;cm0=\\u0007\\u202eevil\\u009b2J\r\n")


def test_a_key_that_is_not_the_licence_s_is_told_by_whose_it_should_be(housed: Person) -> None:
    """Before anything is sent: the house could only say that a signature is wrong."""
    housed.sigil("keys", "new", "--out", "other.key")
    told = housed.refused("license", "revoke", "01890a5d-ac96-774b-bcce-b302099a8057", "--key", "other.key")
    assert (told["code"], "root's" in told["message"]) == ("REFUSED", True)


def test_a_doctor_s_visit_to_another_folder_is_not_this_house_s(housed: Person) -> None:
    """The profile's house answers and is sound; the folder that was named isn't there, and that is not `nothing found`."""
    assert "nowhere: there is no such folder" in housed.ask("doctor", "--data", "nowhere", code=1)["unseen"]


def test_a_failed_start_tells_its_own_reason(housed: Person) -> None:
    """What an earlier try said of config.toml isn't told again once it is mended."""
    housed.sigil("down")
    config = housed.data / "config.toml"
    before = config.read_text()
    try:
        for name in ("first", "second"):
            config.write_text(f"{before}\n[{name}]\n")
            shown = housed.sigil("up", code=1).stderr
            assert ("[first]" in shown, "[second]" in shown) == (name == "first", name == "second")
    finally:
        config.write_text(before)
        housed.sigil("up")


def test_a_session_that_the_house_ended_is_forgotten_by_logout(housed: Person) -> None:
    """Nobody keeps a dead session because it can't be closed any more."""
    words = ("--owner-id", "ivo", "--owner-name", "Ivo", "--loa", "operator", "--expires-at", "2035-01-01")
    issued = housed.ask("license", "create", *words, "--out", "ivo.toml", "--key", "root.key")
    housed.sigil("login", "--profile", "ivo", "--license", "ivo.toml")
    housed.sigil("license", "revoke", issued["license_id"], "--key", "root.key")
    housed.sigil("logout", "--profile", "ivo")
    assert not (housed.work / "home/profiles/ivo/session.json").exists()


def test_a_house_without_its_run_file_is_found_and_stopped(housed: Person) -> None:
    """It runs, and nothing says where: status, up and doctor tell by whom the folder is held, and down ends it."""
    run_file = housed.data / "run.json"
    pid = json.loads(run_file.read_text())["supervisor"]
    run_file.unlink()
    for verb in ("status", "up"):
        told = housed.refused(verb, code=3)
        assert (told["code"], str(pid) in told["message"]) == ("NO_HOUSE", True)
    found = housed.ask("doctor", code=1)["findings"]
    assert [one["what"] for one in found if one["code"] == "RUN_FILE" and str(pid) in one["what"]]
    assert housed.ask("down") == {"stopped": True}
    assert folder.holder(housed.data) is None
    housed.sigil("up")
