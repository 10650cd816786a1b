"""The description of the HTTP face: valid, complete, up to date, the same each time."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import openapi_spec_validator
import pytest

from sigilcore.contracts import catalogue, gatekeeper
from sigilcore.contracts.command import Admission
from sigilcore.refusals import Code
from sigilrun.faces import examples, generate, openapi, routes

ROOT = Path(__file__).parents[2]
DOCUMENT = openapi.document()


def operations():
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def codes(operation):
    """Every code that an operation says it may refuse with, by status."""
    found = {}
    for status, answer in operation["responses"].items():
        name = answer.get("$ref", "").rsplit("/", 1)[-1]
        for code in DOCUMENT["components"]["responses"].get(name, answer).get("x-sigil-codes", ()):
            found[code] = int(status)
    return found


def test_it_is_openapi():
    """The specification's own schema accepts it."""
    openapi_spec_validator.validate(DOCUMENT)


@pytest.mark.parametrize("name", generate.pages())
def test_the_committed_pages_are_up_to_date(name):
    """After a change of the declarations, `make docs` writes them again."""
    assert (ROOT / name).read_bytes() == generate.pages()[name], "run `make docs`"


def test_the_same_declarations_give_the_same_bytes():
    """Neither hashing nor the order of imports shows."""
    program = (
        "from sigilrun.faces import generate; import sys; sys.stdout.buffer.write(b''.join(generate.pages().values()))"
    )
    made = {
        subprocess.run(
            [sys.executable, "-c", program], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("0", "1")
    }
    assert made == {b"".join(generate.pages().values())}


def test_it_describes_every_route_and_no_other():
    """What is served is described, and what is described is served."""
    described = {(method, path) for method, path, _ in operations()}
    assert described == {(route.method, route.path.replace("*}", "}")) for route in routes.ROUTES}


def test_every_public_command_has_its_route_and_its_own():
    """None is left out, and nothing internal slips in."""
    served = {(route.method, route.path) for route in routes.ROUTES if not route.page}
    for command in catalogue.COMMANDS.values():
        assert (("POST", f"/api/commands/{command.name}") in served) == (not command.internal), command.name
        if command.http is not None:
            assert (command.http.method, command.http.path) in served


def test_every_refusal_is_described_with_its_status():
    """A command's own refusals, the gate's for those that need a permit, and those of every body."""
    for _, path, operation in operations():
        if "x-sigil-command" not in operation:
            continue
        command = catalogue.COMMANDS[operation["x-sigil-command"]]
        told = codes(operation)
        expected = {*command.refusals, Code.BAD_INPUT, Code.RATE_LIMITED, Code.UNAVAILABLE, Code.BUSY}
        if command.admission is Admission.PERMIT:
            expected |= {*gatekeeper.GATE_REFUSALS}
        assert expected <= {Code(code) for code in told}, path
        assert all(status == Code(code).status for code, status in told.items()), path
        assert "500" in operation["responses"]


def test_a_get_can_change_nothing():
    """GET routes stand on commands that read, so no cookie alone changes anything."""
    for route in routes.ROUTES:
        if route.method == "GET" and route.command is not None:
            assert not route.command.mutates, route.path


def test_rung_and_admission_are_told():
    """A reader sees what a call asks for."""
    for _, path, operation in operations():
        if path.startswith("/api/commands/"):
            command = catalogue.COMMANDS[operation["x-sigil-command"]]
            assert (operation["x-sigil-rung"], operation["x-sigil-admission"]) == (command.rung, command.admission)
            assert (operation["security"] == [{}]) == (command.admission is not Admission.PERMIT)


@pytest.mark.parametrize("command", catalogue.public(), ids=lambda one: one.name)
def test_every_example_fits(command):
    """An example is a body that the gateway takes."""
    msgspec.convert(examples.request(command), command.request, strict=True)


def test_operation_ids_are_unique():
    """Generated clients name their methods by them."""
    ids = [operation["operationId"] for _, _, operation in operations()]
    assert len(ids) == len(set(ids))


def test_patterns_are_ones_that_json_schema_knows():
    r"""Python's \A and \Z mean nothing to other readers."""
    patterns = re.findall(r'"pattern": ("(?:[^"\\]|\\.)*")', openapi.encoded().decode())
    assert patterns
    for text in patterns:
        pattern = json.loads(text)
        assert pattern.startswith("^")
        assert pattern.endswith("$")
        assert r"\A" not in pattern
        assert r"\Z" not in pattern


def test_a_query_parameter_is_never_null():
    """What isn't given is left out of a query."""
    for method, path, operation in operations():
        for parameter in operation.get("parameters", ()):
            assert "null" not in json.dumps(parameter["schema"]), (method, path, parameter["name"])


def test_generating_again_changes_nothing(tmp_path):
    """The first time everything is written, the second time nothing."""
    assert generate.write(tmp_path) == list(generate.pages())
    assert generate.write(tmp_path) == []
