"""Logins: a challenge, a session, its end. Each opening and closing is a record before it is an answer.

Commit points: the writer's commit of `session_opened` (before it there is no token; after it a crash leaves a session that nobody can use)
and of `session_closed` (before it the session is closed at this gate only; after it at every gate and for ever).
"""

import secrets
from collections.abc import Awaitable, Callable

from services.gatekeeper import sessions
from services.gatekeeper.callers import Callers
from services.gatekeeper.limits import Limits
from services.gatekeeper.rates import LastMinute
from sigilcore import clock, envelope, ids, licence, session, signing
from sigilcore.contracts import gatekeeper
from sigilcore.contracts.common import Empty
from sigilcore.governance import Governance
from sigilcore.records import audit
from sigilcore.refusals import Code, Refused
from sigilrun.replay import OnceOnly, Use

Record = Callable[[str, audit.SessionOpened | audit.SessionClosed], Awaitable[object]]


class Logins:
    """Answers `session/*`."""

    def __init__(
        self,
        *,
        limits: Limits,
        clock: clock.Clock,
        signer: signing.Signer,
        state: Callable[[], Governance],
        callers: Callers,
        record: Record,
        catch_up: Callable[[], Awaitable[None]],
        started_ms: int,
    ) -> None:
        """`record` appends one audit record of this kind; `signer` is the gatekeeper's service key; `catch_up` as in `Batches`."""
        self._limits = limits
        self._clock = clock
        self._signer = signer
        self._state = state
        self._callers = callers
        self._record = record
        self._catch_up = catch_up
        self._nonces = OnceOnly(window_ms=session.NONCE_MS, limit=limits.nonces, started_ms=started_ms)
        self._opened = LastMinute(callers=limits.callers)

    def challenge(self) -> gatekeeper.Challenge:
        """A nonce, good once and for a minute."""
        return sessions.challenge(self._state(), self._signer, secrets.token_hex(16), self._clock.now_ms())

    async def open(self, request: gatekeeper.OpenSession) -> gatekeeper.SessionView:
        """Open a session with a licence."""
        state, now_ms = self._state(), self._clock.now_ms()
        nonce = sessions.read_nonce(state, request.nonce, now_ms)
        said, table = await self._admit(request, now_ms)
        return await self._begin(nonce, said, table.owner.name, now_ms)

    async def open_peer(self, request: gatekeeper.OpenPeerSession) -> gatekeeper.SessionView:
        """Open a session as another node."""
        now_ms = self._clock.now_ms()
        said, peer, nonce = sessions.admit_peer(self._state(), request.opening, ids.new(), now_ms)
        return await self._begin(nonce, said, peer.name, now_ms)

    async def _begin(
        self, nonce: session.Nonce, said: session.SessionToken, owner_name: str, now_ms: int
    ) -> gatekeeper.SessionView:
        """Spend the nonce, record the session, and answer with its token."""
        if self._nonces.use(nonce.nonce, nonce.issued_ms, now_ms) is not Use.FRESH:
            raise Refused(
                Code.NONCE_INVALID, "the nonce was used, or is of a time that this gate forgot", field="$.nonce"
            )
        if self._opened.take(said.licence_id, now_ms, self._limits.sessions_per_minute) is None:
            raise Refused(Code.RATE_LIMITED, "too many sessions of this caller in a minute")
        payload = audit.SessionOpened(
            session_id=said.session_id,
            licence_id=said.licence_id,
            owner_id=said.owner_id,
            key=said.session_key,
            expires_at=clock.format_ms(said.not_after_ms),
        )
        await self._record("session_opened", payload)
        return gatekeeper.SessionView(
            token=envelope.seal(self._signer, signing.SESSION, said),
            session_id=said.session_id,
            owner_id=said.owner_id,
            owner_name=owner_name,
            loa=said.loa,
            bearer=said.session_key is None,
            not_after_ms=said.not_after_ms,
        )

    async def _admit(
        self, request: gatekeeper.OpenSession, now_ms: int
    ) -> tuple[session.SessionToken, licence.LicenceTable]:
        """A licence with a good seal that isn't in the state may have been issued a moment ago: look at the log's head before saying no."""
        try:
            return sessions.admit(self._state(), request, ids.new(), now_ms)
        except Refused as refusal:
            if licence.Reason.NEVER_ISSUED not in (refusal.detail or {}).get("reasons", ()):
                raise
        await self._catch_up()
        return sessions.admit(self._state(), request, ids.new(), now_ms)

    async def close(self, request: gatekeeper.SessionCall) -> Empty:
        """Close a session; its proof signs the command `session/close` with the parameters `{}`."""
        state, now_ms = self._state(), self._clock.now_ms()
        said = self._callers.open_session(state, request.session, now_ms)
        proven = self._callers.prove(
            state,
            said,
            proof=request.proof,
            command=gatekeeper.CLOSE.name,
            parameters=sessions.NO_PARAMETERS,
            now_ms=now_ms,
        )
        self._callers.spend(said, proven, now_ms)
        self._callers.close(state, said, now_ms)
        try:
            await self._record(
                "session_closed", audit.SessionClosed(session_id=said.session_id, owner_id=said.owner_id)
            )
        except BaseException:
            self._callers.reopen(said)
            raise
        return Empty()
