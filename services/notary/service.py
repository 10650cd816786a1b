"""The notary: every checkpoint of ours to every cosigner of the policy in force, and their lines to the writer.

Each tick it looks at the log's head and asks those who are free. Where more than one is needed they are all asked for the same checkpoint:
a new one is taken only when the last has enough, or nobody is being asked any more. Whoever doesn't answer is left alone for a while.

Where safety happens: nowhere here. The writer verifies each line again, readers verify what they show, and who checks a proof verifies the
lines. A notary that lies or sleeps leaves records *not yet witnessed*, which everybody sees.

When the writer starts it asks here what the cosigners remember, before it writes; and whatever shows that the log went back is shown to
the writer, which judges it and writes no more.

It keeps nothing: where a cosigner stands, the cosigner tells. What it finds against the log it logs as critical, counts, and writes
into the log, once for each piece of evidence.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import msgspec

from services.notary import rules
from sigilcore import faults, ids, note, witnessed
from sigilcore.contracts import canon
from sigilcore.contracts import notary as contract
from sigilcore.contracts.common import Empty
from sigilcore.governance import Governance
from sigilcore.refusals import Code, Refused
from sigilrun import service, telemetry, witness_client

TICK_S = 1.0  # records are witnessed within about two ticks
RETRY_MOST_S = 10.0  # between two tries of a cosigner that fails; it is told of nothing it missed, only of the head
TRIES = 3  # of one question: the first may only learn the size
REMEMBERED_S = 3.0  # that cosigners have to show what they remember, while the writer waits with its first word
CONVICTIONS = 16  # recorded by one process; whoever holds our key could make more without end


class Cosigner:
    """One of the policy's, and how it goes with it."""

    def __init__(self, key: note.VerifierKey, url: str) -> None:
        """Nothing has been asked."""
        self.key = key
        self.url = url
        self.stands = 0  # the size that it cosigned last, as far as we know
        self.done = 0  # the size of the last checkpoint that has its line
        self.failures = 0
        self.free_at = 0.0
        self.asking: asyncio.Task[None] | None = None

    @property
    def busy(self) -> bool:
        """True while it is being asked."""
        return self.asking is not None and not self.asking.done()


