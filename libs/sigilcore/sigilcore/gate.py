"""The gate's judgement: may this caller make this call, here and now, and why.

Decides: one `ReasoningChain` from the state of the log and the facts of one call. It reads no clock, no network and no chance, so the
same state and facts give the same chain for ever, and the offline replay judges again with this very code.

Invariants:

1. Checks go down the page: licence, level, scope, proof, owner, trust, and review where a policy asks for one. The first that fails is
   the reason and the last step.
2. What decides comes from the log (licence, policy, model) and the declaration (rung, action, target). From the session come only its
   names and what it proved; its level is a label that judges nothing.
3. A policy raises a rung, never lowers it, and what it raises to mentor or root needs the owner's word like what was declared there. A
   bearer reaches operator at most.
4. Braking commands (`scored` is False) skip the score, and with it the review, and nothing else.
5. Every step's detail is a value (`mentor`, `REVOKED`), so a refusal is read from the chain and says what the record says.
6. A call that is reviewed passes by a mentor's approval of its very parameters (`approvals`), or it doesn't pass. One that is made on
   somebody's behalf is judged as theirs; it never carries the owner's word, and nobody approves it.
7. A peer, which has no licence, passes checks of its own: its enrolment and tier, the grant that it shows, the rung that both give, its
   session's proof, the score. It has no owner's word, so what needs one is never its.
8. A call that proposes witnesses is scored on the lowest of their standings, and not on its caller's (`candidates`).
9. What can't be judged is denied, and recorded as what it is (`faulted`): one step, `gate`, that failed. It says nothing else, so nobody is
   better or worse for it, and no other chain names that step.

Example: an operator who asks for `license/create` fails at `loa`, detail `root`; `refusal_of` answers LOA_TOO_LOW, {"need": "root"}.
"""

import functools
from typing import Any, Final

import msgspec

from sigilcore import access, approvals, candidates, clock, decision, digest, grant, ids, licence, peers, policy, trust
from sigilcore.access import Loa
from sigilcore.contracts import knowledge
from sigilcore.contracts.command import Command
from sigilcore.decision import ProofKind, ReasoningChain, Step, Verdict
from sigilcore.governance import Governance, IssuedLicence, PeerEntry
from sigilcore.refusals import Code, Refused

BEARER_CEILING: Final = Loa.OPERATOR
GO_AHEAD: Final = "Use the permit within five seconds."

# The checks in their order, and the refusal that each gives.
REFUSALS: Final = {
    "licence": Code.LICENSE_INVALID,
    "peer": Code.PEER_INVALID,
    "grant": Code.GRANT_REFUSED,
    "loa": Code.LOA_TOO_LOW,
    "scope": Code.OUT_OF_SCOPE,
    "proof": Code.PROOF_MISSING,
    "owner": Code.OWNER_PROOF_NEEDED,
    "trust": Code.DENIED_BY_TRUST,
    "review": Code.REVIEW_NEEDED,
    "gate": Code.GATE_FAULT,
}
NEEDED: Final = "needed"
CHILD: Final = "on behalf"
FAULT: Final = "FAULT"


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """What the gate keeps of a call's parameters: never the parameters."""

    digest: str
    length: int
    entropy: int
    effect: str | None
    module: str | None = None
    candidates: tuple[str, ...] = ()


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """One call, as the gate found it.

    `loa` is the session's label, used only when the log doesn't know the licence. `keyed`: the session has a key. `mandated`: the
    owner's certificate names this command and its minutes aren't over. `proof`: what was verified for this call. `as_of`: the log
    position of the state it is judged by; `standing`: the owner's, or the lowest of those whom the call proposes as witnesses;
    `standing_as_of`: the position of the decisions that it comes of. `approval`: the review whose approval the caller shows. `parent`: the
    decision of the call that makes this one on the caller's behalf.
    """

    session_id: str
    licence_id: str
    owner_id: str
    loa: Loa
    keyed: bool
    mandated: bool
    proof: ProofKind
    command: Command[Any, Any]
    observed: Observed
    calls_last_minute: int
    now_ms: int
    chain_id: str
    as_of: int
    standing: int
    standing_as_of: int
    approval: str | None = None
    parent: str | None = None
    grant: str | None = None  # the token that a peer showed; it was read before, so it is one


class _Core(msgspec.Struct):
    id: str | None = None


class _Header(msgspec.Struct):
    core: _Core | None = None


