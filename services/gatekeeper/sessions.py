"""Sessions: who may open one, what its token says, and whether a call was really made by it.

Decides: nonces, session certificates, tokens and proofs. Everything here is pure; what must be remembered (used nonces, closed sessions)
is asked by the caller of these functions.

Invariants:

1. A key-bound licence opens a session only with its owner's certificate over this very nonce and session key.
2. A session that has a key speaks by a signature over {command, parameters, time, nonce}, by that key or its owner's, and by nothing
   else. A session without a key never presents a proof.
3. A root or mentor licence without a key opens nothing.
4. A peer opens a session by its node's key over this nonce, this deployment and a session key of its own; it names no licence, and gets no
   mutations.
5. Clocks may differ by the proof window: an end that lies too far by no more than that is cut to the limit, not refused.
"""

import collections
from typing import Any

import msgspec

from sigilcore import canonical, clock, digest, envelope, licence, peers, session, signing
from sigilcore.access import Loa
from sigilcore.contracts import catalogue, gatekeeper
from sigilcore.decision import ProofKind
from sigilcore.governance import Governance, PeerEntry
from sigilcore.refusals import Code, Refused

SKEW_MS = session.PROOF_WINDOW_MS
NO_PARAMETERS = canonical.encode({})


def challenge(state: Governance, signer: signing.Signer, nonce: str, now_ms: int) -> gatekeeper.Challenge:
    """A nonce that carries its own proof of where it came from, so that it need not be kept."""
    body = session.Nonce(nonce=nonce, runtime_id=state.runtime_id, tenant=state.tenant, issued_ms=now_ms)
    return gatekeeper.Challenge(
        nonce=envelope.seal(signer, signing.NONCE, body),
        runtime_id=state.runtime_id,
        tenant=state.tenant,
        canon_fingerprint=state.genesis_hash,
        expires_ms=now_ms + session.NONCE_MS,
    )


def read_nonce(state: Governance, token: str, now_ms: int) -> session.Nonce:
    """Check a nonce that comes back; whether it was used is for the caller to remember."""
    try:
        nonce = envelope.unseal(token, signing.NONCE, session.Nonce, gate_key(state))
    except envelope.BadToken as error:
        raise Refused(Code.NONCE_INVALID, f"nonce: {error.reason}", field="$.nonce") from error
    if (nonce.runtime_id, nonce.tenant) != (state.runtime_id, state.tenant):
        raise Refused(Code.NONCE_INVALID, "the nonce is for another deployment or tenant", field="$.nonce")
    if not 0 <= now_ms - nonce.issued_ms <= session.NONCE_MS:
        raise Refused(Code.NONCE_INVALID, "the nonce is over a minute old", field="$.nonce")
    return nonce


def admit(
    state: Governance, request: gatekeeper.OpenSession, session_id: str, now_ms: int
) -> tuple[session.SessionToken, licence.LicenceTable]:
    """What the token of a new session says, or the first reason why there is none. The nonce was read before."""
    validation = licence.validate(request.license, state, now_ms)
    if validation.document is None or not validation.valid:
        reasons = list(validation.reasons)
        raise Refused(
            Code.LICENSE_INVALID,
            f"the licence doesn't count: {reasons[0]}",
            field="$.license",
            detail={"reasons": reasons},
        )
    table = validation.document.license
    if not table.key_bound and not Loa.OPERATOR.includes(table.loa):
        raise Refused(
            Code.LICENSE_INVALID,
            f"a {table.loa} licence names its owner's key",
            field="$.license",
            detail={"reasons": ["KEY_MISSING"]},
        )
    if request.session_key is not None:
        signing.strong_key(request.session_key, "$.session_key")
    end_ms = min(_end(request.not_after_ms, now_ms), clock.parse_ms(table.expires_at))
    token = session.SessionToken(
        session_id=session_id,
        runtime_id=state.runtime_id,
        tenant=state.tenant,
        licence_id=table.id,
        owner_id=table.owner.id,
        loa=table.loa,
        session_key=request.session_key,
        mutations=(),
        mutations_not_after_ms=0,
        not_after_ms=end_ms,
    )
    certificate = _certificate(state, request, table, now_ms)
    if certificate is None:
        return token, table
    return msgspec.structs.replace(
        token,
        mutations=certificate.mutations,
        mutations_not_after_ms=min(certificate.mutations_not_after_ms, now_ms + session.CERTIFICATE_MS),
        not_after_ms=min(end_ms, certificate.not_after_ms),
    ), table


