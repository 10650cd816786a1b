"""The gatekeeper's decisions that need neither bus nor memory: facts for the judge, permits, and what a caller may call.

The judgement itself is `sigilcore.gate`, since the offline replay judges with it too; sessions and proofs are in `sessions`.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec

from services.gatekeeper import sessions
from services.gatekeeper.reviews import Waiting
from services.gatekeeper.sessions import Proven
from sigilcore import (
    access,
    clock,
    decision,
    envelope,
    gate,
    grant,
    peers,
    permit,
    session,
    signing,
    standing,
    trust,
)
from sigilcore.access import Loa
from sigilcore.contracts import catalogue, gatekeeper
from sigilcore.contracts.command import Admission, Command
from sigilcore.governance import Governance, PeerEntry
from sigilcore.licence import LicenceTable, Reason, standing_reason
from sigilcore.records import audit
from sigilcore.refusals import Code, Refused

_CHAIN_BYTES = 2_048  # a chain's canonical bytes without its scope, candidates and ids, generously
_PATTERN_BYTES = 8  # a character of a scope's pattern in canonical bytes, generously

_SCHEMAS: dict[str, dict[str, Any]] = {
    name: msgspec.json.schema(command.request) for name, command in catalogue.COMMANDS.items()
}


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """An authenticated call on its way to judgement."""

    said: session.SessionToken
    proven: Proven
    command: Command[Any, Any]
    observed: gate.Observed
    calls_last_minute: int
    approval: str | None = None  # the review whose approval the caller shows
    parent: decision.DecisionRef | None = None  # the call that makes this one on the caller's behalf
    grant: str | None = None


def command_named(name: str) -> Command[Any, Any]:
    """The declaration of a command that the gate admits; unknown ones, and those that something else admits, are denied."""
    command = catalogue.COMMANDS.get(name)
    if command is None:
        raise Refused(Code.UNKNOWN_COMMAND, "no such command", field="$.command")
    if command.admission is not Admission.PERMIT:
        raise Refused(Code.UNKNOWN_COMMAND, f"{name} takes no permit", field="$.command")
    return command


class _Named(msgspec.Struct, frozen=True):
    """Of an `authorize`, the command alone."""

    command: str = ""


def carried(command: Command[Any, Any], body: bytes) -> Command[Any, Any] | None:
    """What a call is about: of `authorize` the command that it asks for, so that a revocation finds the gate's reserved places."""
    if command is not gatekeeper.AUTHORIZE:
        return command
    try:
        return catalogue.COMMANDS.get(msgspec.json.decode(body, type=_Named).command)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def parameter_bytes(text: str) -> bytes:
    """The exact bytes of a body."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise Refused(Code.BAD_INPUT, "parameters hold a lone surrogate", field="$.parameters") from error


def shown_grant(state: Governance, said: session.SessionToken, token: str | None) -> str | None:
    """The grant that came with a call; one that can't be read, or that isn't a peer's to show, is an error and never just left aside."""
    if token is None:
        return None
    if state.peer_of(said.licence_id) is None:
        raise Refused(Code.GRANT_INVALID, "this is no peer's session, so it has no use for a grant", field="$.grant")
    try:
        return grant.read(token).token
    except envelope.BadToken as error:
        raise Refused(Code.GRANT_INVALID, f"grant: {error.reason}", field="$.grant") from error


def check_counts(state: Governance, licence_id: str, now_ms: int) -> None:
    """That a licence wasn't revoked, or a peer blocked or enrolled anew, while its decision was committed."""
    entry = state.issued(licence_id)
    peer = state.peer_of(licence_id) if entry is None else None
    if peer is not None:
        if peer.enrolment != licence_id or peer.tier_at(now_ms) is peers.Tier.BLOCKED:
            raise Refused(Code.PEER_INVALID, "the peer was blocked", detail={"reasons": ["BLOCKED"]})
    elif entry is None or entry.revoked_seq is not None:
        raise Refused(Code.LICENSE_INVALID, "the licence was revoked", detail={"reasons": [Reason.REVOKED]})


def facts(state: Governance, standings: standing.Standings, call: Call, *, now_ms: int, chain_id: str) -> gate.Facts:
    """The facts of a call as the judge wants them, at the newest position."""
    bare = bare_facts(state, call, now_ms=now_ms, chain_id=chain_id)
    stands = standings.lowest(call.observed.candidates or (call.said.owner_id,), now_ms)
    return msgspec.structs.replace(bare, standing=stands, standing_as_of=standings.size)


