"""Cosigners in the quorum policy: which may be named, what counts as witnessed, and what a bundle shows of it offline."""

import msgspec
import pytest

from sigilcore import checkpoint, note, record, replay, signing, tlog_policy, tlog_proof, verify, witnessed
from sigilcore.records import system
from sigilcore.refusals import Code, Refused
from tests import oracle
from tests.simulator import House

SIGNERS = [signing.Ed25519Signer(bytes([n + 1]) * 32) for n in range(4)]
KEYS = [note.VerifierKey.of(f"w{n}.example", note.COSIGNATURE, one.public_key) for n, one in enumerate(SIGNERS)]
TWIN = note.VerifierKey.of(KEYS[0].name, note.COSIGNATURE, SIGNERS[1].public_key)
ALIAS = f"{TWIN.name}#{TWIN.key_id:08x}"
NOW_S = 1_800_000_000


def named(*keys, url="https://w.example/"):
    return tuple(system.Cosigner(vkey=key if isinstance(key, str) else key.format(), url=url) for key in keys)


def cosigned(house, data, *who):
    """The note with these cosignatures."""
    text = note.parse(data).text
    lines = "".join(checkpoint.cosign(text, KEYS[n].name, SIGNERS[n], NOW_S) for n in who)
    return data + lines.encode()


@pytest.fixture
def house():
    """Three mentors, not sealed; re-verified at the end."""
    built = House()
    built.voices = built.mentors(3)
    yield built
    oracle.check(built.placed(), built.checkpoint(), built.state.genesis_hash)


def seal(house, c, *cosigners):
    policy = house.quorum_policy(2, checkpoint_witnesses=system.CheckpointWitnesses(c=c, cosigners=cosigners))
    return house.place(house.attested(house.proposal("quorum_policy", policy), *house.voices))


def own(house):
    return note.VerifierKey.parse(house.state.log_key)


