"""A capability grant by itself: the order of its checks, what it confers, and how its mark moves."""

import base64
import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigilcore import canonical, envelope, grant, signing
from sigilcore.grant import UNAVAILABLE, CapabilityGrant, Mark, Outcome

OWNER = signing.Ed25519Signer(bytes(range(32)))
PEER = signing.Ed25519Signer(bytes(range(1, 33)))
THIEF = signing.Ed25519Signer(bytes(range(2, 34)))
NOW_MS = 1_790_000_000_000


def made(**changes) -> CapabilityGrant:
    fields = {
        "grantee": "library",
        "grantee_key": PEER.public_key.hex(),
        "capabilities": ("memory/write", "ai/generate"),
        "granted_in": "town",
        "issued_at_ms": NOW_MS,
        "expires_at_ms": NOW_MS + 1000,
        "epoch": 5,
        "issuer": OWNER.public_key.hex(),
    }
    return CapabilityGrant(**(fields | changes))


def hash_of(token: str) -> str:
    return grant.read(token).grant_hash


def asked(token: str, **changes) -> grant.Evaluation:
    fields = {
        "issuer_key": OWNER.public_key.hex(),
        "presenting_key": PEER.public_key.hex(),
        "mesh": "town",
        "now_ms": NOW_MS,
        "mark": None,
        "command": "memory/write",
    }
    return grant.evaluate(token, **(fields | changes))


GOOD = grant.sign(OWNER, made())


def test_a_good_grant_confers_and_moves_the_mark():
    """The first sight of a grant authorises its command, and its mark must be kept."""
    assert asked(GOOD) == grant.Evaluation(outcome=Outcome.AUTHORIZED, moves=True)


def test_a_grant_at_its_own_mark_moves_nothing():
    """Shown again, the same grant stands where it stood."""
    mark = Mark(epoch=5, grant_hash=hash_of(GOOD))
    assert asked(GOOD, mark=mark) == grant.Evaluation(outcome=Outcome.AUTHORIZED, moves=False)


# Each defect by itself, in the order of the checks. A grant with several has the first as its outcome.
DEFECTS = (
    (Outcome.UNTRUSTED_ISSUER, "issuer"),
    (Outcome.ENCODING_FAILED, "encoding"),
    (Outcome.BAD_SIGNATURE, "signature"),
    (Outcome.KEY_MISMATCH, "key"),
    (Outcome.WRONG_MESH, "mesh"),
    (Outcome.EXPIRED, "expiry"),
    (Outcome.SUPERSEDED, "epoch"),
    (Outcome.NOT_GRANTED, "capability"),
)


def spoilt(defects: set[str]) -> grant.Evaluation:
    """A grant with these defects, and a call with these defects, evaluated."""
    said = msgspec.to_builtins(made())
    context = {}
    if "issuer" in defects:
        said["issuer"] = THIEF.public_key.hex()
    if "encoding" in defects:
        said["epoch"] = -1
    if "key" in defects:
        context["presenting_key"] = THIEF.public_key.hex()
    if "mesh" in defects:
        context["mesh"] = "city"
    if "expiry" in defects:
        context["now_ms"] = NOW_MS + 1000
    if "epoch" in defects:
        context["mark"] = Mark(epoch=6, grant_hash=None)
    if "capability" in defects:
        context["command"] = "memory/erase"
    body = canonical.encode(said)
    signer = THIEF if "signature" in defects else OWNER
    signature = signing.sign_typed(signer, signing.GRANT, body)
    return asked(f"{envelope._url(body)}.{envelope._url(signature)}", **context)


@pytest.mark.parametrize("count", range(1, len(DEFECTS) + 1))
def test_the_first_true_reason_is_always_the_same(count):
    """Whatever else is wrong with it, the outcome is that of the first check that fails."""
    for chosen in itertools.combinations(DEFECTS, count):
        (first, _), *_ = chosen
        assert spoilt({name for _, name in chosen}).outcome is first, chosen


def test_nothing_pinned_trusts_nobody():
    """Where no issuer is pinned, not even an unreadable token gets further than the first check."""
    for token in (GOOD, "", "x.y", "\ud800"):
        assert asked(token, issuer_key=None).outcome is Outcome.UNTRUSTED_ISSUER


def test_a_mark_that_cannot_be_read_denies_whatever_the_grant_says():
    """After the expiry and before the capability: no mark, no word."""
    assert asked(GOOD, mark=UNAVAILABLE) == grant.Evaluation(outcome=Outcome.WATERMARK_UNAVAILABLE)
    assert asked(GOOD, mark=UNAVAILABLE, command="x").outcome is Outcome.WATERMARK_UNAVAILABLE
    assert asked(GOOD, mark=UNAVAILABLE, now_ms=NOW_MS + 1000).outcome is Outcome.EXPIRED


def test_it_expires_at_its_very_millisecond():
    """The last good moment is the one before; a grant without end has none."""
    assert asked(GOOD, now_ms=NOW_MS + 999).outcome is Outcome.AUTHORIZED
    assert asked(GOOD, now_ms=NOW_MS + 1000).outcome is Outcome.EXPIRED
    endless = grant.sign(OWNER, made(expires_at_ms=None))
    assert asked(endless, now_ms=canonical.MAX_INT).outcome is Outcome.AUTHORIZED


