"""`sigil seal`: how a person names cosigners, and what is refused before anything is asked."""

import pytest

from cli import proposal
from cli.refusal import Refusal
from sigilcore import note, signing
from sigilcore.records import system

KEY = note.VerifierKey.of("w.example/a", note.COSIGNATURE, signing.Ed25519Signer(bytes([1]) * 32).public_key).format()
LOG = note.VerifierKey.of("w.example/a", note.ED25519, signing.Ed25519Signer(bytes([1]) * 32).public_key).format()


@pytest.mark.parametrize("url", ["https://w.example", "http://127.0.0.1:8001/prefix=1/"])
def test_a_cosigner_with_its_url(url):
    """The verifier key, an equals sign, where it is asked; the URL may hold equals signs of its own."""
    assert proposal._cosigner(f"{KEY}={url}") == system.Cosigner(vkey=KEY, url=url)


def test_a_cosigner_that_somebody_else_asks():
    """The verifier key alone."""
    assert proposal._cosigner(KEY) == system.Cosigner(vkey=KEY, url=None)


@pytest.mark.parametrize(
    "text",
    ["", "nonsense", LOG, f"{LOG}=https://w.example", f"{KEY}=ftp://w.example", f"{KEY}=http", f"{KEY}=https://a?b"],
)
def test_what_names_no_cosigner(text):
    """A word, a log's key, another scheme, no host, a query: refused here."""
    with pytest.raises(Refusal):
        proposal._cosigner(text)
