"""`sigil approval`: calls that wait for a mentor's word.

What is approved is read on this side: the decision that asked for the review is taken from the log with its proof, verified against the
genesis that the approver's licence names, and its digest compared with SHA-256 of the salt and the very parameters that are shown. So
nobody can show one call and have another approved; nor, by bytes that a terminal obeys, show none of it.
"""

import sys
from typing import Annotated

import typer

from cli import caller, governed, seam
from cli.governed import Unverified
from cli.refusal import Refusal
from cli.seam import PROMPT, MaybeKey, Passphrase, State
from sigilcore import decision, digest, signing
from sigilcore.contracts import gatekeeper
from sigilcore.contracts.command import Command
from sigilrun import http

Yes = Annotated[bool, typer.Option("--yes", help="don't ask, even on a terminal")]
Answer = Command[gatekeeper.DecideReview, gatekeeper.ReviewDecided]


def show_list(state: State) -> None:
    """Calls that wait for a mentor: your own; everybody's, if you are one."""

    async def work() -> gatekeeper.ReviewList:
        async with caller.calling(state) as client:
            return await client.call(gatekeeper.APPROVAL_LIST, gatekeeper.ListReviews())

    listed = seam.wait(work())
    seam.show(state, listed, seam.table(listed.items, "review", "owner", "command", "until", "parameters"))


def approve(
    state: State, *, review: str, key: MaybeKey = None, passphrase: Passphrase = PROMPT, yes: Yes = False
) -> None:
    """Show a call, verified here, then approve exactly its parameters."""
    _decide(state, gatekeeper.APPROVE, "Approve", review, caller.maybe_signer(key, passphrase), yes=yes)


def refuse(
    state: State, *, review: str, key: MaybeKey = None, passphrase: Passphrase = PROMPT, yes: Yes = False
) -> None:
    """Show a call, then refuse it."""
    _decide(state, gatekeeper.REFUSE, "Refuse", review, caller.maybe_signer(key, passphrase), yes=yes)


def _decide(state: State, command: Answer, word: str, review: str, owner: signing.Signer | None, *, yes: bool) -> None:
    async def work() -> gatekeeper.ReviewDecided:
        async with caller.calling(state, owner=owner) as client:
            view = await read(client, review)
            seam.note(text(view))
            if not yes and sys.stdin.isatty():
                typer.confirm(f"{word} this call of {view.owner}?", abort=True, err=True)
            return await client.call(command, gatekeeper.DecideReview(review=review, digest=view.digest))

    done = seam.wait(work())
    seam.show(state, done, f"{done.verdict}: {done.command} of {done.owner}, until {done.until}")


async def read(client: http.Client, review: str) -> gatekeeper.ReviewView:
    """A call that waits, held to the decision in the log. Raises `Unverified` if what is shown isn't what was recorded."""
    listed = await client.call(gatekeeper.APPROVAL_LIST, gatekeeper.ListReviews())
    view = next((one for one in listed.items if one.review == review), None)
    if view is None:
        raise Refusal("no call waits under this name", "List them with sigil approval list.")
    check(view, await _recorded(client, review))
    return view


async def _recorded(client: http.Client, review: str) -> decision.ReasoningChain:
    """The decision that asked for the review, from a record that is proven here."""
    assert client.session is not None, "log in first"
    ref = decision.parse_ref(review)
    if ref is None:
        raise Refusal(f"{review} is no review", "List them with sigil approval list.")
    decisions = await governed.decisions_at(client, client.session.genesis_hash, ref.record)
    if ref.index >= len(decisions):
        raise Unverified("the record holds no such decision")
    return decisions[ref.index].chain


def check(view: gatekeeper.ReviewView, chain: decision.ReasoningChain) -> None:
    """What is shown is what was recorded, and what will be executed. Raises `Unverified`."""
    if chain.verdict is not decision.Verdict.MANUAL_REVIEW:
        raise Unverified("the decision in the log asks for no review")
    if (view.owner, view.command) != (chain.audit.owner, chain.command):
        raise Unverified("the decision in the log is on another caller's call, or another command")
    if digest.parameter_digest(bytes.fromhex(view.salt), view.parameters.encode()) != chain.digest:
        raise Unverified("the parameters shown are not those in the log's decision")
    if view.digest != chain.digest:
        raise Unverified("the digest shown is not the one in the log's decision")


def text(view: gatekeeper.ReviewView) -> str:
    """A call as a person reads it."""
    return "\n".join(
        (
            f"{view.owner} asks for {view.command}, until {seam.line(view.until)}",
            f"its parameters, verified here against decision {view.review}:",
            f"  {seam.line(view.parameters)}",
        )
    )


def register(app: typer.Typer) -> None:
    """The noun `approval`."""
    noun = seam.family(app, "approval", "Calls that wait for a mentor's word.")
    seam.verb(noun, "list")(show_list)
    seam.verb(noun, "approve")(approve)
    seam.verb(noun, "refuse")(refuse)
