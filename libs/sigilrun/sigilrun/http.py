"""The caller's side of the gateway: sessions, proofs, typed calls; a problem document becomes `Refused` again.

Everything that a key signs is signed here or above, on the caller's side: the owner's key signs session certificates and owner proofs,
a session's own key signs every call, and neither leaves this process. The server is believed only as far as it is checked: a
certificate is signed only for the deployment that the licence itself names.

Invariants:

- a call sends the canonical bytes of its parameters, and the proof is over those very bytes;
- a call ends: with a reply of the declared type, with `Refused`, with `Fault`, or with `Unreachable`;
- repeating is the caller's choice (`persistently`) and signs anew each time; it is safe where the request carries its own id.

Example::

    async with http.Client("http://127.0.0.1:8080") as client:
        await client.login(licence_toml, owner=keys.open_key_file(path, passphrase))
        written = await client.call(knowledge.MEMORY_WRITE, knowledge.MemoryWrite(key="greeting", text="Good morning."))
"""

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final, Self, TypeVar

import aiohttp
import msgspec

from sigilcore import canonical, licence, peers, session, signing
from sigilcore.access import Loa
from sigilcore.contracts import catalogue, gatekeeper
from sigilcore.contracts.command import Command
from sigilcore.contracts.common import Empty
from sigilcore.faults import Fault
from sigilcore.record_types import RecordId
from sigilcore.refusals import Code, Refused
from sigilrun.faces.routes import APPROVAL_HEADER, GRANT_HEADER, PREFIX, PROOF_HEADER

Req = TypeVar("Req", bound=msgspec.Struct)
Rep = TypeVar("Rep", bound=msgspec.Struct)
T = TypeVar("T")

SESSION_MS: Final = 8 * 60 * 60 * 1000
TIMEOUT_S: Final = 30.0
RETRY_FIRST_S: Final = 0.05
RETRY_MOST_S: Final = 1.0

PASSING: Final = frozenset(
    {
        Code.BUSY,
        Code.UNAVAILABLE,
        Code.NOT_YET,
        Code.GATE_FAULT,
        Code.STALE_DECISION,
        Code.DISK_LOW,
        Code.RATE_LIMITED,
        Code.PROOF_STALE,
    }
)
"""Refusals that heal by themselves."""


class Unreachable(Exception):  # noqa: N818 - what is the matter
    """Nobody answers at this address, or what answers isn't a gateway."""


