"""A finished record that its owner signed, through the front door."""

import os

import msgspec
import pytest

from sigilcore import ids, record
from sigilcore.access import Loa
from sigilcore.contracts import knowledge
from sigilcore.records import user
from sigilcore.refusals import Code, Refused


def signed_by(person, name, key, value):
    """A value of theirs as they would sign it on their own machine."""
    payload = user.UserValue(owner=person.owner_id, key=f"val::{person.owner_id}::{key}", value=value, request=None)
    return record.build(
        "user_value",
        payload,
        id=name,
        tenant="default",
        ts=record.clock.format_ms(record.clock.SystemClock().now_ms()),
        space="user",
        signer=person.signer,
        salt=os.urandom(16),
    )


@pytest.mark.journey
async def test_a_person_signs_their_own_record(machine):
    """It stands as it was signed, byte for byte; changed on the way it is nothing, nor is another's."""
    ann = await machine.person("ann-signs", Loa.OPERATOR, keyed=True)
    name = ids.new()
    signed = signed_by(ann, name, "colour", {"teal": 1e300, "n": [1.5, -0.25]})
    done = await ann.client.call(knowledge.USER_WRITE, knowledge.UserWrite(record=signed))
    assert (done.id, done.key, done.existing) == (name, "colour", False)
    again = await ann.client.call(knowledge.USER_WRITE, knowledge.UserWrite(record=signed, id=name))
    assert (again.seq, again.existing) == (done.seq, True)
    placed = (await machine.audit())[done.seq]
    assert (bytes(placed.header), bytes(placed.payload)) == (bytes(signed.header), bytes(signed.payload))
    read = await ann.client.call(knowledge.USER_READ, knowledge.UserRead(id=name, wait_for=done.seq))
    assert read.value == {"teal": 1e300, "n": [1.5, -0.25]}
    bob = await machine.person("bob-signs", Loa.OPERATOR, keyed=True)
    other = signed_by(ann, ids.new(), "other", 1)
    bent = msgspec.structs.replace(other, payload=msgspec.Raw(bytes(other.payload).replace(b'"value":1', b'"value":2')))
    for person, sent, code in ((bob, other, Code.KEY_NOT_ALLOWED), (ann, bent, Code.RECORD_INVALID)):
        with pytest.raises(Refused) as caught:
            await person.client.call(knowledge.USER_WRITE, knowledge.UserWrite(record=sent))
        assert caught.value.code is code
