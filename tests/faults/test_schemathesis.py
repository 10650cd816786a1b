"""The OpenAPI document against the house: whatever the document allows or forbids, the answer is one that it describes.

Schemathesis makes the requests: the declared examples, the edges of every schema, and random ones, good and bad. Three callers send
them: nobody, a bearer operator, and Root, whose session key (or own key, where that is asked for) signs each. What holds of every answer:
no 500, a described status and type, a body that fits its schema, and nothing that breaks the schema is taken.
"""

import hypothesis
import pytest
import pytest_asyncio
import requests
import schemathesis
from schemathesis import checks

from services.gateway import calls, parameters
from services.gateway.router import Router
from sigilcore.access import Loa
from sigilcore.contracts.command import Admission
from sigilcore.refusals import Refused
from sigilrun import http
from sigilrun.faces import openapi
from sigilrun.faces.routes import PROOF_HEADER, ROUTES

EXAMPLES = 6
CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.unsupported_method,
]
CONFIG = schemathesis.Config.from_dict(
    {
        "seed": 1,
        # Credentials are the callers' business here; random ones are in test_bad_input.
        "generation": {"max-examples": EXAMPLES, "deterministic": True, "with-security-parameters": False},
    }
)
API = schemathesis.openapi.from_dict(openapi.document(), config=CONFIG)
CALM = hypothesis.settings(
    deadline=None,
    database=None,
    derandomize=True,
    max_examples=EXAMPLES,
    suppress_health_check=list(hypothesis.HealthCheck),
)
ROUTER = Router(ROUTES)


class Voice(requests.auth.AuthBase):
    """Puts a caller's credentials on a request as it will be sent, byte for byte."""

    def __init__(self, client: http.Client, spare: http.Client) -> None:
        """`spare` is the same caller's other session, for the command that ends one."""
        self._client = client
        self._spare = spare

    def __call__(self, sent: requests.PreparedRequest) -> requests.PreparedRequest:
        """Speak in the caller's session, with a proof where it has a key; a proof that no schema allows stays, to be refused."""
        closing = sent.path_url.endswith("session/close")
        client = self._spare if closing else self._client
        assert client.session is not None
        sent.headers["Authorization"] = f"Bearer {client.session.token}"
        if 0 < len(sent.headers.get(PROOF_HEADER, "-")) <= calls.MAX_TOKEN:
            sent.headers.pop(PROOF_HEADER, None)
            if client.session.key is not None and not closing:
                self._prove(client, sent)
        return sent

    def _prove(self, client: http.Client, sent: requests.PreparedRequest) -> None:
        """Sign the call's parameters; what has none is refused before any proof is looked at."""
        path, _, query = sent.path_url.partition("?")
        body = sent.body.encode() if isinstance(sent.body, str) else sent.body or b""
        try:
            found = ROUTER.find(sent.method or "", path)
            command = found.route.command
            if command is None or command.admission is not Admission.PERMIT:
                return
            if found.route.page:
                signed = parameters.of_value(command, {"path": f"tile/entries/{found.fields['path']}"})
            elif found.route.method == "GET":
                signed = parameters.of_query(command, found.fields, query)
            else:
                signed = parameters.of_body(command, body, found.fields, sent.headers.get(parameters.KEY_HEADER))
        except Refused:
            return
        proof = client._proof(command, signed)
        assert proof is not None
        sent.headers[PROOF_HEADER] = proof


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def voices(house):
    """Who calls, by name."""
    olga = await house.person("olga-fuzz", Loa.OPERATOR)
    spare = await house.client()
    await spare.login(olga.toml)
    root = await house.client()
    await root.login(house.root.toml, owner=house.root.signer)
    return {"stranger": None, "operator": Voice(olga.client, spare), "root": Voice(root, root)}


@pytest.fixture(scope="module")
def wire():
    """One connection that is kept."""
    with requests.Session() as opened:
        opened.trust_env = False
        yield opened


def test_the_house_serves_the_document_that_is_swept(house, wire):
    """What follows is about this house."""
    assert wire.get(f"{house.address}/openapi.json", timeout=10).content == openapi.encoded()


@pytest.fixture
def still_heard(house, voices, wire):
    """Whatever was sent, the callers with a session are answered at the end: nothing closed, revoked or wore out their credentials."""
    yield
    for voice in filter(None, voices.values()):
        answer = wire.post(f"{house.address}/api/commands/ping", json={}, auth=voice, timeout=10)
        assert answer.status_code == 200, answer.text


@API.parametrize()
@CALM
def test_every_answer_is_described(case, house, voices, wire, still_heard):
    """Anything sent to an operation, by anybody, is answered as the document says."""
    for voice in voices.values():
        case.call_and_validate(base_url=house.address, session=wire, checks=CHECKS, timeout=30, auth=voice)


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/log/{tenant}/checkpoint", {}),
        ("/log/{tenant}/tile/{path}", {"path": "0/000.p/1"}),
        ("/log/{tenant}/tile/entries/{path}", {"path": "000.p/1"}),
    ],
)
def test_the_log_is_as_described(house, voices, wire, path, named):
    """The files of this log, whose name and paths no generator guesses, are found where the document says, and what they are."""
    case = API[path]["GET"].Case(path_parameters={"tenant": "default", **named})
    answer = case.call_and_validate(
        base_url=house.address, session=wire, checks=CHECKS, timeout=30, auth=voices["root"]
    )
    assert answer.status_code == 200
