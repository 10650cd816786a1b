"""What the embedded stack refuses. Every message names the thing a person would have to change."""

# ruff: noqa: N818 - a refusal's name is a sentence, not a noun with "Error" behind it


class EmbeddedError(Exception):
    """The embedded stack can't run as asked; the message is written for the person at the terminal."""


class DataInUse(EmbeddedError):
    """Another run holds this data folder."""


class PortTaken(EmbeddedError):
    """A port that was asked for by number is in use."""


class BinaryMissing(EmbeddedError):
    """nats-server or Postgres isn't installed where we look, or can't be reached by its user."""


class StartFailed(EmbeddedError):
    """A critical process died or stayed unready while the stack was starting."""