def admit_peer(
    state: Governance, opening: str, session_id: str, now_ms: int
) -> tuple[session.SessionToken, PeerEntry, session.Nonce]:
    """What the token of a peer's new session says, or the first reason why there is none."""
    said, peer = _opening(state, opening)
    if (said.runtime_id, said.tenant) != (state.runtime_id, state.tenant):
        raise Refused(Code.PEER_INVALID, "the opening is for another deployment or tenant", field="$.opening")
    nonce = read_nonce(state, said.nonce, now_ms)
    rung = peer.tier_at(now_ms).rung
    if rung is None:
        raise Refused(Code.PEER_INVALID, "the peer is blocked", detail={"reasons": ["BLOCKED"]})
    signing.strong_key(said.session_key, "$.session_key")
    token = session.SessionToken(
        session_id=session_id,
        runtime_id=state.runtime_id,
        tenant=state.tenant,
        licence_id=peer.enrolment,
        owner_id=peer.owner_id,
        loa=rung,
        session_key=said.session_key,
        mutations=(),
        mutations_not_after_ms=0,
        not_after_ms=_end(said.not_after_ms, now_ms),
    )
    return token, peer, nonce


def _opening(state: Governance, opening: str) -> tuple[peers.PeerSession, PeerEntry]:
    """What a peer's node key signed; the key is the enrolled one, never only the one that the opening names."""
    try:
        named = envelope.peek_unverified(opening, peers.PeerSession)
    except envelope.BadToken as error:
        raise Refused(Code.SIGNATURE_INVALID, f"opening: {error.reason}", field="$.opening") from error
    peer = state.peer_with(named.node_key) if state.bootstrapped else None
    if peer is None:
        raise Refused(Code.PEER_INVALID, "no peer with this key is enrolled here", detail={"reasons": ["UNKNOWN"]})
    try:
        said = envelope.unseal(opening, signing.PEER_SESSION, peers.PeerSession, bytes.fromhex(peer.key))
    except envelope.BadToken as error:
        raise Refused(Code.SIGNATURE_INVALID, f"opening: {error.reason}", field="$.opening") from error
    return said, peer


def _end(wanted_ms: int | None, now_ms: int) -> int:
    latest_ms = now_ms + session.LONGEST_SESSION_MS
    if wanted_ms is not None and wanted_ms <= now_ms:
        raise Refused(Code.BAD_INPUT, "the session would end before it begins", field="$.not_after_ms")
    return latest_ms if wanted_ms is None else min(wanted_ms, latest_ms)


def _certificate(
    state: Governance, request: gatekeeper.OpenSession, table: licence.LicenceTable, now_ms: int
) -> session.Certificate | None:
    """The owner's certificate, checked down the page; None for a bearer licence, which has nobody to sign one."""
    if table.owner.key is None:
        if request.certificate is not None:
            raise _bad_certificate("a bearer licence names no key that could sign one")
        return None
    if request.session_key is None:
        raise _bad_certificate("a key-bound licence opens with a session key", field="$.session_key")
    if request.certificate is None:
        raise _bad_certificate("a key-bound licence opens with its owner's certificate")
    try:
        named = envelope.unseal(
            request.certificate, signing.CERTIFICATE, session.Certificate, bytes.fromhex(table.owner.key)
        )
    except envelope.BadToken as error:
        raise _bad_certificate(error.reason) from error
    if (named.runtime_id, named.tenant) != (state.runtime_id, state.tenant):
        raise _bad_certificate("it is for another deployment or tenant")
    if named.licence_id != table.id:
        raise _bad_certificate("it is for another licence")
    if named.session_key != request.session_key:
        raise _bad_certificate("it is for another session key")
    if named.nonce != request.nonce:
        raise _bad_certificate("it is for another nonce")
    if not now_ms < named.not_after_ms <= now_ms + session.LONGEST_SESSION_MS + SKEW_MS:
        raise _bad_certificate("its end is past, or over twelve hours away")
    unknown = [name for name in named.mutations if name not in catalogue.COMMANDS]
    if unknown:
        raise _bad_certificate(f"it names unknown commands: {', '.join(unknown)}")
    if named.mutations and not now_ms < named.mutations_not_after_ms <= now_ms + session.CERTIFICATE_MS + SKEW_MS:
        raise _bad_certificate("its mutations' end is past, or over fifteen minutes away")
    return named