class _Finished(msgspec.Struct):
    header: _Header | None = None


class _Parameters(msgspec.Struct):
    """Read no further than this, whatever a caller sends beside it."""

    id: msgspec.Raw = msgspec.Raw(b"null")
    record: msgspec.Raw = msgspec.Raw(b"null")


_DECODER: Final = msgspec.json.Decoder(_Parameters)


def observe(command: Command[Any, Any], parameters: bytes, salt: bytes) -> Observed:
    """Take what is kept of the parameters. Raises `Refused(BAD_INPUT)` for what is no JSON object."""
    try:
        named = _DECODER.decode(parameters)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(Code.BAD_INPUT, "parameters are one JSON object", field="$.parameters") from error
    return Observed(
        digest=digest.parameter_digest(salt, parameters),
        length=len(parameters),
        entropy=trust.entropy(parameters) if command.scored else 0,
        effect=_effect(command, named),
        module=_module(command, parameters),
        candidates=candidates.in_call(command, parameters),
    )


def _effect(command: Command[Any, Any], named: _Parameters) -> str | None:
    try:
        if bytes(named.record) != b"null" and command.name == knowledge.USER_WRITE.name:
            finished = msgspec.json.decode(named.record, type=_Finished)
            wanted = finished.header.core.id if finished.header and finished.header.core else None
        else:
            wanted = msgspec.json.decode(named.id, type=str | None)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return wanted if wanted is not None and ids.is_id(wanted) else None


def _module(command: Command[Any, Any], parameters: bytes) -> str | None:
    """The module that the parameters name; what its service will refuse as no module is none here."""
    if command.module_field is None:
        return None
    try:
        named = msgspec.json.decode(parameters, type=dict[str, msgspec.Raw]).get(command.module_field)
        return None if named is None else msgspec.json.decode(named, type=str)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def judge(state: Governance, facts: Facts) -> ReasoningChain:
    """Judge one call."""
    return _reason(state, facts, None, clock.format_ms(facts.now_ms))


def faulted(facts: Facts) -> ReasoningChain:
    """The denial of a call whose judgement broke, from what the call says alone: the state, or the law in it, may be what is broken."""
    return _faulted(facts, clock.format_ms(facts.now_ms))


def refusal_of(chain: ReasoningChain, ref: decision.DecisionRef | None = None) -> Refused:
    """The refusal that a denial or a review gives; `ref` names its record if it has one."""
    step = chain.steps[-1]
    detail: dict[str, Any] = {} if ref is None else {"decision": ref.link()}
    if step.check == "licence":
        return Refused(
            Code.LICENSE_INVALID,
            f"the licence doesn't count: {step.detail}",
            detail={"reasons": [step.detail], **detail},
        )
    if step.check == "peer":
        return Refused(
            Code.PEER_INVALID, f"the peer doesn't count: {step.detail}", detail={"reasons": [step.detail], **detail}
        )
    if step.check == "grant" or (step.check == "loa" and chain.grant is not None and not _authorized(chain.grant)):
        assert chain.grant is not None, "the step is of the grant that was shown"
        outcome = chain.grant.outcome
        return Refused(
            Code.GRANT_REFUSED, f"{chain.command}: the grant is {outcome}", detail={"grant": outcome.value, **detail}
        )
    if step.check == "loa":
        says = "the peer's tier gives" if peers.is_peer(chain.audit.owner) else "the licence says"
        message = f"{chain.command} needs {step.detail}, {says} {chain.audit.loa}"
        return Refused(Code.LOA_TOO_LOW, message, detail={"need": step.detail, **detail})
    if step.check == "scope":
        return Refused(
            Code.OUT_OF_SCOPE,
            f"the licence's scope doesn't name {chain.command}",
            detail={"scope": list(chain.scope), **detail},
        )
    if step.check == "proof":
        return Refused(Code.PROOF_MISSING, f"{chain.command} needs a proof by the session's key", detail=detail)
    if step.check == "owner":
        return Refused(Code.OWNER_PROOF_NEEDED, f"{chain.command} needs the owner's own word", detail=detail)
    if step.check == "review":
        return _review_refusal(chain, step.detail, detail)
    if step.check == "gate":
        return Refused(Code.GATE_FAULT, "the call could not be judged; nothing was issued", detail=detail)
    assert chain.trust is not None, "the last check is the score"
    score: dict[str, Any] = {
        "score": trust.score(chain.trust.logit),
        "threshold": chain.trust.threshold,
        "logit": chain.trust.logit,
        "model": chain.trust.model,
        "features": msgspec.to_builtins(chain.trust.features),
    }
    if chain.trust.standing_of:
        score["standing_of"] = list(chain.trust.standing_of)
    return Refused(
        Code.DENIED_BY_TRUST,
        f"the score of {chain.command} is below its threshold",
        detail={**score, **detail},
    )


