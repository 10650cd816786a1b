"""`sigil audit replay` on several processes says what one says, of good ledgers and of bad ones."""

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cli import ledger, main, replaying, seam
from cli.refusal import Refusal
from sigilcore import record, replay, signing, vouch
from sigilcore.access import Loa
from sigilcore.records import system
from tests.simulator import House, Person


@pytest.fixture(scope="module")
def house():
    """A few hundred records; in the middle a licence, and several changes in one record, that later runs stand on."""
    built = House()
    ada = built.issue(Person("ada", keyed=False), Loa.OPERATOR)
    for number in range(60):
        built.remember(ada, f"note-{number}")
    eve = built.issue(Person("eve", keyed=False), Loa.OPERATOR)
    late = built.granted(ada, "memory/write")
    fresh = built.services["knowledge"] = signing.Ed25519Signer.generate()
    key = system.ServiceKey(service="knowledge", key=fresh.public_key.hex(), expires_at=built.later())
    built.change("changes", built.several(built.new_model(), key))
    built.introduce("knowledge")
    for number in range(60):
        built.remember(eve, f"note-{number}")
    built.place(built.memory(late, "late"))
    built.revoke(eve)
    return built


@pytest.fixture
def file(house, tmp_path):
    """Writes an export of these records."""

    def write(records):
        path = tmp_path / "ledger.jsonl"
        lines = [
            msgspec.json.encode(ledger.Head(checkpoint=house.checkpoint().decode())),
            *map(msgspec.json.encode, records),
        ]
        path.write_bytes(b"".join(line + b"\n" for line in lines))
        return path

    return write


@pytest.fixture(autouse=True)
def short_runs(monkeypatch):
    """So that a small ledger is many runs."""
    monkeypatch.setattr(replaying, "RUN_RECORDS", 16)


def test_many_cores_agree_with_one(house, file):
    """The whole report is the same, and progress is told run by run."""
    path, heard = file(house.placed()), []
    alone = ledger.replay(path, house.state.genesis_hash, workers=1)
    assert ledger.replay(path, house.state.genesis_hash, workers=3, progress=heard.append) == alone
    assert heard == [*range(16, len(house.log), 16), len(house.log)]
    assert ledger.size(path) == alone.records


def test_many_cores_stop_where_one_stops(house, file):
    """A changed byte in the middle, with good runs before and after it."""
    records, seq = house.placed(), 101
    bent = bytes(records[seq].payload).replace(b'"te', b'"tE', 1) if b'"te' in bytes(records[seq].payload) else b"{}"
    records[seq] = msgspec.structs.replace(records[seq], payload=msgspec.Raw(bent))
    path, said = file(records), []
    for workers in (1, 3):
        with pytest.raises(replay.Diverged) as caught:
            ledger.replay(path, workers=workers)
        said.append((caught.value.seq, caught.value.code, caught.value.reason))
    assert said[0] == said[1]
    assert said[0][0] == seq


def flipped(lines, data):
    """One bit of one line; it may be no JSON any more, or two lines."""
    at = data.draw(st.integers(0, len(lines) - 1))
    raw = bytearray(lines[at])
    raw[data.draw(st.integers(0, len(raw) - 2))] ^= 1 << data.draw(st.integers(0, 7))
    return [*lines[:at], bytes(raw), *lines[at + 1 :]]


def dropped(lines, data):
    """One record less."""
    at = data.draw(st.integers(0, len(lines) - 1))
    return lines[:at] + lines[at + 1 :]


def doubled(lines, data):
    """One record once more, somewhere."""
    at = data.draw(st.integers(0, len(lines)))
    return [*lines[:at], data.draw(st.sampled_from(lines)), *lines[at:]]


def crossed(lines, data):
    """The bytes of one record at the place of another."""
    at = data.draw(st.integers(0, len(lines) - 1))
    others = [*lines[:at], *lines[at + 1 :]]
    other = msgspec.json.decode(data.draw(st.sampled_from(others)), type=record.PlacedRecord)
    return [*lines[:at], msgspec.json.encode(msgspec.structs.replace(other, seq=at)) + b"\n", *lines[at + 1 :]]


def emptied(lines, data):
    """A payload and its salt are gone."""
    at = data.draw(st.integers(0, len(lines) - 1))
    whole = msgspec.json.decode(lines[at], type=record.PlacedRecord)
    erased = msgspec.structs.replace(whole, payload=msgspec.Raw(b"null"), salt=None)
    return [*lines[:at], msgspec.json.encode(erased) + b"\n", *lines[at + 1 :]]


def kept(lines, data):
    """Nothing."""
    return lines


def outcome(path, workers):
    """The report, or where and why it stopped; how far it came before that."""
    heard = [0]
    try:
        return ledger.replay(path, workers=workers, progress=heard.append), heard
    except (replay.Diverged, Refusal) as stopped:
        return str(stopped), heard


