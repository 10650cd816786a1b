"""Gathering the facts of `sigil doctor`: the data folder's files and the profile's, the face, the bus as the operator, nats-server's word.

Each look stands alone: what it can't see is named in `unseen` with the reason, and the others go on. Nothing here changes anything, and no
file is opened but run.json, ports.json, config.toml and the profile's licence.
"""

import asyncio
import email.utils
import json
import os
import shutil
import stat
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from cli import carried, config, profiles
from cli.checkup import Entry, Facts, Held
from sigilcore import checkpoint, clock, governance, licence, note, record
from sigilcore.access import Loa
from sigilcore.contracts import canon, gatekeeper, house
from sigilcore.contracts import license as licensing
from sigilcore.contracts.common import Empty
from sigilrun import http, settings, stream
from sigilrun.embedded import folder

ASK_S: Final = 3.0
CATCH_UP_S: Final = 3.0
LOOK_S: Final = 0.25
MAX_ANSWER_BYTES: Final = 65_536
# What is the servers' own inside the data folder, and guarded by the folder above it.
_SERVERS_OWN: Final = frozenset({"postgres", "nats", "logs", "services"})
_DIRECT: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class _Canon(msgspec.Struct):
    reserve_mb: int = 0


class _Config(msgspec.Struct):
    """Of config.toml what is looked at before anyone's settings are whole."""

    canon: _Canon = msgspec.field(default_factory=_Canon)