class Notary:
    """What the loop shares."""

    def __init__(self, parts: service.Parts, client: witness_client.Client) -> None:
        """`run` begins."""
        self._parts = parts
        self._client = client
        self._cosigners: dict[tuple[str, str], Cosigner] = {}
        self._target: rules.Target | None = None
        self._have = 0
        self._recorded: set[str] | None = None
        self._convictions = 0
        self._recording = asyncio.Lock()

    @property
    def state(self) -> Governance:
        """The newest state of the log."""
        return self._parts.following.state

    async def run(self) -> None:
        """Tick until cancelled."""
        try:
            await self._parts.following.wait_bootstrapped()
            while True:
                await self._tick()
                await asyncio.sleep(TICK_S)
        finally:
            asked = [one.asking for one in self._cosigners.values() if one.asking is not None]
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    async def _tick(self) -> None:
        self._follow_policy()
        if not self._cosigners:
            return
        enough = self._have >= max(1, witnessed.needed(self.state.quorum))
        if not enough and any(one.busy for one in self._cosigners.values()):
            return
        try:
            await self._ask_all(await self._head())
        except (Refused, faults.Fault, note.NoteError) as error:
            telemetry.log.warning("head_unknown", reason=f"{type(error).__name__}: {error}")
        except Exception:
            telemetry.log.exception("tick_failed")

    def _follow_policy(self) -> None:
        """The cosigners of the policy in force; those who stay keep what is known of them."""
        wanted = {(key.format(), url): key for key, url in witnessed.cosigners(self.state.quorum) if url is not None}
        for name in self._cosigners.keys() - wanted.keys():
            gone = self._cosigners.pop(name)
            if gone.asking is not None:
                gone.asking.cancel()
        for (vkey, url), key in wanted.items():
            self._cosigners.setdefault((vkey, url), Cosigner(key, url))

    async def _head(self) -> rules.Target:
        data = (await self._parts.bus.call(canon.CHECKPOINT, Empty())).note.encode()
        await self._parts.following.opened(data)  # so that a key that was named by it is known
        return rules.target(data, self.state.log_key_at)

    async def _ask_all(self, head: rules.Target) -> None:
        """Everybody who is free, and hasn't signed it."""
        if self._target is not None and head.size < self._target.size:
            await self._beyond(self._target.note, "the notary")
        if self._target is None or head.size != self._target.size:
            self._target, self._have = head, 0
        now = asyncio.get_running_loop().time()
        for one in self._cosigners.values():
            if not one.busy and one.free_at <= now and one.done < head.size:
                one.asking = asyncio.create_task(self._ask(one, head), name=f"ask {one.key.name}")

    async def _ask(self, one: Cosigner, head: rules.Target) -> None:
        """Have one checkpoint cosigned by one cosigner."""
        try:
            outcome = await self._cosigned(one, head)
        except witness_client.NoAnswer as error:
            outcome = "silent"
            telemetry.log.warning("cosigner_silent", cosigner=one.key.name, reason=str(error))
        except (Refused, faults.Fault) as error:
            outcome = "canon"
            telemetry.log.warning("cosignature_not_kept", cosigner=one.key.name, reason=str(error))
        except Exception:
            outcome = "fault"
            telemetry.log.exception("asking_failed", cosigner=one.key.name)
        self._parts.metrics.cosigned.labels(outcome).inc()
        if outcome == "signed":
            one.failures, one.free_at, one.done = 0, 0.0, head.size
            return
        one.failures += 1
        wait_s = min(2.0 ** min(one.failures, 16) / 2, RETRY_MOST_S)
        one.free_at = asyncio.get_running_loop().time() + wait_s

    async def _cosigned(self, one: Cosigner, head: rules.Target) -> str:
        for _ in range(TRIES):
            if one.stands > head.size:
                return await self._stands_beyond(one)
            _, path = await self._proof(one.stands, head)
            answer = await self._client.add_checkpoint(one.url, rules.request(head, one.stands, path))
            match rules.meaning(head, one.key, answer.status, answer.content_type, answer.body):
                case rules.Signed(line=line):
                    one.stands = head.size
                    await self._keep(head, line)
                    return "signed"
                case rules.Stands(size=size):
                    one.stands = size
                case rules.Unproven():
                    return await self._unproven(one)
                case rules.Useless(reason=reason):
                    telemetry.log.warning("cosigner_useless", cosigner=one.key.name, reason=reason)
                    return "useless"
        return "moving"

    async def _proof(self, old: int, head: rules.Target) -> tuple[bytes, tuple[bytes, ...]]:
        """Our root at a size, and the way from there; verified on this side."""
        grown = await self._parts.bus.call(canon.GROWN, canon.Consistency(old=old, new=head.size))
        return rules.proven(grown, old, head.checkpoint)

    async def _keep(self, head: rules.Target, line: str) -> None:
        kept = await self._parts.bus.call(canon.COSIGN, canon.Cosign(size=head.size, lines=line))
        if self._target is not None and self._target.size == head.size:
            self._have = max(self._have, kept.have)
        if kept.need and kept.have >= kept.need:
            self._parts.metrics.position.labels("witnessed").set(head.size)
        telemetry.log.debug("cosigned", size=head.size, have=kept.have, need=kept.need)

    # Another history

    async def _stands_beyond(self, one: Cosigner) -> str:
        """It cosigned more than we asked it to: another notary of ours did, or the log has gone back."""
        data, other, head = await self._shown_and_head(one)
        if one.stands <= head.size:
            return "moving"
        claimed, one.stands = one.stands, 0
        if data is None or not await self._beyond(data, one.key.name):
            await self._tell(rules.beyond(one.key, head, claimed, other))
        return "contradicts"

    async def _beyond(self, data: bytes, known_to: str) -> bool:
        """Show the writer a note that is beyond its log; it judges for itself. True if it writes no more: then nothing is recorded, since a
        log that went back is brought back, and one more record would make two histories of it."""
        try:
            judged = await self._parts.bus.call(canon.BEYOND, canon.Beyond(note=data.decode()))
        except UnicodeDecodeError:
            return False
        except Refused as refused:
            if refused.code is not Code.SIGNATURE_INVALID:
                raise
            return False
        if judged.read_only is None:
            return False
        telemetry.log.critical("log_went_back", size=judged.size, known_to=known_to, note=data.decode())
        self._parts.metrics.contradictions.inc()
        return True

    async def remembered(self, asked: contract.Remember) -> contract.Remembered:
        """What cosigners show of a log, each asked for a bounded time."""
        notes: list[str] = []
        silent: list[str] = []

        async def ask(url: str) -> None:
            try:
                async with asyncio.timeout(REMEMBERED_S):
                    data = await self._client.newest(url, asked.origin)
                if data is not None:
                    notes.append(data.decode())
            except (witness_client.NoAnswer, TimeoutError, UnicodeDecodeError):
                silent.append(url)

        await asyncio.gather(*(ask(url) for url in asked.urls))
        return contract.Remembered(notes=tuple(notes), silent=tuple(silent))

    async def _unproven(self, one: Cosigner) -> str:
        """Our proof holds here and not there: what it cosigned isn't what our log had then."""
        _, other, head = await self._shown_and_head(one)
        if other is None:
            await self._tell(rules.refused(one.key, head))
            return "contradicts"
        if other.size > head.size:
            if not await self._beyond(other.note, one.key.name):
                await self._tell(rules.beyond(one.key, head, other.size, other))
            return "contradicts"
        our_root, _ = await self._proof(other.size, head)
        found = rules.forked(one.key, head, other, our_root)
        if found is None:
            telemetry.log.warning("cosigner_useless", cosigner=one.key.name, reason="422, and it shows our own history")
            one.stands = other.size
            return "useless"
        await self._tell(found)
        return "contradicts"

    async def _shown_and_head(self, one: Cosigner) -> tuple[bytes | None, rules.Target | None, rules.Target]:
        """What a cosigner shows, raw and as our log's, and our head, read after theirs: so an honest log has at least what they have."""
        data = await self._client.newest(one.url, self._origin)
        head = await self._head()
        return data, rules.shown(data, self.state.log_key_at), head

    @property
    def _origin(self) -> str:
        return note.VerifierKey.parse(self.state.log_key).name  # one for all its keys

    async def _tell(self, found: rules.Contradiction) -> None:
        """Loudly each time, into the log once."""
        payload, name = found.payload, ids.derive(self._parts.deployment.runtime_id, found.label)
        telemetry.log.critical("log_contradiction", **msgspec.structs.asdict(payload))
        self._parts.metrics.contradictions.inc()
        async with self._recording:
            if self._recorded is None:
                self._recorded = await self._known()
            if name in self._recorded or self._convictions >= CONVICTIONS:
                return
            try:
                await self._parts.authoring.audit("log_contradiction", payload, id=name)
            except Refused as refused:
                if refused.code is not Code.ID_TAKEN:
                    raise
            self._recorded.add(name)
            self._convictions += 1

    async def _known(self) -> set[str]:
        """What is recorded already, by this process or an earlier one."""
        found: set[str] = set()
        first = 0
        while True:
            asked = canon.Events(first=first, limit=500, kinds=("log_contradiction",))
            page = await self._parts.bus.call(canon.EVENTS, asked)
            found |= {msgspec.json.decode(placed.header)["core"]["id"] for placed in page.items}
            if page.next >= page.head:
                return found
            first = page.next


@contextlib.asynccontextmanager
async def build(parts: service.Parts) -> AsyncIterator[Notary]:
    """A notary that runs while the block does."""
    async with witness_client.Client() as client:
        notary = Notary(parts, client)
        running = asyncio.create_task(notary.run(), name="notary")
        try:
            yield notary
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def remembered(self: Notary, request: contract.Remember, _: service.Call) -> contract.Remembered:
    """`log/remembered`."""
    return await self.remembered(request)


HANDLERS: service.Handlers[Notary] = {contract.REMEMBER: remembered}