def bare_facts(state: Governance, call: Call, *, now_ms: int, chain_id: str) -> gate.Facts:
    """The facts without where the caller stands, which takes the history: all that a fault of the gate is told with."""
    said, command = call.said, call.command
    return gate.Facts(
        session_id=said.session_id,
        licence_id=said.licence_id,
        owner_id=said.owner_id,
        loa=said.loa,
        keyed=said.session_key is not None,
        mandated=command.name in said.mutations and sessions.in_its_minutes(said, now_ms),
        proof=call.proven.kind,
        command=command,
        observed=call.observed,
        calls_last_minute=call.calls_last_minute,
        now_ms=now_ms,
        chain_id=chain_id,
        as_of=state.size,
        standing=trust.STANDING_START,
        standing_as_of=0,
        approval=call.approval,
        parent=None if call.parent is None else call.parent.link(),
        grant=call.grant,
    )


def chain_bytes(state: Governance, call: Call) -> int:
    """At most how many bytes this call's chain takes in its record."""
    entry = state.issued(call.said.licence_id)
    scope = () if entry is None else entry.table.scope
    return _CHAIN_BYTES + _PATTERN_BYTES * sum(len(text) + 1 for text in (*scope, *call.observed.candidates))


def permit_for(
    call: Call, chain: decision.ReasoningChain, ref: decision.DecisionRef, *, salt: bytes, permit_id: str, now_ms: int
) -> permit.Permit:
    """The permit that an Allow gives to a call. A shared decision's permit has this call's own salt and digest."""
    said, command = call.said, call.command
    return permit.Permit(
        permit_id=permit_id,
        runtime_id=said.runtime_id,
        tenant=said.tenant,
        owner_id=said.owner_id,
        licence_id=said.licence_id,
        session_id=said.session_id,
        session_ends_ms=said.not_after_ms,
        loa=chain.audit.loa,
        proof=call.proven.kind,
        command=command.name,
        service=command.service,
        target=command.target.value,
        salt=salt.hex(),
        digest=call.observed.digest,
        decision=ref,
        parent=call.parent,
        not_after_ms=now_ms + permit.START_WINDOW_MS,
        longest_run_s=command.longest_run_s,
    )


def listed(state: Governance, licence_id: str, now_ms: int) -> gatekeeper.CommandList:
    """What this licence may call, apart from the score: nothing that the gate would refuse by level or scope, and nothing less."""
    entry = state.issued(licence_id)
    peer = state.peer_of(licence_id) if entry is None else None
    if peer is not None:
        lent = _lent(state, peer, licence_id, catalogue.COMMANDS.values(), now_ms)
        return gatekeeper.CommandList(items=tuple(_view(state, command) for command in lent))
    if entry is None or standing_reason(entry.table, entry, now_ms) is not None:
        return gatekeeper.CommandList(items=())
    own = _callable(state, entry.table, catalogue.COMMANDS.values())
    return gatekeeper.CommandList(items=tuple(_view(state, command) for command in own))


def _callable(
    state: Governance, table: LicenceTable, commands: Iterable[Command[Any, Any]]
) -> Iterable[Command[Any, Any]]:
    for command in commands:
        admitted = command.admission is Admission.PERMIT
        if admitted and table.loa.includes(_rung(state, command)) and access.in_scope(table.scope, command.name):
            yield command


def _lent(
    state: Governance, peer: PeerEntry, enrolment: str, commands: Iterable[Command[Any, Any]], now_ms: int
) -> Iterable[Command[Any, Any]]:
    """What a peer may call of these: by its tier, and by the grant that its mark names if it shows it."""
    for command in commands:
        loa = _peer_loa(state, peer, enrolment, command, now_ms)
        need = _rung(state, command)
        admitted = command.admission is Admission.PERMIT and not command.needs_owner_at(need)
        if admitted and loa is not None and loa.includes(need):
            yield command


def _peer_loa(
    state: Governance, peer: PeerEntry, enrolment: str, command: Command[Any, Any], now_ms: int
) -> Loa | None:
    """The level that a peer would have for a command, with the grant that its mark names; None for who doesn't count."""
    tier = peer.tier_at(now_ms).rung
    if tier is None or peer.enrolment != enrolment:
        return None
    held = state.grant_marks.get(peer.key_id)
    if held is None or held.token is None:
        return tier
    found = grant.evaluate(
        held.token,
        issuer_key=state.root.key,
        presenting_key=peer.key,
        mesh=peer.mesh,
        now_ms=now_ms,
        mark=held.mark,
        command=command.name,
    )
    return peers.lifted(tier, _rung(state, command), command, found.outcome)


