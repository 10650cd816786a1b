"""The matrix: every command at every level, however its caller speaks, judged by the gate and held to a table of its own; under the policy
of genesis, and under one that raises a handful of rungs."""

import msgspec
import pytest

from sigilcore import gate
from sigilcore.access import Loa
from sigilcore.contracts import catalogue
from sigilcore.contracts.command import Action
from sigilcore.decision import Verdict
from sigilcore.refusals import Code
from tests.levels import LADDER, PERMITTED, WAYS, refusal
from tests.simulator import House, Person

SPOKEN = {
    "bearer": {"keyed": False, "proof": "bearer"},
    "token": {"keyed": True, "proof": "bearer"},
    "session": {"keyed": True, "proof": "session"},
    "mandate": {"keyed": True, "proof": "session", "mandated": True},
    "owner": {"keyed": True, "proof": "owner"},
}

# What the design's own table promises; a declaration that falls below it has given something away.
PROMISED = {
    "guest": ("trust/status", "trust/check", "commands/list", "ping"),
    "observer": (
        "canon/get",
        "canon/list",
        "canon/history",
        "canon/diff",
        "quorum/proposals",
        "memory/list",
        "memory/read",
    ),
    "operator": ("memory/write", "canon/user/write", "canon/user/batch", "canon/user/erase"),
    "mentor": ("audit/list", "log/entries", "license/list", "links/list"),
    "root": (
        "license/create",
        "license/renew",
        "license/revoke",
        "keys/revoke",
        "quorum/propose",
        "quorum/commit",
        "quorum/withdraw",
        "quorum/rebase",
        "witness/add",
        "witness/rotate",
        "witness/revoke",
        "model/upload",
        "model/refresh",
        "policy/upload",
    ),
}


# A guest's read, an owner's own list, a write, one that a person signs, a read of others' records, and a module's run.
RAISED = {
    "trust/status": Loa.OBSERVER,
    "memory/list": Loa.MENTOR,
    "memory/write": Loa.MENTOR,
    "canon/user/write": Loa.ROOT,
    "audit/list": Loa.ROOT,
    "grid/call": Loa.MENTOR,
}


@pytest.fixture(scope="module", params=[{}, RAISED], ids=["genesis", "raised"])
def raised(request):
    """What the policy in force raises."""
    return request.param


@pytest.fixture(scope="module")
def house(raised):
    """A house in memory; no test of this file writes to its log."""
    built = House()
    if raised:
        built.change_policy(rungs=raised, rate_limit=built.rate_limit)
    return built


@pytest.fixture(scope="module")
def people(house):
    """By level, one with a key and one without. No keyless mentor or Root is ever issued: the state is made to hold them."""
    keyed = {level: house.issue(Person(level), Loa(level)) for level in LADDER[:-1]} | {"root": house.root}
    keyless = {level: house.issue(Person(f"bare-{level}", keyed=False), Loa.OPERATOR) for level in LADDER}
    for level, person in keyless.items():
        entry = house.state.licences[person.licence_id]
        table = msgspec.structs.replace(entry.table, loa=Loa(level))
        house.state.licences[person.licence_id] = msgspec.structs.replace(entry, table=table)
    return {True: keyed, False: keyless}


def answer(chain):
    """The refusal's code, or None for an Allow."""
    assert (chain.verdict is Verdict.ALLOW) == all(step.passed for step in chain.steps)
    return None if chain.verdict is Verdict.ALLOW else gate.refusal_of(chain).code


@pytest.mark.parametrize("command", PERMITTED, ids=lambda command: command.name)
def test_every_level_gets_of_a_command_what_the_table_says(house, people, raised, command):
    """Five levels, five ways of speaking: verdict and first reason are the table's."""
    for level in LADDER:
        for way in WAYS:
            person = people[way != "bearer"][level]
            said = answer(house.judge(person, command.name, **SPOKEN[way]))
            assert said is refusal(command, level, way, raised=raised.get(command.name)), (level, way)


@pytest.mark.parametrize("command", PERMITTED, ids=lambda command: command.name)
def test_a_session_that_calls_itself_root_gets_nothing_more(house, people, raised, command):
    """The level on the session's label moves no cell of the matrix."""
    for level in LADDER[:-1]:
        chain = house.judge(people[True][level], command.name, loa=Loa.ROOT, proof="owner")
        assert answer(chain) is refusal(command, level, "owner", raised=raised.get(command.name)), level
        assert chain.audit.loa == level


@pytest.mark.parametrize("family", sorted({command.name.partition("/")[0] for command in PERMITTED}))
def test_a_scope_of_one_family_reaches_no_other(house, family):
    """Root's own level, but a scope: what isn't named is out of scope, and nothing that is named is."""
    entry = house.state.licences[house.root.licence_id]
    table = msgspec.structs.replace(entry.table, scope=(family, f"{family}/*"))
    house.state.licences[house.root.licence_id] = msgspec.structs.replace(entry, table=table)
    try:
        for command in PERMITTED:
            named = command.name.partition("/")[0] == family
            said = answer(house.judge(house.root, command.name, proof="owner"))
            assert said is (None if named else Code.OUT_OF_SCOPE), command.name
    finally:
        house.state.licences[house.root.licence_id] = entry


@pytest.mark.parametrize("rung", PROMISED)
def test_no_declaration_falls_below_the_promised_rung(rung):
    """What the design gives to a level is declared for it."""
    assert {name: catalogue.COMMANDS[name].rung.value for name in PROMISED[rung]} == dict.fromkeys(PROMISED[rung], rung)


def test_what_anyone_may_call_has_no_room_of_its_own():
    """Room that is kept for revocations isn't kept if every operator may fill it, by taking back what is their own."""
    reserved = {command.name for command in PERMITTED if command.reserved}
    assert reserved >= {"license/revoke", "keys/revoke", "quorum/withdraw", "quorum/commit", "grid/peer/block"}
    assert {command.rung for command in PERMITTED if command.reserved} <= {Loa.MENTOR, Loa.ROOT}
    assert catalogue.COMMANDS["session/close"].reserved
    assert catalogue.COMMANDS["quorum/attest"].reserved


def test_only_what_ends_something_skips_the_score():
    """Braking must always work, and nothing else may go round the score."""
    unscored = {command.name for command in PERMITTED if not command.scored}
    assert unscored >= {"license/revoke", "keys/revoke", "quorum/withdraw", "canon/user/erase"}
    others = unscored - {"approval/refuse"}  # a word that lets nothing happen
    assert {catalogue.COMMANDS[name].action for name in others} == {Action.DELETE}
