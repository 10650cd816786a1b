"""The notary: the one road from the house to the log's cosigners."""

from typing import Annotated

import msgspec

from sigilcore.contracts.command import Action, Admission, Command, Target
from sigilcore.contracts.common import Message

SERVICE = "notary"
MAX_COSIGNERS = 64

Url = Annotated[str, msgspec.Meta(min_length=1, max_length=2048)]


class Remember(Message, frozen=True, kw_only=True):
    """Which log, and where to ask."""

    origin: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    urls: Annotated[tuple[Url, ...], msgspec.Meta(min_length=1, max_length=MAX_COSIGNERS)]


class Remembered(Message, frozen=True, kw_only=True):
    """What was shown, as it was shown: whoever asked judges it. `silent` gave no answer."""

    notes: tuple[str, ...]
    silent: tuple[str, ...]


REMEMBER = Command(
    name="log/remembered",
    service=SERVICE,
    request=Remember,
    reply=Remembered,
    summary="Ask cosigners for the newest checkpoint of a log that they cosigned.",
    action=Action.READ,
    target=Target.CANON,
    admission=Admission.BUS,
)

COMMANDS = (REMEMBER,)
