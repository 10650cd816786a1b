"""The simulator's ledger on a real bus: `canon/append`, `canon/events`, `log/checkpoint`, the change stream, and the faults of the road.

Records are admitted by the same code as the writer's; only the store is a list. What can go wrong between writer and author is a switch:
answers that are lost after the commit, before it, receipts that lie, a full queue, a stream that disappears.
"""

import base64
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from sigilcore import admission, antecedents, checkpoint, clock, merkle, note, record, signing
from sigilcore.access import Loa
from sigilcore.contracts import canon, common
from sigilcore.contracts import house as contract
from sigilcore.governance import Governance
from sigilcore.records import audit
from sigilcore.refusals import Code, Refused
from sigilrun import answer, keys, stream, testing
from sigilrun.bus import Bus
from sigilrun.settings_sections import DeploymentFile
from tests import simulator


class Founded(simulator.House):
    """A ledger of exactly this deployment: its service keys come from the keystore, and time is the machine's."""

    def __init__(self, deployment: DeploymentFile, keystore: keys.Keystore) -> None:
        """Genesis is not written yet: `found` does."""
        self.clock = clock.FixedClock(clock.SystemClock().now_ms())
        self.state = Governance()
        self.log: list[record.SignedRecord] = []
        self.writer = keystore.signer(contract.LOG_KEY)  # type: ignore[assignment]
        self.runtime_id = deployment.runtime_id
        self.origin = contract.origin(self.runtime_id, simulator.TENANT)
        self.heads: dict[tuple[str, str, str], str] = {}
        self.by_id: dict[str, record.Checked] = {}
        self.services = {name: keystore.signer(name) for name in contract.SERVICE_KEYS}  # type: ignore[misc]
        self.instances = {name: signing.Ed25519Signer.generate() for name in contract.SERVICE_KEYS}
        self.rows: dict[tuple[str, int], admission.DecisionRow] = {}
        self.named: dict[str, antecedents.Decided] = {}
        self.calls = simulator.rates.LastMinute(callers=1_000_000)
        self.standings = simulator.standing.Standings()
        self.root = simulator.Person("root")
        self.witness: simulator.Person | None = None

    def found(self) -> None:
        """Genesis."""
        self._genesis()

    def open_instances(self, *services: str) -> None:
        """The simulator's own instances of these services, and Root's licence."""
        for name in services:
            payload = audit.InstanceOpened(
                service=name, instance="sim", key=self.instances[name].public_key.hex(), settings_digest="0" * 64
            )
            prev = self.state.chains.get(self.services[name].key_id)
            self.append("instance_opened", payload, self.services[name], prev=prev)

    def root_licence(self) -> None:
        """Root's licence, which stands on genesis."""
        link = record.Link(label="genesis", target=self.state.genesis_hash)
        self._issue(self.root, Loa.ROOT, None, [link])


