"""The gatekeeper's decisions that need neither bus nor memory: facts for the judge, permits, and what a caller may call.

The judgement itself is `sigilcore.gate`, since the offline replay judges with it too; sessions and proofs are in `sessions`.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from services.gatekeeper.sessions import Proven
from sigilcore import access, decision, gate, permit, session, standing, trust
from sigilcore.access import Loa
from sigilcore.contracts import catalogue, gatekeeper
from sigilcore.contracts.command import Admission, Command
from sigilcore.governance import Governance
from sigilcore.licence import LicenceTable, standing_reason
from sigilcore.refusals import Code, Refused

_CHAIN_BYTES = 2_048  # a chain's canonical bytes without its scope and ids, generously
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


def facts(state: Governance, standings: standing.Standings, call: Call, *, now_ms: int, chain_id: str) -> gate.Facts:
    """The facts of a call as the judge wants them, at the newest position."""
    said, command = call.said, call.command
    return gate.Facts(
        session_id=said.session_id,
        licence_id=said.licence_id,
        owner_id=said.owner_id,
        loa=said.loa,
        keyed=said.session_key is not None,
        mandated=command.name in said.mutations and now_ms < said.mutations_not_after_ms,
        proof=call.proven.kind,
        command=command,
        observed=call.observed,
        calls_last_minute=call.calls_last_minute,
        now_ms=now_ms,
        chain_id=chain_id,
        as_of=state.size,
        standing=standings.at(said.owner_id, now_ms),
        standing_as_of=standings.size,
    )


def chain_bytes(state: Governance, licence_id: str) -> int:
    """At most how many bytes a chain for this licence takes in its record."""
    entry = state.issued(licence_id)
    scope = () if entry is None else entry.table.scope
    return _CHAIN_BYTES + _PATTERN_BYTES * sum(len(pattern) + 1 for pattern in scope)


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
        loa=chain.audit.loa,
        proof=call.proven.kind,
        command=command.name,
        service=command.service,
        target=command.target.value,
        salt=salt.hex(),
        digest=call.observed.digest,
        decision=ref,
        parent=None,
        not_after_ms=now_ms + permit.START_WINDOW_MS,
        longest_run_s=command.longest_run_s,
    )


def listed(state: Governance, licence_id: str, now_ms: int) -> gatekeeper.CommandList:
    """What this licence may call, apart from the score: nothing that the gate would refuse by level or scope, and nothing less."""
    entry = state.issued(licence_id)
    if entry is None or standing_reason(entry.table, entry, now_ms) is not None:
        return gatekeeper.CommandList(items=())
    return gatekeeper.CommandList(
        items=tuple(_view(state, c) for c in _callable(state, entry.table, catalogue.COMMANDS.values()))
    )


def _callable(
    state: Governance, table: LicenceTable, commands: Iterable[Command[Any, Any]]
) -> Iterable[Command[Any, Any]]:
    for command in commands:
        admitted = command.admission is Admission.PERMIT
        if admitted and table.loa.includes(_rung(state, command)) and access.in_scope(table.scope, command.name):
            yield command


def _rung(state: Governance, command: Command[Any, Any]) -> Loa:
    assert state.policy is not None, "genesis brings the first policy"
    return state.policy.rung(command.name, command.rung)


def _view(state: Governance, command: Command[Any, Any]) -> gatekeeper.CommandView:
    return gatekeeper.CommandView(
        name=command.name,
        summary=command.summary,
        rung=_rung(state, command),
        needs_owner=command.needs_owner,
        request=_SCHEMAS[command.name],
    )


def trust_answer(
    state: Governance, loa: Loa, request: gatekeeper.TrustCheck, *, calls_last_minute: int, stands: int
) -> gatekeeper.TrustAnswer:
    """Where a caller of this level stands now for an action on a target, under the model's own threshold."""
    assert state.model is not None, "genesis brings the first model"
    assert state.policy is not None, "genesis brings the first policy"
    features = trust.Features(
        action=trust.action_risk(request.action),
        target=trust.target_sensitivity(request.target),
        loa=trust.loa_feature(loa),
        rate=trust.rate(calls_last_minute, state.policy.rate_limit),
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
    state: Governance, standings: standing.Standings, caller: permit.Permit, name: str, *, calls: int, now_ms: int
) -> gatekeeper.Explanation:
    """The score that this caller's next call of a command would have, without its input; hidden commands are unknown ones."""
    entry = state.issued(caller.licence_id)
    command = catalogue.COMMANDS.get(name)
    if entry is None or command is None or not list(_callable(state, entry.table, [command])):
        raise Refused(Code.UNKNOWN_COMMAND, "no such command", field="$.command")
    assert state.model is not None, "genesis brings the first model"
    assert state.policy is not None, "genesis brings the first policy"
    features = trust.Features(
        action=trust.action_risk(command.action),
        target=trust.target_sensitivity(command.target),
        loa=trust.loa_feature(entry.table.loa),
        rate=trust.rate(calls + 1, state.policy.rate_limit),
        entropy=0,
        standing=standings.at(caller.owner_id, now_ms),
    )
    judged = trust.judge(state.model, features, state.policy.thresholds.get(name))
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
    )


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