def _review_refusal(chain: ReasoningChain, said: str, detail: dict[str, Any]) -> Refused:
    if said == NEEDED:
        review = {"review": detail["decision"]} if detail else {}
        return Refused(
            Code.REVIEW_NEEDED, f"a mentor approves this call of {chain.command} first", detail={**detail, **review}
        )
    if said == CHILD:
        message = f"{chain.command} is under review, so it can't be called on somebody's behalf"
        return Refused(Code.REVIEW_NEEDED, message, detail=detail)
    return Refused(Code(said), f"this approval doesn't let {chain.command} pass", detail=detail)


def recompute(state: Governance, chain: ReasoningChain, command: Command[Any, Any] | None) -> list[str]:
    """Judge a recorded chain again (law 11); returns what differs, nothing if it holds.

    `state` is the log as it stood where the chain's record stands; `command` is the declaration. The parameters are gone, so the
    features that came of them are taken as recorded, and whether the owner's certificate named the command as the chain says. A denial
    may have been overtaken by a newer licence, policy or model before it was recorded; then only its own arithmetic is checked. An
    Allow may not: the writer refuses it. Whether the gate broke is its own word; then the chain says that and nothing else.
    """
    if command is None:
        return [f"command: {chain.command!r} is not declared"]
    if decision.blames_gate(chain):
        return _compared(chain, _faulted(_level_of(state, _facts_of(chain, command)), chain.audit.ts))
    differences = [] if chain.trust is None else _arithmetic(chain, chain.trust, command)
    if overtaken(state, chain):
        stale = chain.verdict is Verdict.ALLOW
        return [*differences, "as_of: allowed by a licence, policy or model that had changed"] if stale else differences
    again = _reason(state, _facts_of(chain, command), chain.trust, chain.audit.ts, chain.grant)
    if chain.trust is not None:
        differences += _declared(chain.trust.features, command, again.audit.loa)
    return differences + _compared(chain, again)


def _compared(chain: ReasoningChain, again: ReasoningChain) -> list[str]:
    if chain == again:
        return []
    return [
        f"{field}: recorded {recorded!r}, recomputed {recomputed!r}"
        for field in ReasoningChain.__struct_fields__
        for recorded, recomputed in [(getattr(chain, field), getattr(again, field))]
        if recorded != recomputed
    ]


def _level_of(state: Governance, facts: Facts) -> Facts:
    """The facts with the level that the log gives, where it knows the licence."""
    entry = state.issued(facts.licence_id)
    return facts if entry is None else msgspec.structs.replace(facts, loa=entry.table.loa)


def _faulted(facts: Facts, ts: str) -> ReasoningChain:
    step = _step("gate", False, FAULT)
    return ReasoningChain(
        command=facts.command.name,
        target=facts.command.target,
        digest=facts.observed.digest,
        length=facts.observed.length,
        effect=None,
        steps=(step,),
        suggestion=_code(step).next_step,
        verdict=Verdict.DENY,
        audit=_audit(facts, facts.loa, ts),
        trust=None,
        proof=facts.proof,
        as_of=facts.as_of,
        scope=(),
        parent=facts.parent,
    )


def _audit(facts: Facts, loa: Loa, ts: str) -> decision.Audit:
    return decision.Audit(
        ts=ts,
        chain_id=facts.chain_id,
        session=facts.session_id,
        licence=facts.licence_id,
        owner=facts.owner_id,
        loa=loa,
    )