BAD = {
    "c above m": (Code.THRESHOLD_INVALID, 2, lambda _: named(KEYS[0])),
    "c of nobody": (Code.THRESHOLD_INVALID, 1, lambda _: ()),
    "one key twice": (Code.THRESHOLD_INVALID, 1, lambda _: named(KEYS[0], KEYS[0])),
    "one public key under two names": (
        Code.THRESHOLD_INVALID,
        2,
        lambda _: named(KEYS[0], note.VerifierKey.of("alias.example", note.COSIGNATURE, SIGNERS[0].public_key)),
    ),
    "no verifier key": (Code.RECORD_INVALID, 1, lambda _: named("nonsense")),
    "another key's id": (Code.RECORD_INVALID, 1, lambda _: named(KEYS[0].format().replace("w0.", "w9."))),
    "a log's kind of key": (
        Code.RECORD_INVALID,
        1,
        lambda _: named(note.VerifierKey.of("w.example", note.ED25519, SIGNERS[0].public_key)),
    ),
    "a key of small order": (
        Code.WEAK_KEY,
        1,
        lambda _: named(note.VerifierKey.of("w.example", note.COSIGNATURE, bytes([1]) + bytes(31))),
    ),
    "the log itself": (
        Code.THRESHOLD_INVALID,
        1,
        lambda house: named(note.VerifierKey.of("w.example", note.COSIGNATURE, house.writer.public_key)),
    ),
    "a mentor's voice": (
        Code.THRESHOLD_INVALID,
        1,
        lambda house: named(note.VerifierKey.of("w.example", note.COSIGNATURE, house.voices[0].signer.public_key)),
    ),
    "a comment's name": (
        Code.RECORD_INVALID,
        1,
        lambda _: named(note.VerifierKey.of("#w.example", note.COSIGNATURE, SIGNERS[0].public_key)),
    ),
    "a name with an octet that no policy holds": (
        Code.RECORD_INVALID,
        1,
        lambda _: named(note.VerifierKey.of("w\x7f.example", note.COSIGNATURE, SIGNERS[0].public_key)),
    ),
    "a name that stands for another of two namesakes": (
        Code.RECORD_INVALID,
        1,
        lambda _: named(KEYS[0], TWIN, note.VerifierKey.of(ALIAS, note.COSIGNATURE, SIGNERS[2].public_key)),
    ),
    "Root": (
        Code.THRESHOLD_INVALID,
        1,
        lambda house: named(note.VerifierKey.of("w.example", note.COSIGNATURE, house.root.signer.public_key)),
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_who_can_be_no_cosigner(house, name):
    """Each bad policy is refused by the writer's own function, whoever attested it."""
    code, c, cosigners = BAD[name]
    with pytest.raises(Refused) as caught:
        seal(house, c, *cosigners(house))
    assert caught.value.code is code


@pytest.mark.parametrize(
    "url",
    ["ftp://w.example/", "https://", "https://w.example/?a=b", "https://w.example/#a", "https://w.example/ b", "w"],
)
def test_where_a_cosigner_can_not_be_asked(url):
    """A URL is http or https, without query, fragment or space."""
    plain = {"vkey": KEYS[0].format(), "url": url}
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(plain, system.Cosigner)


def test_what_counts_as_witnessed(house):
    """c of m by the policy of the log: too few, enough, another log's, a bad line, and nothing where nothing is asked for."""
    assert witnessed.standing(house.state.quorum, 0, 5) == "not required"
    seal(house, 2, *named(KEYS[0], KEYS[1], KEYS[2]))
    quorum, data = house.state.quorum, house.checkpoint()
    assert witnessed.opened(data, quorum, own(house)) is None
    assert witnessed.opened(cosigned(house, data, 0), quorum, own(house)) is None
    assert witnessed.opened(cosigned(house, data, 0, 3), quorum, own(house)) is None
    size = len(house.log)
    assert witnessed.opened(cosigned(house, data, 0, 2), quorum, own(house)).size == size
    other = checkpoint.sign(checkpoint.Checkpoint(house.origin, size, bytes(32)), SIGNERS[3])
    with pytest.raises(note.SignatureError):
        witnessed.opened(cosigned(house, other, 0, 1), quorum, own(house))
    assert [witnessed.standing(quorum, size, seq) for seq in (0, size - 1, size)] == [
        "witnessed",
        "witnessed",
        "not yet",
    ]


def test_the_policy_for_anybody_says_the_same(house):
    """Exported, written and read by the rules of C2SP, it judges as the house does."""
    seal(house, 2, *named(KEYS[0], KEYS[1], KEYS[2]))
    policy = tlog_policy.parse(tlog_policy.format(witnessed.policy(house.state.quorum, own(house))))
    for who in ((), (0,), (0, 1), (1, 2), (0, 1, 2)):
        data = cosigned(house, house.checkpoint(), *who)
        ours = witnessed.opened(data, house.state.quorum, own(house)) is not None
        assert tlog_policy.judge(policy, data).satisfied is ours is (len(who) >= 2)


def with_lines(house, record_id, *who):
    bundle = house.bundle(record_id)
    proof = tlog_proof.parse(bundle.proof.encode())
    made = tlog_proof.format(proof.index, proof.path, cosigned(house, proof.checkpoint, *who))
    return msgspec.structs.replace(bundle, proof=made.decode())


def test_a_bundle_shows_who_cosigned(house):
    """A system record is verified as committed, not yet witnessed; a policy makes it a step of its own that can fail."""
    sealed = seal(house, 2, *named(KEYS[0], KEYS[1]))
    policy = witnessed.policy(house.state.quorum, own(house))
    short, enough = with_lines(house, sealed.core.id, 0), with_lines(house, sealed.core.id, 0, 1)
    results = verify.verify(short, house.state.genesis_hash)
    assert verify.verified(results)
    assert len(results) == 6
    assert results[4].detail.endswith("committed, not yet witnessed")
    results = verify.verify(short, house.state.genesis_hash, policy)
    assert [step.ok for step in results] == [True] * 6 + [False]
    assert "w0.example" in results[6].detail
    results = verify.verify(enough, house.state.genesis_hash, policy)
    assert verify.verified(results)
    assert results[4].detail.endswith("; witnessed")


def test_cosigners_that_can_be_no_policy(house):
    """A founder of its own house seals it by more cosigners than there are: whoever checks what it shows hears a reason, and no fault."""
    impossible = house.quorum_policy(2, checkpoint_witnesses=system.CheckpointWitnesses(c=5, cosigners=()))
    with pytest.raises(note.NoteError, match="cosigners"):
        witnessed.opened(house.checkpoint(), impossible, own(house))
    bad = House()
    voices = bad.mentors(3)
    sealed = bad.attested(bad.proposal("quorum_policy", impossible), *voices)
    bad.log.append(sealed)
    results = verify.verify(bad.bundle(record.check(sealed).core.id))
    assert (results[4].ok, "cosigners" in results[4].detail) == (False, True)
    with pytest.raises(replay.Diverged):
        replay.replay(bad.placed(), bad.checkpoint())


def test_a_policy_of_another_log_is_not_satisfied(house):
    """Its cosigners may be the same; the log that it names isn't this one."""
    sealed = seal(house, 1, *named(KEYS[0]))
    other = note.VerifierKey.of("other.example", note.ED25519, SIGNERS[3].public_key)
    policy = witnessed.policy(house.state.quorum, other)
    results = verify.verify(with_lines(house, sealed.core.id, 0), house.state.genesis_hash, policy)
    assert results[6].ok is False
    assert "knows no log" in results[6].detail


def test_a_cosigner_of_before_counts_no_more(house):
    """Whoever the policy in force doesn't name has no voice, however early it signed."""
    seal(house, 1, *named(KEYS[0]))
    data = cosigned(house, house.checkpoint(), 0)
    assert witnessed.opened(data, house.state.quorum, own(house)) is not None
    seal(house, 1, *named(KEYS[1]))
    assert witnessed.opened(data, house.state.quorum, own(house)) is None
