"""`sigil policy`: the access policy in force, and the proposal of another."""

from pathlib import Path

import typer

from cli import caller, owner, seam
from cli.refusal import Refusal
from cli.seam import PROMPT, Key, Passphrase, State
from sigilcore import canonical, policy
from sigilcore.contracts import quorum
from sigilcore.contracts.common import Empty


def current(state: State) -> None:
    """The access policy in force, by the log."""
    seam.show(state, caller.ask(state, quorum.POLICY_CURRENT, Empty()))


def upload(state: State, *, file: Path, key: Key, passphrase: Passphrase = PROMPT) -> None:
    """Propose an access policy from a JSON file: all of it, since it takes the place of the one in force (Root)."""
    try:
        wanted = canonical.typed(canonical.parse(file.read_bytes()), policy.AccessPolicy)
    except canonical.NotCanonical as error:
        raise Refusal(f"{file}: {error}") from error
    root = caller.signer(key, passphrase)

    async def work() -> quorum.DraftOrProposal:
        async with caller.calling(state, owner=root) as client:
            return await owner.propose_policy(client, root, wanted)

    done = seam.wait(work())
    seam.show(state, done, f"proposal {done.proposal_id} needs {done.need} voices, {done.hash}")


def register(app: typer.Typer) -> None:
    """The noun `policy`."""
    noun = seam.family(app, "policy", "The access policy.")
    seam.verb(noun, "current")(current)
    seam.verb(noun, "upload")(upload)