def test_a_higher_epoch_without_capabilities_revokes():
    """It confers nothing and moves the mark; then what came before it is superseded."""
    empty = grant.sign(OWNER, made(epoch=6, capabilities=()))
    mark = Mark(epoch=5, grant_hash=hash_of(GOOD))
    assert asked(empty, mark=mark) == grant.Evaluation(outcome=Outcome.NOT_GRANTED, moves=True)
    assert asked(GOOD, mark=Mark(epoch=6, grant_hash=hash_of(empty))).outcome is Outcome.SUPERSEDED


def test_one_epoch_is_one_grant():
    """A second grant of the mark's own epoch is superseded, and so is any grant of the epoch that a revocation took."""
    twin = grant.sign(OWNER, made(capabilities=("memory/write", "canon/user/write")))
    mark = Mark(epoch=5, grant_hash=hash_of(GOOD))
    assert asked(twin, mark=mark).outcome is Outcome.SUPERSEDED
    assert asked(GOOD, mark=Mark(epoch=5, grant_hash=None)).outcome is Outcome.SUPERSEDED


@pytest.mark.parametrize(
    ("capability", "command", "conferred"),
    [
        ("ai/generate", "ai/generate", True),
        ("ai/generate", "ai/generate/stream", True),
        ("ai/generate", "ai/generatex", False),
        ("ai/generate", "ai", False),
        ("ai/generate", "ai/gen", False),
        ("ai/generate", "xai/generate", False),
        ("ai/generate/stream", "ai/generate", False),
        ("ping", "ping", True),
        ("ping", "pingx", False),
    ],
)
def test_what_a_capability_confers(capability, command, conferred):
    """The command of its name and what lies under it, whole words only."""
    assert grant.confers((capability,), command) is conferred


@pytest.mark.parametrize("pattern", ["*", "memory/*", "", "/", "Memory/write", "a" * 65, "module/run:mine", "ping\n"])
def test_a_pattern_is_no_capability(pattern):
    """Nothing that a scope would read as a pattern can be granted."""
    token = envelope.seal(OWNER, signing.GRANT, made(capabilities=(pattern,)))
    assert asked(token).outcome is Outcome.ENCODING_FAILED


def test_another_spelling_of_the_same_token_is_no_token():
    """Padding, another alphabet, white space, a second dot, or a body that isn't canonical: one grant, one spelling."""
    body, _, signature = GOOD.partition(".")
    loose = envelope._url(b" " + base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    for token in (GOOD + "=", f" {GOOD}", GOOD + ".", f"{body}=.{signature}", f"{loose}.{signature}", body, "."):
        assert asked(token).outcome is Outcome.ENCODING_FAILED


def test_a_signature_of_another_kind_is_no_grant():
    """What the owner signed as another kind of document is never read as a grant."""
    body = canonical.of(made())
    for kind in (signing.RECORD, signing.PERMIT, signing.MEMBERSHIP, signing.PEER_SESSION, signing.LICENSE):
        signature = signing.sign_typed(OWNER, kind, body)
        token = f"{envelope._url(body)}.{envelope._url(signature)}"
        assert asked(token).outcome is Outcome.BAD_SIGNATURE


def test_a_grant_is_signed_by_the_issuer_that_it_names():
    """Whoever signs as another is told so at once."""
    with pytest.raises(ValueError, match="issuer"):
        grant.sign(THIEF, made())


def test_a_grant_fits_into_a_header():
    """One that no header could carry isn't made, and isn't read."""
    with pytest.raises(ValueError, match="6144"):
        grant.sign(OWNER, made(capabilities=tuple(f"memory/{number:057}" for number in range(64))))
    with pytest.raises(envelope.BadToken):
        grant.read("a" * (grant.MAX_TOKEN + 1))


@given(st.text(max_size=200))
def test_no_text_is_a_grant_by_accident(text):
    """Whatever is shown, evaluation answers and authorises nothing."""
    assert asked(text).outcome in {Outcome.ENCODING_FAILED, Outcome.UNTRUSTED_ISSUER}


@given(st.data())
def test_a_changed_character_is_never_authorised(data):
    """Any other character at any place of a good token makes it worthless."""
    place = data.draw(st.integers(0, len(GOOD) - 1))
    letter = data.draw(st.characters(codec="ascii").filter(lambda char: char != GOOD[place]))
    assert asked(GOOD[:place] + letter + GOOD[place + 1 :]).outcome is not Outcome.AUTHORIZED


class Shown:
    """A gate that keeps the mark, as the real one does."""

    def __init__(self) -> None:
        self.mark: Mark | None = None

    def show(self, token: str, command: str) -> Outcome:
        found = asked(token, mark=self.mark, command=command)
        if found.moves:
            self.mark = Mark(epoch=grant.read(token).grant.epoch, grant_hash=hash_of(token))
        return found.outcome


@given(
    st.lists(
        st.tuples(st.integers(0, 6), st.sampled_from(["memory/write", "ping", ""]), st.sampled_from(["ping", "x"]))
    )
)
def test_the_mark_only_rises_and_the_past_stays_superseded(shows):
    """Whatever is shown in whatever order: the mark is the highest epoch ever shown, and what authorises is the grant that set it."""
    gate, highest, first = Shown(), -1, {}
    for epoch, capability, command in shows:
        token = grant.sign(OWNER, made(epoch=epoch, capabilities=(capability,) if capability else ()))
        outcome = gate.show(token, command)
        if epoch > highest:
            highest, first[epoch] = epoch, hash_of(token)
        assert gate.mark == Mark(epoch=highest, grant_hash=first[highest])
        current = (epoch, hash_of(token)) == (highest, first[highest])
        expected = Outcome.AUTHORIZED if capability == command else Outcome.NOT_GRANTED
        assert outcome is (expected if current else Outcome.SUPERSEDED)