def _rung(state: Governance, command: Command[Any, Any]) -> Loa:
    assert state.policy is not None, "genesis brings the first policy"
    return state.policy.rung(command.name, command.rung)


def record_of(frozen: Sequence[decision.FrozenChain]) -> tuple[str, audit.ApprovedDecision | audit.DecisionBatch]:
    """Decisions as one record: an Allow by approval is one of its own, since it uses the approval up."""
    first = frozen[0].chain
    if first.approval is not None and first.verdict is decision.Verdict.ALLOW:
        (alone,) = frozen
        return "approved_decision", audit.ApprovedDecision(decision=alone)
    return "decision_batch", audit.DecisionBatch(decisions=tuple(frozen))


def waiting(state: Governance, chain: decision.ReasoningChain, review: str, text: str, salt: bytes) -> Waiting:
    """A call that the gate wants reviewed, as long as the policy lets it wait."""
    assert state.policy is not None, "genesis brings the first policy"
    law = state.policy.review(chain.command, chain.module)
    if law is None or state.policy_seq >= chain.as_of:
        raise Refused(Code.GATE_FAULT, "the policy changed while the call was judged")
    return Waiting(
        review=review,
        owner=chain.audit.owner,
        licence=chain.audit.licence,
        command=chain.command,
        parameters=text,
        salt=salt.hex(),
        digest=chain.digest,
        until_ms=clock.parse_ms(chain.audit.ts) + law.within_s * 1000,
    )


def decided(
    one: Waiting, request: gatekeeper.DecideReview, bound: permit.Bound, verdict: Literal["approved", "refused"]
) -> audit.ApprovalDecided:
    """A mentor's word as a record; the writer asks the same again, and whether the mentor's licence counts."""
    if request.digest != one.digest:
        raise Refused(Code.APPROVAL_MISMATCH, "the call that waits has another digest", field="$.digest")
    if bound.permit.owner_id == one.owner:
        raise Refused(Code.SELF_APPROVAL, "it is your own call", field="$.review")
    return audit.ApprovalDecided(
        review=one.review,
        verdict=verdict,
        owner=one.owner,
        command=one.command,
        digest=one.digest,
        approver=bound.permit.owner_id,
        licence=bound.permit.licence_id,
        not_after=clock.format_ms(one.until_ms),
        request=bound.request(),
    )


def shown_approval(text: str | None) -> tuple[str | None, bytes | None]:
    """The review and the salt of an approval as a caller shows it."""
    if text is None:
        return None, None
    review, _, salt = text.rpartition(".")
    if decision.parse_ref(review) is None or not re.fullmatch(r"[0-9a-f]{32}", salt):
        raise Refused(Code.BAD_INPUT, "an approval is <review>.<salt>", field="$.approval")
    return review, bytes.fromhex(salt)


def parent_of(
    state: Governance, key: bytes, request: gatekeeper.AuthorizeChild, service: str, now_ms: int
) -> permit.Permit:
    """The call on whose behalf this service asks, down the page: genuine, of this deployment, this service's own, still running, and one
    whose declaration names the asked command."""
    try:
        parent = envelope.unseal(request.parent, signing.PERMIT, permit.Permit, key)
    except envelope.BadToken as error:
        raise Refused(Code.PERMIT_INVALID, f"permit: {error.reason}", field="$.parent") from error
    if (parent.runtime_id, parent.tenant) != (state.runtime_id, state.tenant):
        raise Refused(Code.PERMIT_INVALID, "the permit is for another deployment or tenant", field="$.parent")
    declared = catalogue.COMMANDS.get(parent.command)
    if declared is None or declared.service != service or parent.service != service:
        raise Refused(Code.PERMIT_MISMATCH, f"{parent.command} is not {service}'s to answer", field="$.parent")
    longest_s = min(parent.longest_run_s, declared.longest_run_s)
    if now_ms > parent.not_after_ms + longest_s * 1000:
        raise Refused(Code.PERMIT_EXPIRED, "the call on whose behalf it asks is over", field="$.parent")
    if request.command not in declared.calls:
        raise Refused(Code.CALL_UNDECLARED, f"{parent.command} doesn't call {request.command}", field="$.command")
    return parent


def session_of(parent: permit.Permit) -> session.SessionToken:
    """What a permit says of its caller's session. No key and no mandate: what is called on somebody's behalf proves nothing anew."""
    return session.SessionToken(
        session_id=parent.session_id,
        runtime_id=parent.runtime_id,
        tenant=parent.tenant,
        licence_id=parent.licence_id,
        owner_id=parent.owner_id,
        loa=parent.loa,
        session_key=None,
        mutations=(),
        mutations_not_after_ms=0,
        not_after_ms=parent.session_ends_ms,
    )


