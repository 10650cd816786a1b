"""What is another's looks exactly like what isn't there: every command that reads by a name or an owner, asked for what Bob keeps.

Each row asks twice, once for something of Bob's and once for something that nobody has. Whatever comes back, a page or a refusal, must be
the same bytes. Root asks the first question too and must be told, or the row would prove nothing.
"""

from collections.abc import AsyncIterator
from types import SimpleNamespace

import msgspec
import pytest

from services.canon_writer import reader
from sigilcore import decision, ids
from sigilcore.access import Loa
from sigilcore.contracts import canon, knowledge, projections
from sigilcore.contracts.command import Action
from sigilcore.refusals import Refused
from sigilrun import service
from tests.levels import PERMITTED
from tests.services.study import Study, opened
from tests.simulator import Person

ABSENT = SimpleNamespace(
    id=ids.new(),
    hash="0" * 64,
    seq=None,
    decision=f"{ids.new()}.0",
    audit=ids.new(),
    audit_hash="0" * 64,
    audit_seq=None,
    owner="nobody",
    key="no-such",
)


def at(seq, absent):
    """Below the head no place is empty, so a hidden one must look like an id that nobody has."""
    return canon.Get(id=absent) if seq is None else canon.Get(seq=seq)


# By command: the ways to ask for a thing, each a function of what is asked for.
USER = {
    canon.GET: [
        lambda it: canon.Get(id=it.id),
        lambda it: canon.Get(hash=it.hash),
        lambda it: at(it.seq, it.id),
    ],
    canon.LIST: [
        lambda it: canon.ListRecords(space="user", subject=it.owner),
        lambda it: canon.ListRecords(kind="memory_block", subject=it.owner),
    ],
    canon.HISTORY: [
        lambda it: canon.History(id=it.id),
        lambda it: canon.History(kind="memory_block", owner=it.owner, key="mem::bob::secret"),
        lambda it: canon.History(kind="memory_block", owner="bob", key=f"mem::bob::{it.key}"),
    ],
    canon.DIFF: [lambda it: canon.Diff(new=it.id), lambda it: canon.Diff(new=it.own, old=it.id)],
    canon.PROOF: [lambda it: canon.Prove(id=it.id)],
    knowledge.MEMORY_LIST: [
        lambda it: knowledge.MemoryList(user_id=it.owner),
        lambda it: knowledge.MemoryList(user_id="bob", prefix=it.key),
    ],
    knowledge.MEMORY_READ: [
        lambda it: knowledge.MemoryRead(key="secret", user_id=it.owner),
        lambda it: knowledge.MemoryRead(key=it.key, user_id="bob"),
        lambda it: knowledge.MemoryRead(key=it.key, user_id="bob", version=1),
    ],
    knowledge.MEMORY_EXPLAIN: [
        lambda it: knowledge.MemoryExplain(key="secret", user_id=it.owner),
        lambda it: knowledge.MemoryExplain(key=it.key, user_id="bob", version=1),
    ],
    knowledge.USER_LIST: [
        lambda it: knowledge.UserList(user_id=it.owner),
        lambda it: knowledge.UserList(user_id="bob", prefix=it.key),
        lambda it: knowledge.UserList(user_id=it.owner, kind="user_value"),
    ],
    knowledge.USER_READ: [lambda it: knowledge.UserRead(id=it.id)],
    projections.LINKS: [lambda it: projections.Links(target=it.decision)],
}
# Records of the gate about Bob: a mentor reads them, nobody below does but Bob himself.
AUDIT = {
    canon.AUDIT_GET: [lambda it: canon.AuditGet(id=it.decision), lambda it: canon.AuditGet(id=it.audit)],
    canon.AUDIT_LIST: [lambda it: canon.ListRecords(subject=it.owner)],
    canon.GET: [
        lambda it: canon.Get(id=it.audit),
        lambda it: canon.Get(hash=it.audit_hash),
        lambda it: at(it.audit_seq, it.audit),
    ],
    canon.LIST: [
        lambda it: canon.ListRecords(space="audit", subject=it.owner),
        lambda it: canon.ListRecords(subject=it.owner),
    ],
    canon.PROOF: [lambda it: canon.Prove(id=it.audit)],
}
NAMING = {"id", "hash", "seq", "key", "user_id", "owner", "subject", "target", "new", "old", "record"}
LEVELS = {"olga": Loa.OBSERVER, "ada": Loa.OPERATOR, "mia": Loa.MENTOR}
ROWS = [
    pytest.param(command, ask, viewer, id=f"{command.name} {number} as {viewer}")
    for table, viewers in ((USER, ("olga", "ada", "mia")), (AUDIT, ("olga", "ada")))
    for command, asks in table.items()
    for number, ask in enumerate(asks)
    for viewer in viewers
    if LEVELS[viewer].includes(command.rung)  # below it nothing is answered, whatever is asked
]