def _bad_certificate(why: str, field: str = "$.certificate") -> Refused:
    return Refused(Code.CERTIFICATE_INVALID, f"certificate: {why}", field=field)


def gate_key(state: Governance) -> bytes:
    """The key that the log says is the gatekeeper's now."""
    if not state.bootstrapped:
        raise Refused(Code.NOT_BOOTSTRAPPED, "the log names no gatekeeper yet")
    key = state.service_key(gatekeeper.SERVICE)
    if key is None:
        raise Refused(Code.UNAVAILABLE, "the gatekeeper's key was revoked; a service_key record gives it another")
    return key


class Tokens:
    """Reads session tokens; one that was verified before, byte for byte and under the same key, isn't verified again."""

    def __init__(self, limit: int) -> None:
        """`limit` bounds the tokens remembered; the least recently used goes first and costs a verification."""
        self._limit = limit
        self._key = b""
        self._read: collections.OrderedDict[str, session.SessionToken] = collections.OrderedDict()

    def read(self, token: str, key: bytes) -> session.SessionToken:
        """What the gatekeeper's own signature says of this session."""
        if key != self._key:
            self._read.clear()
            self._key = key
        known = self._read.get(token)
        if known is not None:
            self._read.move_to_end(token)
            return known
        try:
            said = envelope.unseal(token, signing.SESSION, session.SessionToken, key)
        except envelope.BadToken as error:
            raise Refused(Code.SESSION_INVALID, f"session: {error.reason}", field="$.session") from error
        self._read[token] = said
        if len(self._read) > self._limit:
            self._read.popitem(last=False)
        return said


def check_deployment(state: Governance, said: session.SessionToken, now_ms: int) -> None:
    """That the session is of this deployment, and not over."""
    if (said.runtime_id, said.tenant) != (state.runtime_id, state.tenant):
        raise Refused(Code.SESSION_INVALID, "the session is of another deployment or tenant", field="$.session")
    if now_ms >= said.not_after_ms:
        raise Refused(Code.SESSION_EXPIRED, "the session is over")


def in_its_minutes(said: session.SessionToken, now_ms: int) -> bool:
    """True while what the owner's certificate named may be done: not after its end, and not because a clock was set back, for longer."""
    return 0 < said.mutations_not_after_ms - now_ms <= session.CERTIFICATE_MS + SKEW_MS


class Proven(msgspec.Struct, frozen=True, kw_only=True):
    """How a call was proven; the nonce and time of its proof are to be used once."""

    kind: ProofKind
    proof: session.Proof | None


def check_proof(
    state: Governance, said: session.SessionToken, token: str | None, command: str, parameters: bytes
) -> Proven:
    """That this session, or its owner, signed exactly this call. Time and repetition are `OnceOnly`'s."""
    if said.session_key is None:
        if token is not None:
            raise Refused(Code.PROOF_INVALID, "a bearer session has no key to prove", field="$.proof")
        return Proven(kind="bearer", proof=None)
    if token is None:
        raise Refused(Code.PROOF_MISSING, f"{command} needs a proof by the session's key", field="$.proof")
    proof = _signed_by(_keys(state, said), token)
    if proof.session_id != said.session_id:
        raise Refused(Code.PROOF_INVALID, "the proof is for another session", field="$.proof")
    if proof.command != command:
        raise Refused(Code.PROOF_INVALID, f"the proof is for {proof.command}", field="$.proof")
    if proof.parameters != digest.sha256_hex(parameters):
        raise Refused(Code.PROOF_INVALID, "the proof is for other parameters", field="$.proof")
    return Proven(kind=proof.by, proof=proof)


def _keys(state: Governance, said: session.SessionToken) -> list[tuple[str, str]]:
    """Who may sign for this session: its key, and its owner's as the log knows it."""
    assert said.session_key is not None
    entry = state.issued(said.licence_id)
    owner = None if entry is None else entry.table.owner.key
    keys = [("session", said.session_key)]
    return keys if owner is None else [*keys, ("owner", owner)]


def _signed_by(keys: list[tuple[str, str]], token: str) -> session.Proof:
    reason: Any = None
    for by, key in keys:
        try:
            proof = envelope.unseal(token, signing.PROOF, session.Proof, bytes.fromhex(key))
        except envelope.BadToken as error:
            reason = reason or error.reason
            continue
        if proof.by == by:
            return proof
        reason = f"it claims the {proof.by}'s key and isn't signed by it"
    raise Refused(Code.PROOF_INVALID, f"proof: {reason}", field="$.proof")
