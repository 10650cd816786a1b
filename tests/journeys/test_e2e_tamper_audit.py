"""Journey e2e_tamper_audit: on a copy of the ledger, one changed byte is found and named."""

import msgspec
import pytest

from sigilcore import replay
from sigilcore.access import Loa
from sigilcore.contracts import knowledge


async def test_e2e_tamper_audit(machine):
    """A letter of a memory is changed in a copy: replay names its seq; the true ledger agrees."""
    ada = await machine.person("ada-tamper", Loa.OPERATOR)
    written = await ada.client.call(knowledge.MEMORY_WRITE, knowledge.MemoryWrite(key="debt", text="Bob owes 10."))
    await machine.audit()
    records, checkpoint = await machine.ledger()
    bent = bytes(records[written.seq].payload).replace(b"Bob owes 10.", b"Bob owes 90.")
    assert bent != bytes(records[written.seq].payload)
    records[written.seq] = msgspec.structs.replace(records[written.seq], payload=msgspec.Raw(bent))
    with pytest.raises(replay.Diverged) as caught:
        replay.replay(records, checkpoint, machine.genesis)
    assert (caught.value.seq, caught.value.code) == (written.seq, "RECORD_INVALID")
