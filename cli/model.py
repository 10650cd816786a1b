"""`sigil model` and `sigil trust`: the governed trust model, and where one stands under it."""

from pathlib import Path
from typing import Annotated

import typer

from cli import caller, owner, seam
from cli.refusal import Refusal
from cli.seam import PROMPT, Key, MaybeKey, Passphrase, State
from sigilcore import canonical, trust
from sigilcore.contracts import gatekeeper, quorum
from sigilcore.contracts.common import Empty


def current(state: State) -> None:
    """The model in force, by the log."""

    async def work() -> quorum.CurrentModel:
        async with caller.calling(state) as client:
            return await client.call(quorum.MODEL_CURRENT, Empty())

    seam.show(state, seam.wait(work()))


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


def refresh(state: State, key: MaybeKey = None, passphrase: Passphrase = PROMPT) -> None:
    """Have the gate read the model again from the log's head (Root)."""
    root = caller.maybe_signer(key, passphrase)

    async def work() -> gatekeeper.Reload:
        async with caller.calling(state, owner=root) as client:
            return await client.call(gatekeeper.MODEL_REFRESH, Empty())

    seam.show(state, seam.wait(work()))


def check(
    state: State,
    action: Annotated[str, typer.Argument(help="read, execute, write, elevation, delete or administer")],
    target: Annotated[str, typer.Argument(help="module, profile, memory, config, audit, canon or system")],
) -> None:
    """Where you stand for an action on a target."""

    async def work() -> gatekeeper.TrustAnswer:
        async with caller.calling(state) as client:
            return await client.call(gatekeeper.TRUST_CHECK, gatekeeper.TrustCheck(action=action, target=target))

    found = seam.wait(work())
    seam.show(state, found)


def status(state: State) -> None:
    """The model and policy in force, by the gate."""

    async def work() -> gatekeeper.TrustStatus:
        async with caller.calling(state) as client:
            return await client.call(gatekeeper.TRUST_STATUS, Empty())

    seam.show(state, seam.wait(work()))


def register(app: typer.Typer) -> None:
    """The nouns `model` and `trust`."""
    noun = seam.family(app, "model", "The trust model.")
    seam.verb(noun, "current")(current)
    seam.verb(noun, "upload")(upload)
    seam.verb(noun, "refresh")(refresh)
    standing = seam.family(app, "trust", "Where you stand.")
    seam.verb(standing, "check")(check)
    seam.verb(standing, "status")(status)