def _reason(
    state: Governance, facts: Facts, recorded: decision.Trust | None, ts: str, shown: decision.Grant | None = None
) -> ReasoningChain:
    command = facts.command
    entry = state.issued(facts.licence_id)
    loa = facts.loa if entry is None else entry.table.loa
    scope = () if entry is None else entry.table.scope
    peer = state.peer_of(facts.licence_id) if entry is None else None
    if peer is None:
        shown = None
        steps, scored = _steps(state, facts, entry, recorded)
    else:
        shown = _shown(state, facts, peer, shown)
        loa = _peer_loa(state, facts, peer, shown)
        steps, scored = _peer_steps(state, facts, peer, shown, recorded)
    last = steps[-1]
    return ReasoningChain(
        command=command.name,
        target=command.target,
        digest=facts.observed.digest,
        length=facts.observed.length,
        effect=facts.observed.effect,
        steps=steps,
        suggestion=GO_AHEAD if last.passed else _code(last).next_step,
        verdict=_verdict(last),
        audit=_audit(facts, loa, ts),
        trust=scored,
        proof=facts.proof,
        as_of=facts.as_of,
        scope=scope,
        approval=facts.approval if last.check == "review" else None,
        parent=facts.parent,
        module=facts.observed.module,
        grant=shown,
    )


def _verdict(last: Step) -> Verdict:
    if last.passed:
        return Verdict.ALLOW
    return Verdict.MANUAL_REVIEW if (last.check, last.detail) == ("review", NEEDED) else Verdict.DENY


def _code(last: Step) -> Code:
    if last.check == "review" and last.detail in Code.__members__:
        return Code(last.detail)
    return REFUSALS[last.check]


def _steps(
    state: Governance, facts: Facts, entry: IssuedLicence | None, recorded: decision.Trust | None
) -> tuple[tuple[Step, ...], decision.Trust | None]:
    """The checks down the page, up to the first that fails."""
    command = facts.command
    reason = licence.Reason.NEVER_ISSUED if entry is None else licence.standing_reason(entry.table, entry, facts.now_ms)
    if entry is None or reason is not None:
        return (_step("licence", False, str(reason)),), None
    steps: tuple[Step, ...] = (_step("licence", True, "valid"),)
    table = entry.table

    need = _need(state, facts)
    enough = table.loa.includes(need)
    steps += (_step("loa", enough, need.value),)
    if not enough:
        return steps, None

    named = access.in_scope(table.scope, command.name)
    steps += (_step("scope", named, command.name),)
    if not named:
        return steps, None

    proven = _proven(facts, table)
    steps += (_step("proof", proven, facts.proof),)
    if not proven:
        return steps, None

    word = _owners_word(facts, need)
    steps += (_step("owner", word != "missing", word),)
    if word == "missing":
        return steps, None

    return _weighed(state, facts, table.loa, steps, recorded)


def _weighed(
    state: Governance, facts: Facts, loa: Loa, steps: tuple[Step, ...], recorded: decision.Trust | None
) -> tuple[tuple[Step, ...], decision.Trust | None]:
    """The last checks, of whoever got so far: the score, and a mentor's word where the policy asks for one."""
    if not facts.command.scored:
        return (*steps, _step("trust", True, "not scored")), None
    scored = _score(state, facts, loa, recorded)
    assert state.policy is not None, "genesis brings the first policy"
    reviewed = _reviewed(state.policy, facts, scored)
    steps += (_step("trust", scored.allowed or reviewed, "at or above" if scored.allowed else "below"),)
    if not reviewed:
        return steps, scored
    return (*steps, _review(state, facts)), scored


def _reviewed(law: policy.AccessPolicy, facts: Facts, scored: decision.Trust) -> bool:
    """Whether the policy asks for a mentor's word on this call: on what would pass, or on a band of what just wouldn't."""
    review = law.review(facts.command.name, facts.observed.module)
    if review is None or review.band is None:
        return review is not None and scored.allowed
    return not scored.allowed and scored.logit >= (scored.threshold - review.band) * trust.ONE


def _review(state: Governance, facts: Facts) -> Step:
    if facts.parent is not None:
        return _step("review", False, CHILD)
    if facts.approval is None:
        return _step("review", False, NEEDED)
    fault = approvals.fault(
        state,
        facts.approval,
        owner=facts.owner_id,
        command=facts.command.name,
        digest=facts.observed.digest,
        now_ms=facts.now_ms,
    )
    return _step("review", fault is None, "approved" if fault is None else fault.value)


# A peer