@pytest.fixture(scope="module", name="study")
async def _study(tmp_path_factory) -> AsyncIterator[Study]:
    """One house; Olga is an observer, Ada and Bob are operators, Mia is a mentor."""
    async with opened(tmp_path_factory.mktemp("hidden") / "house") as one:
        one.people["olga"] = one.world.issue(Person("olga"), Loa.OBSERVER)
        async with one.running("projections"):
            yield one


@pytest.fixture(scope="module", name="bobs")
async def _bobs(study: Study) -> SimpleNamespace:
    """What Bob keeps and what the gate recorded of it, and a memory of each of those who ask; every view has seen all of it."""
    first = await study.call("bob", knowledge.MEMORY_WRITE, knowledge.MemoryWrite(key="secret", text="one"))
    await study.call("bob", knowledge.MEMORY_WRITE, knowledge.MemoryWrite(key="secret", text="two"))
    last = await study.call(
        "bob", knowledge.USER_WRITE, knowledge.UserWrite(kind="user_value", key="secret", value={"n": 1})
    )
    await study.call("root", knowledge.USER_READ, knowledge.UserRead(id=last.id, wait_for=last.seq))
    own = {
        name: (await study.call(name, knowledge.MEMORY_WRITE, knowledge.MemoryWrite(key="own", text="mine"))).id
        for name in ("ada", "mia")
    }
    rows = study.canon.store.disk.rows
    version = next(row for row in rows if row.id == first.id)
    link = msgspec.json.decode(version.header)["core"]["links"][0]["target"]
    ref = decision.parse_ref(link)
    assert ref is not None
    batch = next(row for row in rows if row.id == ref.record)
    return SimpleNamespace(
        id=first.id,
        hash=first.hash,
        seq=first.seq,
        decision=link,
        audit=batch.id,
        audit_hash=batch.hash.hex(),
        audit_seq=batch.seq,
        owner="bob",
        key="secret",
        own=own | {"olga": own["ada"]},  # she writes nothing; to her this is one more hidden thing
    )


async def told(study: Study, person: str, command, request) -> bytes:
    """The answer's bytes, reply or refusal; those of the reader come from its own handlers."""
    try:
        if command.service != "canon_reader":
            return msgspec.json.encode(await study.call(person, command, request))
        body = msgspec.json.encode(request)
        bound = study.world.bound(await study.granted(person, command, body), body)
        call = service.Call(command=command, body=body, trace_id="0" * 32, deadline_ms=None, permitted=bound)
        answering = SimpleNamespace(reading=study.canon.reading)
        return msgspec.json.encode(await reader.HANDLERS[command](answering, request, call))
    except Refused as refused:
        return msgspec.json.encode(refused.answer())


def test_every_reading_command_that_names_something_has_its_row():
    """A command that reads by a name or an owner is in the tables, whatever service answers it here."""
    services = {command.service for command in (*USER, *AUDIT)}
    naming = {
        command.name
        for command in PERMITTED
        if command.service in services
        and command.action is Action.READ
        and NAMING & set(command.request.__struct_fields__)
    }
    assert naming - {"canon/consistency"} == {
        command.name for command in (*USER, *AUDIT)
    }  # which names sizes, no records


@pytest.mark.parametrize(("table", "command"), [(table, command) for table in (USER, AUDIT) for command in table])
def test_every_way_to_name_something_has_its_row(table, command):
    """Each field that names a record, a thing or an owner is asked by, not only the command."""
    there = SimpleNamespace(**{**vars(ABSENT), "seq": 1, "audit_seq": 1}, own=ids.new())
    requests = [ask(there) for ask in table[command]]
    naming = NAMING & set(command.request.__struct_fields__)
    assert naming == {field for one in requests for field in naming if getattr(one, field) is not None}


@pytest.mark.parametrize(("command", "ask", "viewer"), ROWS)
async def test_hidden_looks_exactly_like_absent(study: Study, bobs: SimpleNamespace, command, ask, viewer: str) -> None:
    """The same bytes for Bob's and for nobody's."""
    absent = SimpleNamespace(**vars(ABSENT), own=bobs.own[viewer])
    hidden = SimpleNamespace(**{**vars(bobs), "own": absent.own})
    shown = await told(study, viewer, command, ask(absent))
    assert await told(study, viewer, command, ask(hidden)) == shown
    assert b"bob" not in shown
    assert await told(study, "root", command, ask(hidden)) != await told(study, "root", command, ask(absent))
