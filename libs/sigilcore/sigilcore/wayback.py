"""The way back: by no model and no policy may the quorum lock itself out of changing them again.

Every change comes through the gate, by Root's calls of `WAY`. A law under which even a Root of the best standing, at its first call of the
minute, can't make one of them is a law for ever; so it is refused where it would be made. What a review takes out of the score's hands
must find a mentor who can approve it.

Example: a policy with {"thresholds": {"quorum/commit": 1_000_000_000}} closes `quorum/commit`, and is no policy.
"""

from typing import Any, Final

from sigilcore import standing, trust
from sigilcore.access import Loa
from sigilcore.contracts import gatekeeper, quorum
from sigilcore.contracts.command import Command
from sigilcore.policy import AccessPolicy

WAY: Final = (quorum.DRAFT, quorum.PROPOSE, quorum.COMMIT)


def closed(model: trust.TrustModel, law: AccessPolicy) -> str | None:
    """The first command of the way, or the approval that it waits for, which nobody can make pass; None if the way is open."""
    for command in WAY:
        short = _short(model, law, command, Loa.ROOT)
        review = law.review(command.name)
        if review is None or review.band is None:
            if short > 0:
                return command.name
            reviewed = review is not None
        else:
            if short > review.band * trust.ONE:
                return command.name
            reviewed = short > 0
        if reviewed and not _approved(model, law):
            return gatekeeper.APPROVE.name
    return None


def _approved(model: trust.TrustModel, law: AccessPolicy) -> bool:
    """Whether a mentor, who isn't the Root that calls, can approve anything."""
    command = gatekeeper.APPROVE
    return Loa.MENTOR.includes(law.rung(command.name, command.rung)) and _short(model, law, command, Loa.MENTOR) <= 0


def _short(model: trust.TrustModel, law: AccessPolicy, command: Command[Any, Any], loa: Loa) -> int:
    """By how much the best call of this level misses the threshold, in 10**-12 of a logit; not above 0 if it doesn't."""
    best = trust.features(
        action=command.action,
        target=command.target,
        rung=loa,
        calls=1,
        rate_limit=law.rate_limit,
        entropy=0,
        standing=standing.CEILING,
    )
    return law.threshold(command.name, model.threshold) * trust.ONE - trust.logit(model, best)
