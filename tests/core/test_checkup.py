"""`sigil doctor`: a clean house has no finding, each thing that is wrong has exactly its own, and the looks see what is there."""

import asyncio
import contextlib
import datetime as dt
import http.server
import json
import threading
from collections.abc import Iterator
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import msgspec
import nats
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli import checkup, looking, profiles
from sigilcore import clock
from sigilcore.access import Loa
from sigilrun.embedded import binaries, ports

NOW_MS = 1_790_000_000_000
DAY_MS = checkup.DAY_MS


def entry(**changes: Any) -> checkup.Entry:
    return msgspec.structs.replace(checkup.Entry(path="/data/x", kind="file", mode=0o600, mine=True), **changes)


def held(**changes: Any) -> checkup.Held:
    made = checkup.Held(
        license_id="i", owner_id="ada", loa=Loa.OPERATOR, expires_at=clock.format_ms(NOW_MS + 90 * DAY_MS), own=False
    )
    return msgspec.structs.replace(made, **changes)


PAGE = (Path(__file__).parents[2] / "docs/CLI.md").read_text()
SOON, GONE = clock.format_ms(NOW_MS + 29 * DAY_MS), clock.format_ms(NOW_MS - 1)
CLEAN = checkup.Facts(
    now_ms=NOW_MS,
    entries=(entry(), entry(kind="folder", mode=0o700), entry(mode=0o400)),
    disk_free_bytes=1 << 40,
    ready=True,
    bootstrapped=True,
    sealed=True,
    witnesses=5,
    needs={"a change": 3, "a log_key": 4},
    licences=(held(), held(own=True)),
    skew_ms=checkup.SKEW_MS,
    newest_ms=NOW_MS + checkup.SKEW_MS,
    size=100,
    cosigners=2,
    witnessed_size=100,
    stream_last=100,
    sync_always=True,
    encrypted=True,
)


def test_a_clean_house_has_no_finding() -> None:
    """Every fact at its bound: exit 0."""
    assert checkup.examine(CLEAN) == checkup.Examined(findings=(), unseen=())
    assert checkup.examine(CLEAN).exit_code == 0


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"entries": (entry(mode=0o640),)}, "PERMISSIONS", "chmod 600 /data/x"),
        ({"entries": (entry(kind="folder", mode=0o701),)}, "PERMISSIONS", "chmod 700 /data/x"),
        ({"entries": (entry(mine=False),)}, "PERMISSIONS", "chown"),
        ({"entries": (entry(kind="other", mode=0o777),)}, "PERMISSIONS", "link"),
        ({"settings": ("environment SIGIL_X: no such setting",)}, "SETTINGS", "SIGIL_X"),
        ({"disk_free_bytes": checkup.DISK_LOW_BYTES - 1}, "DISK_LOW", "1023 MiB"),
        ({"disk_free_bytes": 2 << 30, "disk_reserve_bytes": (2 << 30) + 1}, "DISK_LOW", "2048 MiB"),
        ({"lost": 7}, "RUN_FILE", "sigil down"),
        ({"wrong": ("notary: silent; its commands: a",)}, "UNHEALTHY", "logs/notary.log"),
        ({"ready": False}, "UNHEALTHY", "not ready"),
        ({"bootstrapped": False, "sealed": False}, "NO_ROOT", "sigil init"),
        ({"sealed": False}, "UNSEALED", "sigil seal"),
        ({"witnesses": 4}, "WITNESS_MARGIN", "a log_key needs 4 of 4"),
        ({"needs": {"a change": 6}}, "WITNESS_MARGIN", "can't be reached"),
        ({"licences": (held(expires_at=SOON),)}, "LICENCE_EXPIRING", "sigil license renew i"),
        ({"licences": (held(expires_at=SOON, own=True),)}, "LICENCE_EXPIRING", "your licence"),
        ({"licences": (held(expires_at=GONE, own=True),)}, "LICENCE_ENDED", GONE),
        ({"licences": (held(ended=True, own=True),)}, "LICENCE_ENDED", "revoked"),
        ({"skew_ms": checkup.SKEW_MS + 1}, "CLOCK_SKEW", "ahead of"),
        ({"skew_ms": -checkup.SKEW_MS - 1}, "CLOCK_SKEW", "behind"),
        ({"newest_ms": NOW_MS + checkup.SKEW_MS + 1}, "CLOCK_SKEW", "newest record"),
        ({"witnessed_size": 99}, "UNWITNESSED", "cover 99"),
        ({"sync_always": False}, "BUS_NOT_DURABLE", "sync_interval"),
        ({"encrypted": False}, "BUS_NOT_ENCRYPTED", "cipher"),
        ({"stream_last": 99}, "STREAM_BEHIND", "sigil canon refill"),
    ],
    ids=str,
)
def test_each_wrong_thing_is_found_and_nothing_else(changes: dict[str, Any], code: str, says: str) -> None:
    """One finding, of this code, with a next step: exit 1, also when something else couldn't be looked at."""
    found = checkup.examine(msgspec.structs.replace(CLEAN, unseen=("the bus",), **changes))
    assert [one.code for one in found.findings] == [code]
    assert f"`{code}`" in PAGE
    assert says in found.findings[0].what + found.findings[0].next_step
    assert found.findings[0].next_step
    assert found.exit_code == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"licences": (held(expires_at=SOON, renewed=True), held(expires_at=GONE), held(expires_at=SOON, ended=True))},
        {"cosigners": 0, "witnessed_size": 0},
        {"stream_last": None, "sync_always": None, "encrypted": None, "skew_ms": None, "newest_ms": None},
        {"witnesses": None, "sealed": None, "bootstrapped": None, "ready": None, "disk_free_bytes": None},
    ],
    ids=str,
)
def test_what_is_in_order_or_unknown_is_no_finding(changes: dict[str, Any]) -> None:
    """A licence that was renewed or that is over, a policy without cosigners, and what nobody saw."""
    assert checkup.examine(msgspec.structs.replace(CLEAN, **changes)).findings == ()


