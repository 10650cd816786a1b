"""What this side of the gateway refuses by itself."""


class Refusal(Exception):  # noqa: N818 - our own side says no
    """What the server showed isn't what was asked, or something on this machine stands in the way. Nothing was signed or sent."""

    code = "REFUSED"
    exit_code = 1

    def __init__(self, message: str, next_step: str = "", *, field: str | None = None) -> None:
        """Written for the person at the terminal; `field` names the place in a file of theirs."""
        super().__init__(message)
        self.next_step = next_step
        self.field = field


class NoHouse(Refusal):
    """Nobody is known to ask."""

    code = "NO_HOUSE"
    exit_code = 3