@given(
    data=st.data(),
    workers=st.integers(2, 4),
    tamper=st.sampled_from([kept, flipped, dropped, doubled, crossed, emptied]),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_number_of_workers_says_the_same(house, file, data, workers, tamper):
    """One process and several give the same report, or stop at the same record for the same reason, whatever was done to the file."""
    path = file(house.placed())
    head, *lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(head + b"".join(tamper(lines, data)))
    alone = outcome(path, 1)
    assert outcome(path, workers) == alone
    assert isinstance(alone[0], replay.Report) == (tamper is kept)


def test_what_is_no_record_can_t_be_read(house, file):
    """A line that isn't a record, or is longer than any, is no ledger: that is said, not a position."""
    path = file(house.placed())
    lines = path.read_bytes().splitlines(keepends=True)
    lines[50] = b"{}\n"
    path.write_bytes(b"".join(lines))
    for workers in (1, 2):
        with pytest.raises(Refusal, match="can't be read"):
            ledger.replay(path, workers=workers)
    lines[50] = b" " * (replaying.LINE_BYTES + 1) + b"\n"
    path.write_bytes(b"".join(lines))
    with pytest.raises(Refusal, match="can't be read"):
        ledger.replay(path, workers=1)


def test_a_line_with_two_headers(house, file):
    """JSON readers take the last of two equal names. So does every reader here, whichever record's the first one is, or if it is none."""
    path = file(house.placed())
    lines = path.read_bytes().splitlines(keepends=True)
    alone = outcome(path, 1)
    governing = next(at for at, line in enumerate(lines) if at and vouch.governs(line))
    other = next(at for at, line in enumerate(lines) if at and not vouch.governs(line))
    for at, first in ((governing, b"5"), (governing, house.placed()[other - 1].header), (other, b"{}")):
        doubled = lines[at].replace(b'"header":', b'"header":' + bytes(first) + b',"header":', 1)
        path.write_bytes(b"".join([*lines[:at], doubled, *lines[at + 1 :]]))
        for workers in (1, 2):
            assert outcome(path, workers) == alone


def test_a_worker_that_dies_is_missed(file):
    """Nothing is believed of a worker that doesn't answer."""
    with replaying._team(1, file([])) as team:
        team[0].process.kill()
        with pytest.raises(replaying.WorkerDied):
            team[0].receive()


def test_workers_end_with_who_asks(file):
    """A pipe that closes ends its worker, whatever the others hold open."""
    with replaying._team(3, file([])) as team:
        for worker in team:
            worker.pipe.close()
        for worker in reversed(team):
            worker.process.join(20)
            assert worker.process.exitcode == 0


def test_a_worker_reads_and_follows_what_it_is_told(house, file):
    """A worker's answer over its pipe is a voucher's; it reads its own bytes of the file."""
    lines = tuple(msgspec.json.encode(placed) + b"\n" for placed in house.placed())
    path = file(house.placed())
    at = path.stat().st_size - sum(map(len, lines[80:]))
    with replaying._team(1, path) as team:
        team[0].earlier = [(seq, line) for seq, line in enumerate(lines[:80]) if vouch.governs(line)]
        team[0].send(replaying.Run(80, at, lines[80:100]))
        answer = team[0].receive()
    whole = vouch.Voucher()
    whole.vouch(0, lines[:80])
    assert answer == whole.vouch(80, lines[80:100])
    assert any(answer.entries)


def test_a_file_that_changes_while_it_is_read(house):
    """A governing record that a worker read otherwise than the one who judges it: the tree is not of what was judged."""
    lines = [msgspec.json.encode(placed) for placed in house.placed()]
    seq = max(seq for seq, line in enumerate(lines) if vouch.governs(line))
    other = record.witnessed(house.log[seq], [record.witness(house.log[seq], "eve", house.root.signer)])
    swapped = list(lines)
    swapped[seq] = msgspec.json.encode(msgspec.structs.replace(house.placed()[seq], header=other.header))
    machine = replay.Replay()
    with pytest.raises(replay.Diverged) as caught:
        machine.absorb(vouch.Voucher().vouch(0, swapped), lines)
    assert (caught.value.seq, caught.value.code) == (seq, "REPLAY")


def said(words, *more):
    """What the command says to these words."""
    return CliRunner().invoke(main.application(words), [*words, *more], obj=seam.State())


def test_the_command_takes_both_fingerprints(house, file):
    """`sigil audit replay`: exit 0 and a report that names what was pinned and what is asserted; exit 1 with another seal."""
    sealed = House()
    sealed.seal(sealed.mentors(3), 2)
    path = file([])
    head = msgspec.json.encode(ledger.Head(checkpoint=sealed.checkpoint().decode()))
    path.write_bytes(b"\n".join([head, *map(msgspec.json.encode, sealed.placed())]) + b"\n")
    seal = record.check(sealed.log[-1]).header.hash
    words = ["audit", "replay", str(path), "--genesis", sealed.state.genesis_hash, "--cores", "1", "--json"]
    done = said(words, "--seal", seal)
    report = msgspec.json.decode(done.stdout)
    assert (done.exit_code, report["pinned"], report["seal"]) == (0, ["genesis", "seal"], seal)
    assert "time" in report["asserted"]
    assert report["records_per_s"] > 0
    kept = path.with_suffix(".checkpoint")
    kept.write_bytes(sealed.checkpoint())
    assert said(words, "--checkpoint", str(kept), "--size", str(len(sealed.log))).exit_code == 0
    for wrong in (["--seal", "0" * 64], ["--size", str(len(sealed.log) + 1)]):
        done = said(words, *wrong)
        assert isinstance(done.exception, Refusal)
        assert str(done.exception).startswith("seq ")