def _view(state: Governance, command: Command[Any, Any]) -> gatekeeper.CommandView:
    need = _rung(state, command)
    return gatekeeper.CommandView(
        name=command.name,
        summary=command.summary,
        rung=need,
        needs_owner=command.needs_owner_at(need),
        request=_SCHEMAS[command.name],
    )


def trust_answer(
    state: Governance, loa: Loa, request: gatekeeper.TrustCheck, *, calls_last_minute: int, stands: int
) -> gatekeeper.TrustAnswer:
    """Where a caller of this level stands now for an action on a target, under the model's own threshold."""
    assert state.model is not None, "genesis brings the first model"
    assert state.policy is not None, "genesis brings the first policy"
    features = trust.features(
        action=request.action,
        target=request.target,
        rung=loa,
        calls=calls_last_minute,
        rate_limit=state.policy.rate_limit,
        entropy=0,
        standing=stands,
    )
    judged = trust.judge(state.model, features)
    return gatekeeper.TrustAnswer(
        allowed=judged.allowed,
        score=judged.score,
        threshold=judged.threshold,
        logit=judged.logit,
        model=state.model.version,
        features=features,
    )


def explained(
    state: Governance,
    standings: standing.Standings,
    caller: permit.Permit,
    request: gatekeeper.Explain,
    *,
    calls: int,
    now_ms: int,
) -> gatekeeper.Explanation:
    """The score that this caller's next call of a command would have, without its input; hidden commands are unknown ones."""
    name = request.command
    command = catalogue.COMMANDS.get(name)
    loa = None if command is None else _loa_for(state, caller.licence_id, command, now_ms)
    if command is None or loa is None:
        raise Refused(Code.UNKNOWN_COMMAND, "no such command", field="$.command")
    if request.candidates and command.candidate_field is None:
        raise Refused(Code.BAD_INPUT, f"{name} proposes nobody", field="$.candidates")
    assert state.model is not None, "genesis brings the first model"
    assert state.policy is not None, "genesis brings the first policy"
    features = trust.features(
        action=command.action,
        target=command.target,
        rung=loa,
        calls=calls + 1,
        rate_limit=state.policy.rate_limit,
        entropy=0,
        standing=standings.lowest(request.candidates or (caller.owner_id,), now_ms),
    )
    judged = trust.judge(state.model, features, state.policy.threshold(name, state.model.threshold))
    return gatekeeper.Explanation(
        command=name,
        allowed=judged.allowed or not command.scored,
        score=judged.score,
        logit=judged.logit,
        threshold=judged.threshold,
        bias=state.model.bias,
        parts=tuple(_part(state.model.weights, features, feature) for feature in trust.Features.__struct_fields__),
        model=state.model.version,
        as_of=state.size,
        standing_as_of=standings.size,
        standing_of=request.candidates,
    )


def _loa_for(state: Governance, licence_id: str, command: Command[Any, Any], now_ms: int) -> Loa | None:
    """The level by which this caller may call the command; None if it may not."""
    entry = state.issued(licence_id)
    peer = state.peer_of(licence_id) if entry is None else None
    if peer is not None:
        lent = list(_lent(state, peer, licence_id, [command], now_ms))
        return _peer_loa(state, peer, licence_id, command, now_ms) if lent else None
    return None if entry is None or not list(_callable(state, entry.table, [command])) else entry.table.loa


def _part(weights: trust.Weights, features: trust.Features, feature: str) -> gatekeeper.Part:
    value, weight = getattr(features, feature), getattr(weights, feature)
    return gatekeeper.Part(feature=feature, value=value, weight=weight, product=value * weight)


def trust_status(state: Governance) -> gatekeeper.TrustStatus:
    """The model and policy in force."""
    assert state.model is not None, "genesis brings the first model"
    assert state.policy is not None, "genesis brings the first policy"
    return gatekeeper.TrustStatus(model=state.model, policy=state.policy.version, as_of=state.size)


def system_info(state: Governance) -> gatekeeper.SystemInfo:
    """The deployment's fingerprints and state."""
    return gatekeeper.SystemInfo(
        tenant=state.tenant,
        runtime_id=state.runtime_id,
        canon_fingerprint=state.genesis_hash,
        log_key=state.log_key,
        sealed=state.sealed,
        witnesses=len(state.active_witnesses()),
        quorum=None if state.quorum is None else state.quorum.k,
        size=state.size,
    )
