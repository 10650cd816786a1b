"""Who calls: the memory behind `sessions`, and the checks of one call in their order.

Invariants:

1. The order is: token, deployment, end, closed, proof, its time, its nonce. A caller who fails any of them is nobody, and what nobody asks
   is refused without a record.
2. A proof is spent only by a call that goes on to judgement (`spend`), so replaying somebody's proofs costs them nothing.
3. A session that was closed here is closed from that moment, before its record has been written or seen.
"""

from services.gatekeeper import sessions
from services.gatekeeper.limits import Limits
from sigilcore import session
from sigilcore.governance import Governance
from sigilcore.refusals import Code, Refused
from sigilrun.replay import OnceOnly, Use

_SAID = {
    Use.STALE: (Code.PROOF_STALE, "the proof's time is over thirty seconds off, or one that this gate forgot"),
    Use.USED: (Code.PROOF_REPLAYED, "the proof was used before"),
    Use.FULL: (Code.GATE_FAULT, "the gate can't remember another proof"),
}


class Callers:
    """Tokens read before, proofs spent, sessions closed."""

    def __init__(self, limits: Limits, started_ms: int) -> None:
        """`started_ms` is when this process began to remember."""
        self._limits = limits
        self._tokens = sessions.Tokens(limits.sessions)
        self._proofs = OnceOnly(window_ms=session.PROOF_WINDOW_MS, limit=limits.proofs, started_ms=started_ms)
        self._closed: dict[str, int] = {}

    def open_session(self, state: Governance, token: str, now_ms: int) -> session.SessionToken:
        """The open session that a token names."""
        said = self._tokens.read(token, sessions.gate_key(state))
        self.check_open(state, said, now_ms)
        return said

    def check_open(self, state: Governance, said: session.SessionToken, now_ms: int) -> None:
        """That the session is of this deployment, not over, and that nobody closed it."""
        sessions.check_deployment(state, said, now_ms)
        if said.session_id in self._closed or state.session_closed(said.session_id):
            raise Refused(Code.SESSION_CLOSED, "the session was closed")

    def prove(
        self,
        state: Governance,
        said: session.SessionToken,
        *,
        proof: str | None,
        command: str,
        parameters: bytes,
        now_ms: int,
    ) -> sessions.Proven:
        """How the session proved this call; nothing is spent yet."""
        proven = sessions.check_proof(state, said, proof, command, parameters)
        if proven.proof is not None:
            _refuse(self._proofs.ask(_name(said, proven.proof), proven.proof.time_ms, now_ms))
        return proven

    def spend(self, said: session.SessionToken, proven: sessions.Proven, now_ms: int) -> None:
        """Use the proof up."""
        if proven.proof is not None:
            _refuse(self._proofs.use(_name(said, proven.proof), proven.proof.time_ms, now_ms))

    def close(self, state: Governance, said: session.SessionToken, now_ms: int) -> None:
        """Close a session here and now, ahead of its record."""
        if len(self._closed) >= self._limits.closed:
            self._closed = {
                name: end_ms
                for name, end_ms in self._closed.items()
                if end_ms > now_ms and not state.session_closed(name)
            }
        if len(self._closed) >= self._limits.closed:
            raise Refused(Code.GATE_FAULT, "the gate can't remember another closed session")
        self._closed[said.session_id] = said.not_after_ms

    def reopen(self, said: session.SessionToken) -> None:
        """The record of a closing could not be written: the session is what the log says again, and closing can be repeated."""
        self._closed.pop(said.session_id, None)


def _name(said: session.SessionToken, proof: session.Proof) -> str:
    return f"{said.session_id}{proof.nonce}"


def _refuse(use: Use) -> None:
    if use is not Use.FRESH:
        raise Refused(*_SAID[use])
