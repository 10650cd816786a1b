"""Journey e2e_canon_iter_decrypt: what is listed is decrypted, verified and complete."""

import hashlib

import msgspec

from sigilcore import authorship, checkpoint, digest, governance, merkle, note, record, records
from sigilcore.access import Loa
from sigilcore.contracts import knowledge
from sigilrun import consumers
from tests.faults.consuming import Kept, from_outside

TEXTS = ("Meet Olga at noon.", "Grüße aus Zürich ☕", "a" * 16_000)


async def test_e2e_canon_iter_decrypt(machine, tmp_path):
    """A consumer outside the house lists every record with its payload in the clear; each payload is its header's by hash, each author
    is who the governing fold says, and all of them together are the tree of the checkpoint that the log signed. By kind it is the same."""
    ada = await machine.person("ada-iter", Loa.OPERATOR)
    for number, text in enumerate(TEXTS):
        write = knowledge.MemoryWrite(key=f"iter-{number}", text=text)
        last = await ada.client.call(knowledge.MEMORY_WRITE, write)
    everything, memories = Kept("everything"), Kept("memories")
    for view, scopes in (
        (everything, consumers.scopes_of(None, ())),
        (memories, consumers.scopes_of("user", ["memory_block"])),
    ):
        name = f"iter-{view.name}"
        await consumers.issue(machine.data, name, scopes, tmp_path / name)
        async with from_outside(tmp_path / name, view):
            await view.until(last.seq + 1)
        await consumers.revoke(machine.data, name)

    # Listed: every record once, in order, its payload in the clear, as ada wrote it.
    events = everything.events
    assert [event.seq for event in events] == list(range(everything.next_seq))
    written = [event.typed() for event in events if event.kind == "memory_block"]
    assert [block.text for block in written if block.owner == "ada-iter"] == list(TEXTS)

    # Verified: hash and author, by a fold of what governs that is built from these same records.
    state = governance.Governance()
    for event in events:
        header, core_bytes = record.open_header(event.leaf)
        checked = record.check(event.signed())
        assert hashlib.sha256(bytes.fromhex(event.salt) + event.payload).hexdigest() == header.core.payload_hash
        assert digest.sha256_hex(core_bytes) == header.hash
        if event.seq == 0:
            assert header.hash == machine.genesis
            state.apply(0, checked)
        authorship.check(state, event.seq, header, core_bytes, records.REGISTRY[event.kind].subject(checked.payload))
        if checked.kind.governs and event.seq > 0:
            state.apply(event.seq, checked)

    # Complete: the tree of exactly these records is one that the log's key signed; and the ledger that the operator exports is the same.
    ledger, signed = await machine.ledger()
    opened = checkpoint.open_signed(signed, note.VerifierKey.parse(state.log_key))
    leaves = [merkle.leaf_hash(event.leaf) for event in events]
    tree = merkle.EMPTY.extend(leaves + [merkle.leaf_hash(bytes(one.header)) for one in ledger[len(leaves) :]])
    assert (tree.size, tree.root()) == (opened.size, opened.root)
    assert [bytes(one.payload) for one in ledger[: len(events)]] == [event.payload for event in events]

    # By kind: the memories, all of them and nothing else.
    same = [event for event in events if event.kind == "memory_block"]
    assert [msgspec.structs.astuple(event) for event in memories.events[: len(same)]] == [
        msgspec.structs.astuple(event) for event in same
    ]
    assert {event.kind for event in memories.events} == {"memory_block"}