def _peer_steps(
    state: Governance,
    facts: Facts,
    peer: PeerEntry,
    shown: decision.Grant | None,
    recorded: decision.Trust | None,
) -> tuple[tuple[Step, ...], decision.Trust | None]:
    """The checks of a peer's call down the page, up to the first that fails."""
    reason = _peer_reason(facts, peer)
    if reason is not None:
        return (_step("peer", False, reason),), None
    steps: tuple[Step, ...] = (_step("peer", True, peer.tier_at(facts.now_ms).value),)

    if shown is not None:
        # A grant that doesn't confer leaves the tier to speak; a mark that can't be kept denies.
        kept = shown.outcome is not grant.Outcome.WATERMARK_UNAVAILABLE
        steps += (_step("grant", kept, shown.outcome.value),)
        if not kept:
            return steps, None

    need, loa = _need(state, facts), _peer_loa(state, facts, peer, shown)
    enough = loa.includes(need)
    steps += (_step("loa", enough, need.value),)
    if not enough:
        return steps, None

    proven = facts.proof == "session"
    steps += (_step("proof", proven, facts.proof),)
    if not proven:
        return steps, None

    owed = facts.command.needs_owner_at(need)
    steps += (_step("owner", not owed, "missing" if owed else "not needed"),)
    if owed:
        return steps, None

    return _weighed(state, facts, loa, steps, recorded)


def _peer_reason(facts: Facts, peer: PeerEntry) -> str | None:
    if peer.enrolment != facts.licence_id:
        return "ENROLLED_ANEW"
    if peer.owner_id != facts.owner_id:
        return "OTHER_KEY"
    return "BLOCKED" if peer.tier_at(facts.now_ms) is peers.Tier.BLOCKED else None


def _shown(state: Governance, facts: Facts, peer: PeerEntry, recorded: decision.Grant | None) -> decision.Grant | None:
    """What became of the grant that a peer showed; nobody looks at that of a peer who doesn't count.

    Its mark was moved before this judgement. If it wasn't, the log can't tell this grant from an older one: that denies.
    """
    if _peer_reason(facts, peer) is not None:
        return None
    token = facts.grant if recorded is None else state.marked_token(peer.key_id, recorded.hash)
    if token is None:
        return None if recorded is None else _unproven(state, peer, recorded)
    found = grant.evaluate(
        token,
        issuer_key=state.root.key,
        presenting_key=peer.key,
        mesh=peer.mesh,
        now_ms=facts.now_ms,
        mark=state.mark_of(peer.key_id),
        command=facts.command.name,
    )
    said = grant.read(token)
    outcome = grant.Outcome.WATERMARK_UNAVAILABLE if found.moves else found.outcome
    return decision.Grant(hash=said.grant_hash, epoch=said.grant.epoch, outcome=outcome)


def _unproven(state: Governance, peer: PeerEntry, recorded: decision.Grant) -> decision.Grant:
    """A grant that isn't in the log, as the gate said: it may have counted for nothing. That it conferred is never believed."""
    mark = state.mark_of(peer.key_id)
    past = isinstance(mark, grant.Mark) and recorded.epoch <= mark.epoch
    honest = {
        grant.Outcome.AUTHORIZED: False,
        grant.Outcome.NOT_GRANTED: False,
        grant.Outcome.SUPERSEDED: past,
    }.get(recorded.outcome, True)
    if honest:
        return recorded
    return decision.Grant(hash=recorded.hash, epoch=recorded.epoch, outcome=grant.Outcome.WATERMARK_UNAVAILABLE)


def _peer_loa(state: Governance, facts: Facts, peer: PeerEntry, shown: decision.Grant | None) -> Loa:
    """The rung of this one call."""
    tier = peer.tier_at(facts.now_ms).rung or Loa.GUEST
    return peers.lifted(tier, _need(state, facts), facts.command, None if shown is None else shown.outcome)


def _need(state: Governance, facts: Facts) -> Loa:
    """The rung in force: the declared one, or what the policy raised it to."""
    assert state.policy is not None, "genesis brings the first policy"
    return state.policy.rung(facts.command.name, facts.command.rung, facts.observed.module)


def _authorized(shown: decision.Grant) -> bool:
    return shown.outcome is grant.Outcome.AUTHORIZED


def _proven(facts: Facts, table: licence.LicenceTable) -> bool:
    if facts.proof != "bearer":
        return True
    return not (facts.keyed or table.key_bound) and BEARER_CEILING.includes(table.loa)


def _owners_word(facts: Facts, need: Loa) -> str:
    if not facts.command.needs_owner_at(need):
        return "not needed"
    if facts.parent is not None:
        return "missing"
    if facts.proof == "owner":
        return "proof"
    return "certificate" if facts.mandated else "missing"