class Doctor:
    """One visit; `facts` is what was seen so far."""

    def __init__(self, profile: profiles.Profile, data: Path | None, address: str | None, soon_days: int) -> None:
        """`data`: the data folder, if it is on this machine; `address`: the face's, if one is known."""
        self._profile = profile
        self._data = data
        self._address = address
        self.facts = Facts(now_ms=_now_ms(), soon_days=soon_days)

    async def look(self) -> Facts:
        """Everything that can be seen from here."""
        self._see(entries=tuple(self._entries()))
        if self._data is not None:
            self._see(
                lost=folder.holder(self._data) if folder.running(self._data) is None else None,
                disk_free_bytes=shutil.disk_usage(self._data).free,
                disk_reserve_bytes=_reserve_mb(self._data) << 20,
                settings=_settings(self._data),
            )
        await self._try("your licence", self._own)
        if self._address is None:
            self._see(
                unseen=(*self.facts.unseen, "the house: nothing runs on the data folder, and no address is known")
            )
            return self.facts
        await self._try("the face", self._face)
        if self.facts.bootstrapped:
            await self._try("the newest checkpoint", self._log)
            if self._data is not None and folder.running(self._data) is not None:
                await self._try("the bus", self._bus)
            else:
                await self._try("what governs, by your session", self._session)
        if self._data is not None and folder.running(self._data) is not None:
            await self._try("nats-server", self._nats)
        return self.facts

    def _see(self, **facts: Any) -> None:
        self.facts = msgspec.structs.replace(self.facts, **facts)

    async def _try(self, what: str, look: Callable[[], Awaitable[None]]) -> None:
        """One look; whatever hinders it is told, and hinders no other."""
        try:
            async with asyncio.timeout(carried.REACH_S):
                await look()
        except Exception as error:  # a visit ends with what it has seen
            reason = str(error) or "no answer in time"
            self._see(unseen=(*self.facts.unseen, f"{what}: {type(error).__name__}: {reason}"))

    # Files

    def _entries(self) -> Iterator[Entry]:
        if self._data is not None and self._data.exists():
            yield _entry(self._data)
            for path in sorted(self._data.iterdir()):
                # Postgres runs as a user of its own where the house runs as root.
                if path.name != "postgres":
                    yield _entry(path)
                if path.is_dir() and not path.is_symlink() and path.name not in _SERVERS_OWN:
                    yield from (_entry(below) for below in sorted(path.iterdir()))
        if self._profile.folder.exists():
            yield from (_entry(path) for path in (profiles.home(), self._profile.folder))
            yield from (_entry(path) for path in sorted(self._profile.folder.iterdir()))

    # The face

    async def _face(self) -> None:
        told, skew_ms = await asyncio.to_thread(_readiness, f"{self._address}/readyz")
        self._see(
            ready=told["ready"] is True,
            wrong=tuple(map(str, told["wrong"])),
            bootstrapped=told["bootstrapped"] is True,
            sealed=told["sealed"] is True,
            skew_ms=skew_ms,
        )

    async def _log(self) -> None:
        async with http.Client(self._address or "", timeout_s=ASK_S) as client:
            newest = await client.call(canon.CHECKPOINT, Empty())
        self._see(size=_size(newest.note))

    async def _own(self) -> None:
        text = self._profile.license_toml
        if text is not None:
            table = licence.parse(text).license
            self._see(licences=(_held(table, own=True),))

    async def _session(self) -> None:
        opened = self._profile.session(http.Session)
        if opened is None or opened.not_after_ms <= _now_ms():
            raise ValueError("no session is open: sigil login")
        async with http.Client(self._address or "", opened=opened, timeout_s=ASK_S) as client:
            info = await client.call(gatekeeper.SYSTEM_INFO, Empty())
            needs = {} if info.quorum is None else {"a change": info.quorum}
            self._see(witnesses=info.witnesses if info.quorum is not None else None, needs=needs)
            if not opened.loa.includes(Loa.MENTOR):
                return
            cursor: str | None = None
            views: list[licensing.LicenseView] = []
            while True:
                page = await client.call(licensing.LIST, licensing.ListLicenses(cursor=cursor, limit=500))
                views += page.items
                if (cursor := page.cursor) is None:
                    break
        renewed = {view.renews for view in views if view.revoked_seq is None}
        self._licences(
            Held(
                license_id=view.license_id,
                owner_id=view.owner_id,
                loa=view.loa,
                expires_at=view.expires_at,
                own=False,
                ended=view.revoked_seq is not None,
                renewed=view.license_id in renewed,
            )
            for view in views
        )

    # The bus

    async def _bus(self) -> None:
        """What governs, verified here from genesis on; then what follows the log, until it is as far as the first look, or time is up."""
        assert self._data is not None
        found = await carried.folded(self._data)
        try:
            self._govern(found.state)
            size = self.facts.size or 0
            page = await found.bus.call(canon.EVENTS, canon.Events(first=max(size - 1, 0), limit=1))
            if page.items:
                header, _ = record.open_header(bytes(page.items[0].header))
                self._see(newest_ms=clock.parse_ms(header.core.ts))
            deadline = time.monotonic() + CATCH_UP_S
            while True:
                status = await found.bus.call(canon.CHECKPOINT, Empty())
                last = await _stream_last(found)
                covered = 0 if status.witnessed is None else _size(status.witnessed)
                self._see(stream_last=last, witnessed_size=covered)
                behind = last < size or (bool(self.facts.cosigners) and covered < size)
                if not behind or time.monotonic() > deadline:
                    return
                await asyncio.sleep(LOOK_S)
        finally:
            await found.bus.close()

    def _govern(self, state: governance.Governance) -> None:
        if state.quorum is not None:
            more = {f"a {kind}": k for kind, k in state.quorum.kinds.items() if k > state.quorum.k}
            self._see(
                witnesses=len(state.active_witnesses()),
                needs={"a change": state.quorum.k, **more},
                cosigners=state.quorum.checkpoint_witnesses.c,
            )
        renewed = {entry.renews for entry in state.licences.values() if entry.revoked_seq is None}
        self._licences(
            _held(entry.table, own=False, ended=entry.revoked_seq is not None, renewed=name in renewed)
            for name, entry in state.licences.items()
        )

    def _licences(self, all_of_them: Iterator[Held]) -> None:
        """Everybody's; of one's own what the log knows besides."""
        own = {held.license_id for held in self.facts.licences}
        seen = [msgspec.structs.replace(held, own=held.license_id in own) for held in all_of_them]
        known = {held.license_id for held in seen}
        self._see(licences=(*(held for held in self.facts.licences if held.license_id not in known), *seen))

    async def _nats(self) -> None:
        assert self._data is not None
        port = json.loads((self._data / "ports.json").read_bytes())["nats_monitor"]
        varz = await asyncio.to_thread(_json, f"http://127.0.0.1:{port}/varz")
        deployed = msgspec.json.decode((self._data / "deployment.json").read_bytes(), type=settings.DeploymentFile)
        # A stream that is encrypted has its own key, sealed, beside it.
        store = Path(varz["jetstream"]["config"]["store_dir"])
        streams = list(store.glob(f"*/streams/{house.stream(deployed.tenant)}"))
        self._see(
            sync_always=varz["jetstream"]["config"].get("sync_always") is True,
            encrypted=all((path / "meta.key").is_file() for path in streams) if streams else None,
        )