class Session(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An open session as its caller keeps it: secret. `key` is the seed (hex) of a key-bound session's own key."""

    token: str
    session_id: RecordId
    owner_id: str
    owner_name: str
    loa: Loa
    not_after_ms: int
    genesis_hash: str
    runtime_id: str
    mutations: tuple[str, ...] = ()
    mutations_not_after_ms: int = 0
    key: str | None = None

    @property
    def signer(self) -> signing.Signer | None:
        """The session's own key; None for a bearer session."""
        return None if self.key is None else signing.Ed25519Signer(bytes.fromhex(self.key))


class Client:
    """One caller's way to one gateway."""

    def __init__(
        self,
        address: str,
        *,
        opened: Session | None = None,
        owner: signing.Signer | None = None,
        timeout_s: float = TIMEOUT_S,
        most_bytes: int | None = None,
    ) -> None:
        """`owner` proves by the owner's own key what needs the owner's word and the session's certificate doesn't name; `most_bytes` bounds
        an answer."""
        self.address = address.rstrip("/")
        self.owner = owner
        # Mutations that need the owner's word here, though their declaration doesn't say so.
        self._raised: set[str] = set()
        self.session: Session | None = None
        self._signer: signing.Signer | None = None
        self._most_bytes = most_bytes
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._http: aiohttp.ClientSession | None = None
        self.use(opened)

    async def __aenter__(self) -> Self:
        """Open connections as they are needed."""
        self._http = aiohttp.ClientSession(timeout=self._timeout, cookie_jar=aiohttp.DummyCookieJar())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close them."""
        if self._http is not None:
            await self._http.close()
            self._http = None

    def use(self, opened: Session | None) -> None:
        """Speak in this session from now on; None speaks as a stranger."""
        self.session = opened
        self._signer = None if opened is None else opened.signer

    # Sessions

    async def login(
        self,
        license_toml: str,
        *,
        owner: signing.Signer | None = None,
        may: Collection[str] = (),
        session_ms: int = SESSION_MS,
    ) -> Session:
        """Open a session and use it; `may` names the root- and mentor-rung mutations that the session's key may do for a while.

        Raises:
            ValueError: the licence can't be read, is key-bound and `owner` isn't its key, or belongs to another deployment.

        """
        table = licence.parse(license_toml).license
        if table.owner.key is not None and (owner is None or owner.public_key.hex() != table.owner.key):
            raise ValueError("the licence is bound to its owner's key, and this isn't it")
        asked = await self.call(gatekeeper.CHALLENGE, Empty())
        offered = licence.Bindings(runtime_id=asked.runtime_id, canon_fingerprint=asked.canon_fingerprint)
        if table.bindings != offered:
            raise ValueError("this gateway is another deployment's: runtime or genesis differ from the licence's")
        key = secrets.token_bytes(32) if table.owner.key is not None else None
        certificate = None
        if key is not None and owner is not None:
            certificate = _certificate(table, asked, key, frozenset(may), session_ms)
        view = await self.call(
            gatekeeper.OPEN,
            gatekeeper.OpenSession(
                license=license_toml,
                nonce=asked.nonce,
                session_key=None if certificate is None else certificate.session_key,
                certificate=None if certificate is None or owner is None else session.certify(owner, certificate),
                not_after_ms=_now_ms() + session_ms,
            ),
        )
        opened = _opened(asked, view, key)
        if certificate is not None:
            opened = msgspec.structs.replace(
                opened,
                mutations=certificate.mutations,
                mutations_not_after_ms=certificate.mutations_not_after_ms,
            )
        self.owner = owner
        self.use(opened)
        return opened

    async def greet(
        self, node: signing.Signer, *, runtime_id: str, canon_fingerprint: str, session_ms: int = SESSION_MS
    ) -> Session:
        """Open a session as a node, by its key, and use it.

        Raises:
            Unreachable: another deployment answers here; nothing was signed for it.

        """
        asked = await self.call(gatekeeper.CHALLENGE, Empty())
        if (asked.runtime_id, asked.canon_fingerprint) != (runtime_id, canon_fingerprint):
            raise Unreachable(f"{self.address} is another node: its runtime or genesis isn't the enrolled one")
        key = signing.Ed25519Signer(seed := secrets.token_bytes(32))
        said = peers.PeerSession(
            runtime_id=runtime_id,
            tenant=asked.tenant,
            node_key=node.public_key.hex(),
            session_key=key.public_key.hex(),
            nonce=asked.nonce,
            not_after_ms=_now_ms() + session_ms,
        )
        view = await self.call(gatekeeper.PEER, gatekeeper.OpenPeerSession(opening=peers.greet(node, said)))
        opened = _opened(asked, view, seed)
        self.use(opened)
        return opened

    async def logout(self) -> None:
        """Close the session, here and in the log."""
        assert self.session is not None
        proof = self._proof(gatekeeper.CLOSE, parameter_bytes({}))
        await self.call(gatekeeper.CLOSE, gatekeeper.SessionCall(session=self.session.token, proof=proof))
        self.use(None)

    # Calls

    async def call(self, command: Command[Req, Rep], request: Req, *, approval: str | None = None) -> Rep:
        """Ask a command; `approval` is `<review>.<salt>` of a call that a mentor approved.

        Raises:
            Refused: the house said no.
            Fault: something of the house's broke; the trace id finds it.
            Unreachable: nobody answered.

        """
        # A record that a person signed is JSON already.
        body = parameter_bytes(msgspec.to_builtins(request, enc_hook=_json))
        data = await self.send(command, body, approval=approval)
        try:
            return msgspec.json.decode(data, type=command.reply)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Unreachable(f"{self.address} doesn't answer {command.name} as declared: {error}") from error

    async def ask(self, name: str, parameters: dict[str, Any], *, approval: str | None = None) -> Any:
        """Any command by name with plain parameters; plain JSON back. A name that isn't declared here is sent all the same."""
        body = parameter_bytes(parameters)
        return json.loads(await self.send(catalogue.COMMANDS.get(name, name), body, approval=approval))

    async def send(
        self,
        command: Command[Any, Any] | str,
        body: bytes,
        *,
        approval: str | None = None,
        grant: str | None = None,
    ) -> bytes:
        """One signed request with these very bytes; with a mentor's approval, or what a peer was lent.

        Where a policy raised a mutation to a rung that needs the owner's word, the gate says so once, and the owner's key answers.
        """
        try:
            return await self._send(command, body, approval, grant)
        except Refused as refused:
            if refused.code is not Code.OWNER_PROOF_NEEDED or not self._learn_raised(command):
                raise
        return await self._send(command, body, approval, grant)

    async def _send(
        self, command: Command[Any, Any] | str, body: bytes, approval: str | None, grant: str | None
    ) -> bytes:
        name = command if isinstance(command, str) else command.name
        headers = {"content-type": "application/json"}
        if self.session is not None:
            headers["authorization"] = f"Bearer {self.session.token}"
            proof = self._proof(command, body)
            if proof is not None:
                headers[PROOF_HEADER] = proof
        if approval is not None:
            headers[APPROVAL_HEADER] = approval
        if grant is not None:
            headers[GRANT_HEADER] = grant
        status, data = await self.fetch("POST", PREFIX + name, body=body, headers=headers)
        if not 200 <= status < 300:
            told = problem(status, data)
            raise Unreachable(f"{self.address} is no gateway: {told}") if isinstance(told, Unreachable) else told
        return data

    async def fetch(
        self, method: str, path: str, *, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Status and body of any path. Raises `Unreachable`."""
        assert self._http is not None, "use the client inside `async with`"
        try:
            async with self._http.request(
                method, self.address + path, data=body, headers=headers, allow_redirects=False
            ) as reply:
                return reply.status, await self._read(reply)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise Unreachable(f"{self.address}: {type(error).__name__}: {error}") from error

    async def _read(self, reply: aiohttp.ClientResponse) -> bytes:
        if self._most_bytes is None:
            return await reply.read()
        data = bytearray()
        async for chunk in reply.content.iter_chunked(65_536):
            data += chunk
            if len(data) > self._most_bytes:
                raise Unreachable(f"{self.address} answers more than {self._most_bytes} bytes")
        return bytes(data)

    def _learn_raised(self, command: Command[Any, Any] | str) -> bool:
        """True once for a declared mutation, if the owner's key is at hand, which proves it from now on.

        A read never needs the owner's word, whoever says so.
        """
        if isinstance(command, str) or not command.mutates or command.needs_owner or self.owner is None:
            return False
        first = command.name not in self._raised
        self._raised.add(command.name)
        return first

    def _proof(self, command: Command[Any, Any] | str, body: bytes) -> str | None:
        """The session's proof of one call; the owner's own, if the call needs it and the certificate doesn't name it."""
        opened = self.session
        if opened is None or self._signer is None:
            return None
        now_ms = _now_ms()
        name = command if isinstance(command, str) else command.name
        named = name in opened.mutations and now_ms < opened.mutations_not_after_ms
        by_owner = (
            not isinstance(command, str)
            and (name in self._raised or (command.needs_owner and not named))
            and self.owner is not None
        )
        return session.prove(
            self.owner if by_owner and self.owner is not None else self._signer,
            session_id=opened.session_id,
            command=name,
            parameters=body,
            time_ms=now_ms,
            nonce=secrets.token_hex(16),
            by="owner" if by_owner else "session",
        )


def _opened(asked: gatekeeper.Challenge, view: gatekeeper.SessionView, key: bytes | None) -> Session:
    """The session as its caller keeps it."""
    return Session(
        token=view.token,
        session_id=view.session_id,
        owner_id=view.owner_id,
        owner_name=view.owner_name,
        loa=view.loa,
        not_after_ms=view.not_after_ms,
        genesis_hash=asked.canon_fingerprint,
        runtime_id=asked.runtime_id,
        key=None if key is None else key.hex(),
    )


def parameter_bytes(parameters: Any) -> bytes:
    """What is sent and signed: JCS, as long as the gateway takes it."""
    return canonical.encode(parameters, max_bytes=None)


def _json(raw: msgspec.Raw) -> Any:
    return canonical.loads(bytes(raw))


def problem(status: int, body: bytes) -> Refused | Fault | Unreachable:
    """The exception that a problem document (RFC 9457) stands for."""
    try:
        told = json.loads(body)
        code = told.get("code")
    except (ValueError, AttributeError):
        return Unreachable(f"status {status} without a problem document")
    if code in Code.__members__:
        message, field, info = told.get("detail"), told.get("field"), told.get("info")
        return Refused(
            Code(code),
            message if isinstance(message, str) else "",
            field=field if isinstance(field, str) else None,
            detail=info if isinstance(info, dict) else None,
        )
    trace_id = told.get("trace_id")
    return Fault(trace_id if isinstance(trace_id, str) else f"(status {status})")


async def persistently(
    attempt: Callable[[], Awaitable[T]], *, give_up_s: float, passing: Collection[Code] = PASSING
) -> T:
    """Try until it is answered, through restarts and full queues; for requests that carry their own id, or change nothing.

    Raises:
        Refused: a refusal that doesn't pass, or one that still stands when the time is over; so `Fault` and `Unreachable`.

    """
    loop = asyncio.get_running_loop()
    deadline, delay_s = loop.time() + give_up_s, RETRY_FIRST_S
    while True:
        try:
            return await attempt()
        except Refused as refused:
            if refused.code not in passing or loop.time() >= deadline:
                raise
        except (Fault, Unreachable):
            if loop.time() >= deadline:
                raise
        await asyncio.sleep(delay_s)
        delay_s = min(delay_s * 2, RETRY_MOST_S)


def _certificate(
    table: licence.LicenceTable,
    asked: gatekeeper.Challenge,
    key: bytes,
    may: frozenset[str],
    session_ms: int,
) -> session.Certificate:
    now_ms = _now_ms()
    return session.Certificate(
        runtime_id=asked.runtime_id,
        tenant=asked.tenant,
        licence_id=table.id,
        session_key=signing.Ed25519Signer(key).public_key.hex(),
        nonce=asked.nonce,
        not_after_ms=now_ms + session_ms,
        mutations=tuple(sorted(may)),
        mutations_not_after_ms=now_ms + session.CERTIFICATE_MS if may else 0,
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