class CanonOnBus:
    """Writer and reader of one ledger."""

    def __init__(self, ledger: Founded, writer: Bus, keeper: Bus, reader: Bus) -> None:
        """`start` to answer."""
        self.ledger = ledger
        self.writer = writer
        self.keeper = keeper
        self.reader = reader
        self.published = 0
        self.appends: list[bytes] = []  # bodies as they came
        self.lose_before = 0  # so many appends vanish before the commit
        self.lose_after = 0  # so many commits are never answered
        self.busy = 0  # so many appends find the queue full
        self.lie = ""  # how the next receipt lies: signature, proof, hash, order
        self.spoil: dict[int, bytes] = {}  # headers that `canon/events` changes
        self.page_checkpoints = True
        self.pages = 0
        self._answering: list[answer.Answering] = []

    async def start(self) -> None:
        """Answer, and make the stream."""
        await self.keeper.ensure_stream(simulator.TENANT)
        self._answering = [
            await self.writer.serve("canon_writer", {canon.APPEND: self._append}),
            await self.reader.serve("canon_reader", {canon.EVENTS: self._events, canon.CHECKPOINT: self._checkpoint}),
        ]

    async def stop(self) -> None:
        """Answer no more."""
        for one in self._answering:
            await one.stop()

    async def publish(self) -> None:
        """Everything that the stream lacks, with the checkpoint on the last."""
        while self.published < len(self.ledger.log):
            upto = min(len(self.ledger.log), self.published + 500)
            events = self.events(self.published, upto)
            await self.keeper.publish_events(events, self.published)
            self.published = upto

    def events(self, first: int, upto: int) -> list[stream.Event]:
        """The change events of these records, as one commit."""
        events = []
        for placed in self.ledger.placed()[first:upto]:
            header, _ = record.open_header(bytes(placed.header))
            headers = {"ce-id": header.core.id}
            if placed.seq == upto - 1:
                headers["Sigil-Checkpoint"] = base64.b64encode(self.checkpoint(upto)).decode()
            events.append(
                stream.Event(
                    subject=contract.event_subject(simulator.TENANT, header.core.space, header.core.kind),
                    message_id=f"{simulator.TENANT}:{placed.seq}",
                    body=msgspec.json.encode(placed),
                    headers=headers,
                )
            )
        return events

    def checkpoint(self, size: int) -> bytes:
        """The checkpoint at a size of the past."""
        return checkpoint.sign(checkpoint.Checkpoint(self.ledger.origin, size, self.root(size)), self.ledger.writer)

    def root(self, size: int) -> bytes:
        """The tree's root at a size."""
        return merkle.root(self.leaves(size))

    def leaves(self, size: int) -> list[bytes]:
        """Leaf hashes below a size."""
        return [merkle.leaf_hash(bytes(one.header)) for one in self.ledger.log[:size]]

    async def _append(self, incoming: answer.Incoming) -> canon.Appended:
        self.appends.append(incoming.body)
        if self.busy:
            self.busy -= 1
            raise Refused(Code.BUSY, "the queue is full")
        if self.lose_before:
            self.lose_before -= 1
            raise Refused(Code.UNAVAILABLE, "lost on the way", detail={"outcome": "unknown"})
        request = msgspec.json.decode(incoming.body, type=canon.Append)
        self.ledger.clock.ms = clock.SystemClock().now_ms()
        results = self._place(request)
        if self.lose_after:
            self.lose_after -= 1
            raise Refused(Code.UNAVAILABLE, "lost on the way back", detail={"outcome": "unknown"})
        await self.publish()
        return self._told(results)

    def _place(self, request: canon.Append) -> list[canon.AppendResult]:
        """Each record's place; an audit call that holds a bad one is refused whole."""
        kept = len(self.ledger.log)
        results: list[canon.AppendResult] = []
        try:
            with self.ledger.state.tentative():
                results.extend(self._place_one(signed, request) for signed in request.records)
        except Refused as refused:
            for signed in self.ledger.log[kept:]:
                header, _ = record.open_header(bytes(signed.header))
                del self.ledger.by_id[header.core.id]
            del self.ledger.log[kept:]
            others = Refused(Code.BATCH_REFUSED, "another record was refused").answer()
            names = [record.open_header(bytes(one.header))[0].core.id for one in request.records]
            return [
                canon.AppendResult(id=name, refusal=refused.answer() if at == len(results) else others)
                for at, name in enumerate(names)
            ]
        return results

    def _place_one(self, signed: record.SignedRecord, request: canon.Append) -> canon.AppendResult:
        header, _ = record.open_header(bytes(signed.header))
        old = self.ledger.by_id.get(header.core.id)
        if old is not None:
            seq = next(at for at, one in enumerate(self.ledger.log) if bytes(one.header) == old.leaf)
            if not admission.repeats(old, record.check(signed)):
                raise Refused(Code.ID_TAKEN, "this id names another record")
            return canon.AppendResult(id=header.core.id, seq=seq, hash=old.header.hash, existing=True)
        self.ledger.place(signed, named=request.decision)
        return canon.AppendResult(id=header.core.id, seq=len(self.ledger.log) - 1, hash=header.hash)

    def _told(self, results: list[canon.AppendResult]) -> canon.Appended:
        """The receipt, or a lie about it."""
        size = len(self.ledger.log)
        leaves = self.leaves(size)
        noted = self.checkpoint(size)
        lie, self.lie = self.lie, ""
        if lie == "signature":
            forger = signing.Ed25519Signer.generate()
            noted = checkpoint.sign(checkpoint.Checkpoint(self.ledger.origin, size, merkle.root(leaves)), forger)
        if lie == "order":
            results = [msgspec.structs.replace(one, id=results[0].id) for one in results]
        if lie == "hash":
            results = [msgspec.structs.replace(one, hash="f" * 64) for one in results]
        proofs = []
        for one in results:
            if one.seq is not None:
                path = merkle.inclusion_path(one.seq, leaves)
                hashes = tuple(note.encode_base64(os.urandom(32) if lie == "proof" else part) for part in path)
                proofs.append(canon.RangeProof(first=one.seq, count=1, size=size, hashes=hashes))
        return canon.Appended(
            results=tuple(results), checkpoint=noted.decode(), proofs=() if lie == "silence" else tuple(proofs)
        )

    async def _events(self, incoming: answer.Incoming) -> canon.EventPage:
        request = msgspec.json.decode(incoming.body, type=canon.Events)
        self.pages += 1
        placed = self.ledger.placed()
        head = len(placed)
        if request.first > head:
            raise Refused(Code.BEYOND_HEAD, f"the log has {head} records")
        items, after = [], head
        for one in placed[request.first :]:
            header, _ = record.open_header(bytes(one.header))
            if request.kinds and header.core.kind not in request.kinds:
                continue
            spoilt = self.spoil.get(one.seq)
            items.append(one if spoilt is None else msgspec.structs.replace(one, header=msgspec.Raw(spoilt)))
            if len(items) == request.limit:
                after = one.seq + 1
                break
        noted = self.checkpoint(after).decode() if self.page_checkpoints and after > request.first else None
        return canon.EventPage(items=tuple(items), head=head, next=after, checkpoint=noted)

    async def _checkpoint(self, incoming: answer.Incoming) -> canon.Checkpoint:
        msgspec.json.decode(incoming.body, type=common.Empty)
        state = self.ledger.state
        noted = self.checkpoint(len(self.ledger.log)).decode()
        return canon.Checkpoint(note=noted, sealed=state.sealed, bootstrapped=state.bootstrapped)


@contextlib.asynccontextmanager
async def canon_on_bus(folder: Path) -> AsyncIterator[tuple[testing.BusHouse, CanonOnBus]]:
    """A bus with a ledger that isn't founded yet."""
    async with testing.bus_house(folder) as running:
        ledger = Founded(running.deployment, running.keystore)
        buses = [await running.bus(name) for name in ("canon_writer", contract.KEEPER, "canon_reader")]
        one = CanonOnBus(ledger, *buses)
        await one.start()
        try:
            yield running, one
        finally:
            await one.stop()