def _score(state: Governance, facts: Facts, loa: Loa, recorded: decision.Trust | None) -> decision.Trust:
    model, policy = state.model, state.policy
    assert model is not None, "genesis brings the first model"
    assert policy is not None, "genesis brings the first policy"
    features = recorded.features if recorded is not None else features_of(facts, loa, policy.rate_limit)
    threshold = policy.threshold(facts.command.name, model.threshold, facts.observed.module)
    logit = trust.logit(model, features)
    return decision.Trust(
        model=model.version,
        features=features,
        standing_as_of=facts.standing_as_of,
        logit=logit,
        threshold=threshold,
        allowed=logit >= threshold * trust.ONE,
        standing_of=facts.observed.candidates,
    )


def features_of(facts: Facts, loa: Loa, rate_limit: int) -> trust.Features:
    """The six features of one call."""
    return trust.features(
        action=facts.command.action,
        target=facts.command.target,
        rung=loa,
        calls=facts.calls_last_minute,
        rate_limit=rate_limit,
        entropy=facts.observed.entropy,
        standing=facts.standing,
    )


@functools.lru_cache(maxsize=4096)
def _step(check: str, passed: bool, detail: str) -> Step:
    return Step(check=check, passed=passed, detail=detail)


def _facts_of(chain: ReasoningChain, command: Command[Any, Any]) -> Facts:
    # In the order of the page; steps in any other order differ from the page whatever these say.
    proof, owner = (*chain.steps[3:5], None, None)[:2]
    return Facts(
        session_id=chain.audit.session,
        licence_id=chain.audit.licence,
        owner_id=chain.audit.owner,
        loa=chain.audit.loa,
        keyed=chain.proof != "bearer" or (proof is not None and not proof.passed),
        mandated=owner is not None and owner.detail == "certificate",
        proof=chain.proof,
        command=command,
        observed=Observed(
            digest=chain.digest,
            length=chain.length,
            entropy=0,
            effect=chain.effect,
            module=chain.module,
            candidates=() if chain.trust is None else chain.trust.standing_of,
        ),
        calls_last_minute=0,
        now_ms=clock.parse_ms(chain.audit.ts),
        chain_id=chain.audit.chain_id,
        as_of=chain.as_of,
        standing=trust.STANDING_START,
        standing_as_of=0 if chain.trust is None else chain.trust.standing_as_of,
        approval=chain.approval,
        parent=chain.parent,
    )


def overtaken(state: Governance, chain: ReasoningChain) -> bool:
    """True if the licence, the policy, the model or the approval moved after the chain was judged; of a peer, its enrolment or grants."""
    entry = state.issued(chain.audit.licence)
    licence_seq = -1 if entry is None else entry.changed_seq
    peer = state.peer_of(chain.audit.licence) if entry is None else None
    if peer is not None:
        licence_seq = max(peer.changed_seq, _grants_seq(state, peer) if chain.grant is not None else -1)
    approval_seq = -1 if chain.approval is None else approvals.moved(state, chain.approval)
    return max(state.model_seq, state.policy_seq, licence_seq, approval_seq) >= chain.as_of


def _grants_seq(state: Governance, peer: PeerEntry) -> int:
    """Where what a peer's grants stand on moved last: their mark, or their issuer, since a new Root is another."""
    held = state.grant_marks.get(peer.key_id)
    return max(*state.roots, -1 if held is None else held.since_seq)


def _arithmetic(chain: ReasoningChain, scored: decision.Trust, command: Command[Any, Any]) -> list[str]:
    """What a chain's numbers say against its own words."""
    differences = []
    if scored.standing_of and command.candidate_field is None:
        differences.append("trust.standing_of: the command proposes nobody")
    if scored.allowed != (scored.logit >= scored.threshold * trust.ONE):
        differences.append("trust: allowed doesn't follow from logit and threshold")
    if chain.verdict is Verdict.ALLOW and not scored.allowed and chain.approval is None:
        differences.append("verdict: Allow below the threshold")
    return differences


def _declared(features: trust.Features, command: Command[Any, Any], loa: Loa) -> list[str]:
    """Features that don't come of the declaration and the licence."""
    action, target = trust.action_risk(command.action), trust.target_sensitivity(command.target)
    said = (
        ("action", features.action, action),
        ("target", features.target, target),
        ("loa", features.loa, trust.loa_feature(loa)),
    )
    return [
        f"trust.features.{name}: recorded {recorded}, declared {declared}"
        for name, recorded, declared in said
        if recorded != declared
    ]