def _entry(path: Path) -> Entry:
    status = path.lstat()
    kind: Literal["file", "folder", "other"] = "other"
    if stat.S_ISREG(status.st_mode):
        kind = "file"
    elif stat.S_ISDIR(status.st_mode):
        kind = "folder"
    mine = status.st_uid == os.geteuid()
    return Entry(path=str(path), kind=kind, mode=stat.S_IMODE(status.st_mode), mine=mine)


def _held(table: licence.LicenceTable, *, own: bool, ended: bool = False, renewed: bool = False) -> Held:
    return Held(
        license_id=table.id,
        owner_id=table.owner.id,
        loa=table.loa,
        expires_at=table.expires_at,
        own=own,
        ended=ended,
        renewed=renewed,
    )


def _settings(data: Path) -> tuple[str, ...]:
    """Every problem that any process of the house would have with its settings, once."""
    if not (data / "config.toml").exists():
        return ()
    problems: dict[str, None] = {}
    for resident in house.RESIDENTS:
        try:
            settings.load(data / "config.toml", config.environment(), resident=resident)
        except settings.SettingsError as error:
            problems |= dict.fromkeys(error.problems)
    return tuple(problems)


def _reserve_mb(data: Path) -> int:
    """What the writer keeps free, if somebody set it; what is no number is `_settings`' to tell."""
    try:
        told = msgspec.toml.decode((data / "config.toml").read_bytes(), type=_Config).canon.reserve_mb
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        told = 0
    over = os.environ.get("SIGIL_CANON_RESERVE_MB", "")
    return int(over) if over.isascii() and over.isdigit() else told


async def _stream_last(found: carried.Folded) -> int:
    """Where the change stream ends; one that isn't there holds nothing."""
    try:
        return (await found.bus.stream_info(found.state.tenant)).last
    except stream.StreamMissing:
        return 0


def _readiness(url: str) -> tuple[dict[str, Any], int | None]:
    """What the face says, and the least difference of clocks that explains its date: a date has whole seconds, an answer takes its time."""
    before_ms = _now_ms()
    try:
        with _DIRECT.open(url, timeout=ASK_S) as answer:
            body, date = answer.read(MAX_ANSWER_BYTES), answer.headers.get("Date")
    except urllib.error.HTTPError as unready:
        body, date = unready.read(MAX_ANSWER_BYTES), unready.headers.get("Date")
    after_ms = _now_ms()
    told = json.loads(body)
    if date is None:
        return told, None
    server_ms = int(email.utils.parsedate_to_datetime(date).timestamp() * 1000)
    return told, skew(server_ms, before_ms, after_ms)


def skew(date_ms: int, before_ms: int, after_ms: int) -> int:
    """How far the server's clock is off at least, when a date of whole seconds came between two looks at ours."""
    if date_ms > after_ms:
        return date_ms - after_ms
    return min(date_ms + 999 - before_ms, 0)


def _json(url: str) -> Any:
    with _DIRECT.open(url, timeout=ASK_S) as answer:
        return json.loads(answer.read(MAX_ANSWER_BYTES))


def _size(signed: str) -> int:
    return checkpoint.parse_text(note.parse(signed.encode()).text).size


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
