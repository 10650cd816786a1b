"""A tag, a name, a route and a Struct's name each stand for one thing for ever: a module that takes a taken one doesn't import.

The declarations are put in the place of a family's own, and the module that collects them is read again, as at its first import.
"""

import dataclasses
import importlib

import msgspec
import pytest

from sigilcore import records
from sigilcore.contracts import catalogue, gatekeeper, knowledge, license
from sigilcore.contracts.command import Http
from sigilcore.records import audit, system, user

BEAT = records.REGISTRY["instance_beat"]
FAMILIES = {"system": system, "audit": audit, "user": user}
PING = gatekeeper.PING


def kind(tag, payload):
    return msgspec.structs.replace(BEAT, tag=tag, payload=msgspec.defstruct(payload, []))


def command(**changes):
    """A command that clashes in nothing but what is changed."""
    fields = {"name": "quite/new", "http": None} | changes
    return dataclasses.replace(PING, **fields)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("again", "taken"),
    [
        (BEAT, "'instance_beat'"),
        (kind("instance_beat", "QuiteNew"), "'instance_beat'"),
        (kind("quite_new", "InstanceBeat"), "'InstanceBeat'"),
    ],
    ids=["the same kind", "a tag for another payload", "a payload's name"],
)
def test_a_tag_that_is_taken_does_not_import(monkeypatch, family, again, taken):
    """In whatever family it comes again: the tag, and the name of the payload."""
    monkeypatch.setattr(FAMILIES[family], "KINDS", (*FAMILIES[family].KINDS, again))
    before = dict(records.REGISTRY)
    with pytest.raises(ValueError, match=taken):
        importlib.reload(records)
    assert before == records.REGISTRY


@pytest.mark.parametrize(
    ("again", "taken"),
    [
        (PING, "command 'ping' is declared twice"),
        (command(name="memory/write"), "command 'memory/write' is declared twice"),
        (command(http=Http(method="POST", path="/api/session/open")), "route .*'/api/session/open'"),
        (command(request=msgspec.defstruct("MemoryWrite", [])), "Struct name 'MemoryWrite'"),
        (command(reply=msgspec.defstruct("MemoryWrite", [])), "Struct name 'MemoryWrite'"),
        (command(writes=("quite_new",)), "unknown kind 'quite_new'"),
        (command(calls=("quite/unknown",)), "unknown command 'quite/unknown'"),
    ],
    ids=[
        "the same command",
        "a name",
        "a route",
        "a request's name",
        "a reply's name",
        "a kind of nobody's",
        "a call of nobody's",
    ],
)
@pytest.mark.parametrize("family", [gatekeeper, knowledge, license], ids=lambda one: one.SERVICE)
def test_a_command_that_clashes_does_not_import(monkeypatch, family, again, taken):
    """In whatever family it is declared."""
    monkeypatch.setattr(family, "COMMANDS", (*family.COMMANDS, again))
    before = dict(catalogue.COMMANDS)
    with pytest.raises(ValueError, match=taken):
        importlib.reload(catalogue)
    assert before == catalogue.COMMANDS


def test_what_clashes_with_nothing_imports(monkeypatch):
    """The same two, with names of their own: it is the clash that was refused."""
    assert records.register((audit.KINDS, (kind("quite_new", "QuiteNew"),)))["quite_new"].payload.__name__ == "QuiteNew"
    assert catalogue.collect((gatekeeper.COMMANDS, (command(),)))["quite/new"].service == gatekeeper.SERVICE
