"""Who may call what, as a little table of its own: the gate's answers are held to it, on every face.

It knows the ladder, what a command declares (rung, whether it reads) and how a caller spoke. It asks neither gate nor policy, so a mistake
there shows here.
"""

from sigilcore.contracts import catalogue
from sigilcore.contracts.command import Action, Admission
from sigilcore.refusals import Code

LADDER = ("guest", "observer", "operator", "mentor", "root")

# How a caller speaks: without a key at all; with the token alone of a session that has one; by its session's key; by its session's key,
# which the owner's certificate lets do this very thing; by the owner's own key.
WAYS = ("bearer", "token", "session", "mandate", "owner")

PERMITTED = tuple(one for one in catalogue.COMMANDS.values() if one.admission is Admission.PERMIT)


def refusal(command, level, way, *, raised=None):
    """The first reason why not, or None; `raised` is a policy's rung for this command."""
    floor = LADDER.index(command.rung)
    need = floor if raised is None else max(floor, LADDER.index(raised))
    if LADDER.index(level) < need:
        return Code.LOA_TOO_LOW
    if way == "token" or (way == "bearer" and level in ("mentor", "root")):
        return Code.PROOF_MISSING
    if command.action is not Action.READ and need >= 3 and way not in ("mandate", "owner"):
        return Code.OWNER_PROOF_NEEDED
    return None