def test_not_looking_is_not_good() -> None:
    """Nothing found and something unseen: exit 2."""
    assert checkup.examine(msgspec.structs.replace(CLEAN, unseen=("the bus: gone",))).exit_code == 2


@given(
    before=st.integers(0, 10**13),
    took=st.integers(0, 5_000),
    off=st.integers(-(10**7), 10**7),
    at=st.integers(0, 5_000),
)
def test_skew_never_blames_a_clock_for_rounding_or_waiting(before: int, took: int, off: int, at: int) -> None:
    """Whatever moment of the exchange the server's date was taken at, the difference that is told is never more than the real one."""
    told_at = before + min(at, took) + off
    found = looking.skew(told_at - told_at % 1000, before, before + took)
    assert abs(found) <= abs(off)
    assert found == 0 or (found > 0) == (off > 0)


# The looks


class Face(http.server.BaseHTTPRequestHandler):
    """A face whose clock is ten seconds ahead."""

    def do_GET(self) -> None:
        body = json.dumps({"ready": True, "wrong": [], "bootstrapped": False, "sealed": False}).encode()
        self.send_response_only(200)
        self.send_header("Date", format_datetime(dt.datetime.now(dt.UTC) + dt.timedelta(seconds=10), usegmt=True))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quietly."""


@pytest.fixture
def face() -> Iterator[str]:
    server = http.server.HTTPServer(("127.0.0.1", 0), Face)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def doctor(data: Path | None, address: str | None, monkeypatch: pytest.MonkeyPatch, home: Path) -> looking.Doctor:
    monkeypatch.setenv("SIGIL_HOME", str(home))
    return looking.Doctor(profiles.Profile("default"), data, address, 30)


async def test_a_clock_that_is_ahead_is_seen(face: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the date of an answer, at least nine of its ten seconds."""
    facts = await doctor(None, face, monkeypatch, tmp_path).look()
    assert facts.skew_ms is not None
    assert 8_000 < facts.skew_ms <= 10_000
    assert [one.code for one in checkup.examine(facts).findings] == ["NO_ROOT", "CLOCK_SKEW"]


async def test_a_face_that_is_gone_is_unseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The look says what it couldn't see, and ends."""
    facts = await doctor(None, "http://127.0.0.1:9", monkeypatch, tmp_path).look()
    assert facts.ready is None
    assert facts.unseen[0].startswith("the face: ")


def test_links_and_open_files_are_seen_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link in the keystore isn't followed; what the servers own isn't walked."""
    data = tmp_path / "data"
    for name in ("keystore", "postgres", "logs"):
        (data / name).mkdir(parents=True, mode=0o700)
    (data / "keystore/license.json").symlink_to("/etc/passwd")
    (data / "logs/run.log").touch(mode=0o644)
    data.chmod(0o750)
    seen = {Path(one.path).name: one for one in doctor(data, None, monkeypatch, tmp_path)._entries()}
    assert set(seen) == {"data", "keystore", "logs", "license.json"}
    assert (seen["license.json"].kind, seen["data"].mode) == ("other", 0o750)


@pytest.mark.parametrize("durable", [True, False])
async def test_a_bus_that_forgets_or_is_open_is_seen(
    durable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real nats-server, told to write through and to seal its store, or not."""
    port, monitor = ports.free_port(), ports.free_port()
    sealed = "sync_interval: always, cipher: chachapoly, key: 0123456789abcdef0123456789abcdef" if durable else ""
    config = tmp_path / "nats.conf"
    config.write_text(
        f'listen: "127.0.0.1:{port}"\nhttp: "127.0.0.1:{monitor}"\njetstream {{ store_dir: "{tmp_path}/js", {sealed} }}\n'
    )
    (tmp_path / "ports.json").write_text(json.dumps({"nats_monitor": monitor}))
    (tmp_path / "deployment.json").write_text(
        json.dumps({"runtime_id": "0" * 36, "tenant": "default", "services": {}, "log": "x"})
    )
    process = await asyncio.create_subprocess_exec(
        str(binaries.nats_server(None)), "-c", str(config), stderr=asyncio.subprocess.DEVNULL
    )
    try:
        client = await nats.connect(f"nats://127.0.0.1:{port}", max_reconnect_attempts=100, reconnect_time_wait=0.05)
        await client.jetstream().add_stream(name="CANON_default", subjects=["canon.>"])
        await client.close()
        visit = doctor(tmp_path, None, monkeypatch, tmp_path)
        await visit._nats()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
    assert (visit.facts.sync_always, visit.facts.encrypted) == (durable, durable)
    codes = [one.code for one in checkup.examine(visit.facts).findings]
    assert codes == ([] if durable else ["BUS_NOT_DURABLE", "BUS_NOT_ENCRYPTED"])
