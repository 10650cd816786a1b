"""`sigil model` and `sigil trust`: the governed trust model, and where one stands under it."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from cli import caller, governed, owner, seam
from cli.refusal import Refusal
from cli.seam import PROMPT, Key, MaybeKey, Passphrase, State
from sigilcore import canonical, governance, model_update, trust
from sigilcore.contracts import gatekeeper, quorum
from sigilcore.contracts.common import Empty
from sigilcore.records import system
from sigilrun import http


def current(state: State) -> None:
    """The model in force, by the log."""
    seam.show(state, caller.ask(state, quorum.MODEL_CURRENT, Empty()))


def upload(state: State, *, file: Path, key: Key, passphrase: Passphrase = PROMPT) -> None:
    """Propose a trust model from a JSON file (version, weights, bias, threshold; all in millionths)."""
    try:
        model = canonical.typed(canonical.parse(file.read_bytes()), trust.TrustModel)
    except canonical.NotCanonical as error:
        raise Refusal(f"{file}: {error}") from error
    root = caller.signer(key, passphrase)

    async def work() -> quorum.DraftOrProposal:
        async with caller.calling(state, owner=root) as client:
            return await owner.propose_model(client, root, model)

    done = seam.wait(work())
    seam.show(state, done, f"proposal {done.proposal_id} needs {done.need} voices, {done.hash}")


def suggest(
    state: State,
    *,
    file: Annotated[Path, typer.Argument(help="outcomes as JSON: a list of {decision, good}")],
    version: Annotated[str, typer.Option("--version", help="the new model's name")],
    rate: Annotated[int, typer.Option("--rate", help="millionths of a whole step")] = trust.ONE,
    key: MaybeKey = None,
    passphrase: Passphrase = PROMPT,
) -> None:
    """Compute the next model from outcomes and say why; with Root's key, propose it."""
    root = caller.maybe_signer(key, passphrase)
    try:
        outcomes = msgspec.convert(canonical.parse(file.read_bytes()), tuple[model_update.Outcome, ...], strict=True)
    except (canonical.NotCanonical, msgspec.ValidationError) as error:
        raise Refusal(f"{file}: {error}") from error

    async def work() -> tuple[Suggested, quorum.DraftOrProposal | None]:
        async with caller.calling(state, owner=root) as client:
            found = await governed.state(client)
            assert found.model is not None, "genesis brings the first model"
            because = _typed({"version": found.model.version, "rate": rate, "outcomes": outcomes}, str(file))
            suggested = await computed(client, found, because, version)
            if root is None:
                return suggested, None
            return suggested, await owner.propose_model(client, root, suggested.model, because)

    suggested, done = seam.wait(work())
    lines = [*suggested.lines, f"proposal {done.proposal_id} needs {done.need} voices"] if done else suggested.lines
    seam.show(state, {"suggested": suggested, "proposal": done}, "\n".join(lines))


def explain_proposal(state: State, proposal_id: str) -> None:
    """Compute a proposed model again from the outcomes that it names, and say why each weight moves."""

    async def work() -> Suggested:
        async with caller.calling(state) as client:
            return await computed_again(client, proposal_id)

    suggested = seam.wait(work())
    seam.show(state, suggested, "\n".join([*suggested.lines, "the proposed model follows from these outcomes"]))


class Suggested(msgspec.Struct, frozen=True, kw_only=True):
    """A model computed here, and why."""

    model: trust.TrustModel
    lines: list[str]


async def computed_again(client: http.Client, proposal_id: str) -> Suggested:
    """The model that a proposal's outcomes give; raises `Unverified` if it proposes another."""
    found = await governed.state(client)
    changes = system.changes_in((await owner.read_proposal(client, proposal_id)).checked.payload)
    payload = next((change.payload for change in changes if isinstance(change.payload, system.ModelConfig)), None)
    if payload is None or payload.because is None:
        raise Refusal(f"proposal {proposal_id} names no outcomes")
    suggested = await computed(client, found, payload.because, payload.model.version)
    if suggested.model != payload.model:
        raise governed.Unverified("the proposed model doesn't follow from the outcomes that it names")
    return suggested


async def computed(
    client: http.Client, found: governance.Governance, because: model_update.Because, version: str
) -> Suggested:
    """The model that follows from the one in force and these outcomes, by decisions that are proven to stand in the log."""
    assert found.model is not None, "genesis brings the first model"
    judged = await governed.decisions(client, found, [outcome.decision for outcome in because.outcomes])
    try:
        model = model_update.proposed(found.model, because, judged, version)
    except model_update.NotComputable as error:
        raise Refusal(str(error)) from error
    return Suggested(model=model, lines=model_update.explained(found.model, model, because, judged))


def _typed(plain: dict[str, object], where: str) -> model_update.Because:
    try:
        return msgspec.convert(msgspec.to_builtins(plain), model_update.Because, strict=True)
    except msgspec.ValidationError as error:
        raise Refusal(f"{where}: {error}") from error


def refresh(state: State, key: MaybeKey = None, passphrase: Passphrase = PROMPT) -> None:
    """Have the gate read the model again from the log's head (Root)."""
    root = caller.maybe_signer(key, passphrase)

    seam.show(state, caller.ask(state, gatekeeper.MODEL_REFRESH, Empty(), owner=root))


def check(
    state: State,
    action: Annotated[str, typer.Argument(help="read, execute, write, elevation, delete or administer")],
    target: Annotated[str, typer.Argument(help="module, profile, memory, config, audit, canon or system")],
) -> None:
    """Where you stand for an action on a target."""
    found = caller.ask(state, gatekeeper.TRUST_CHECK, gatekeeper.TrustCheck(action=action, target=target))
    seam.show(state, found)


def explain(
    state: State,
    command: Annotated[str, typer.Argument(help="a command that you may call, such as memory/write")],
    candidate: Annotated[
        list[str] | None, typer.Option("--candidate", help="whom it would propose as witness; repeat it")
    ] = None,
) -> None:
    """What each feature brings to your score for a command."""

    async def work() -> gatekeeper.Explanation:
        async with caller.calling(state) as client:
            asked = gatekeeper.Explain(command=command, candidates=tuple(candidate or ()))
            return await client.call(gatekeeper.TRUST_EXPLAIN, asked)

    found = seam.wait(work())
    parts = [f"{one.feature:<9} {one.value:>8} x {one.weight:>11} = {one.product:>18}" for one in found.parts]
    verdict = "allowed" if found.allowed else "denied"
    sums = [
        f"{'bias':<9} {'':>8}   {found.bias:>11} = {found.bias * trust.ONE:>18}",
        f"logit {found.logit} (10^-12), threshold {found.threshold} (10^-6), score {found.score}: {verdict}",
    ]
    if found.standing_of:
        sums.append(f"standing: the lowest of {', '.join(found.standing_of)}")
    seam.show(state, found, "\n".join(parts + sums))


def status(state: State) -> None:
    """The model and policy in force, by the gate."""
    seam.show(state, caller.ask(state, gatekeeper.TRUST_STATUS, Empty()))


def register(app: typer.Typer) -> None:
    """The nouns `model` and `trust`."""
    noun = seam.family(app, "model", "The trust model.")
    seam.verb(noun, "current")(current)
    seam.verb(noun, "upload")(upload)
    seam.verb(noun, "suggest")(suggest)
    seam.verb(noun, "explain")(explain_proposal)
    seam.verb(noun, "refresh")(refresh)
    standing = seam.family(app, "trust", "Where you stand.")
    seam.verb(standing, "check")(check)
    seam.verb(standing, "explain")(explain)
    seam.verb(standing, "status")(status)
