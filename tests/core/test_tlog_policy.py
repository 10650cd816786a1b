"""Policies: the file read strictly and written back, the quorum evaluated, and no way to be counted twice."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sigilcore import checkpoint, merkle, note, signing, tlog_policy
from sigilcore.tlog_policy import Group, Log, Policy, PolicyError, Witness

VECTORS = Path(__file__).parent.parent / "vectors" / "tlog"
COSIGNED = (VECTORS / "checkpoint").read_bytes()
LOG, W1, W2 = (VECTORS / "vkeys").read_text().split()

SIGNERS = [signing.Ed25519Signer(bytes([n]) * 32) for n in range(1, 9)]
KEYS = [note.VerifierKey.of(f"w{n}.example", note.COSIGNATURE, one.public_key) for n, one in enumerate(SIGNERS)]
OWN = signing.Ed25519Signer(bytes(32))
OWN_KEY = note.VerifierKey.of("log.example", note.ED25519, OWN.public_key)

NESTED = f"""# two of three here, and any of two there
log {OWN_KEY.format()} https://log.example/
witness X1 {KEYS[0].format()}
\twitness  X2 \t {KEYS[1].format()} https://x2.example/
witness X3 {KEYS[2].format()}
group X 2 X1 X2 X3

   # comments may be set in
witness Y1 {KEYS[3].format()}
witness Y2 {KEYS[4].format()}
group Y any Y1 Y2
group both all X Y
quorum both
"""


def cosigned(*who, size=1):
    """Our log's checkpoint with these cosignatures."""
    head = checkpoint.Checkpoint("log.example", size, merkle.root([merkle.leaf_hash(b"x")] * size))
    data = checkpoint.sign(head, OWN)
    for number in who:
        line = checkpoint.cosign(head.text(), KEYS[number].name, SIGNERS[number], 1_700_000_000)
        data = checkpoint.add_signatures(data, line.encode())
    return data


def test_groups_of_groups():
    """The specification's example: every subset of the witnesses, held against the sentence that describes it."""
    policy = tlog_policy.parse(NESTED.encode())
    for subset in range(32):
        who = [n for n in range(5) if subset >> n & 1]
        expected = len({0, 1, 2} & set(who)) >= 2 and bool({3, 4} & set(who))
        verdict = tlog_policy.judge(policy, cosigned(*who))
        assert verdict.satisfied is expected, who
        assert verdict.log == OWN_KEY
        assert [one.key for one in verdict.cosignatures] == [KEYS[n] for n in who]


def test_the_golden_checkpoint():
    """Both witnesses of the vectors, all and any and one by name."""
    head = f"log {LOG}\nwitness a {W1}\nwitness b {W2}\n"
    for tail in ("group g all a b\nquorum g\n", "group g any a b\nquorum g\n", "quorum b\n", "quorum none\n"):
        verdict = tlog_policy.judge(tlog_policy.parse((head + tail).encode()), COSIGNED)
        assert verdict.satisfied
        assert [one.timestamp for one in verdict.cosignatures] == [1679315147, 1679315148]


REFUSED = {
    "an empty file": ("", "line feed"),
    "no quorum": (f"log {LOG}\n", "no quorum"),
    "two quorums": ("quorum none\nquorum none\n", "line 2: a second quorum"),
    "no line feed at the end": ("quorum none", "line feed"),
    "a carriage return": ("quorum none\r\n", "line 1: the octet 0x0d"),
    "a control character in a comment": ("# a\nquorum none\n# \x7f\n", "line 3: the octet 0x7f"),
    "a word that is none": ("quorum none\nwitnesses a b\n", "line 2: not a definition"),
    "a quorum of nobody": ("quorum X\n", "line 1: 'X' is not defined before"),
    "a quorum before its witness": (f"quorum a\nwitness a {W1}\n", "line 1: 'a' is not defined before"),
    "a member before its definition": (f"group g any a\nwitness a {W1}\nquorum g\n", "line 1: 'a' is not defined"),
    "a group in itself": ("group g any g\nquorum g\n", "'g' is not defined before"),
    "a name twice": (f"witness a {W1}\nwitness a {W2}\nquorum a\n", "'a' is defined twice"),
    "a group named like a witness": (f"witness a {W1}\ngroup a any a\nquorum a\n", "'a' is defined twice"),
    "none as a name": (f"witness none {W1}\nquorum none\n", "none is no name"),
    "none as a member": (f"witness a {W1}\ngroup g any a none\nquorum g\n", "'none' is not defined before"),
    "one member of two groups": (
        f"witness a {W1}\nwitness b {W2}\ngroup g any a\ngroup h any a b\nquorum h\n",
        "'a' is a member already",
    ),
    "one member twice": (f"witness a {W1}\ngroup g 2 a a\nquorum g\n", "'a' is a member already"),
    "k of 0": (f"witness a {W1}\ngroup g 0 a\nquorum g\n", "neither all, any nor a number"),
    "k above n": (f"witness a {W1}\ngroup g 2 a\nquorum g\n", "2 of 1 members"),
    "k with a zero before": (f"witness a {W1}\ngroup g 01 a\nquorum g\n", "neither all, any nor a number"),
    "k in another script": (f"witness a {W1}\ngroup g ١ a\nquorum g\n", "neither all, any nor a number"),
    "a group of nobody": ("group g any\nquorum g\n", "takes other words"),
    "a log's key twice": (f"log {LOG}\nlog {LOG}\nquorum none\n", "stands twice"),
    "a witness's key under another name": (f"witness a {W1}\nwitness b {W1}\nquorum a\n", "stands twice"),
    "a witness's key under another key name": (
        f"witness a {W1}\nwitness b "
        + note.VerifierKey.of("alias.example", note.COSIGNATURE, note.VerifierKey.parse(W1).public_key).format()
        + "\nquorum a\n",
        "stands twice",
    ),
    "a log that is its own witness": (
        f"log {LOG}\nwitness a "
        + note.VerifierKey.of("a.example", note.COSIGNATURE, note.VerifierKey.parse(LOG).public_key).format()
        + "\nquorum a\n",
        "stands twice",
    ),
    "a cosigner's key as a log": (f"log {W1}\nquorum none\n", "no key that a log signs with"),
    "a log's key as a witness": (f"witness a {LOG}\nquorum a\n", "no cosigner's key"),
    "a key of small order": (
        "witness a "
        + note.VerifierKey.of("weak.example", note.COSIGNATURE, bytes([1]) + bytes(31)).format()
        + "\nquorum a\n",
        "not a canonical point",
    ),
    "a key that is none": ("log x+y+z\nquorum none\n", "line 1: a key ID is eight"),
    "a URL too many": (f"log {LOG} a b\nquorum none\n", "takes other words"),
    "a no-break space between words": (f"log\u00a0{LOG}\nquorum none\n", "not a definition"),
    "a comment after words": (f"witness a {W1} # mine\nquorum a\n", "takes other words"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_policy(name):
    """Each defect by itself, with the line that has it."""
    text, reason = REFUSED[name]
    with pytest.raises(PolicyError, match=re.escape(reason)):
        tlog_policy.parse(text.encode())


def test_names_are_octets():
    """A Kelvin sign is no K, and octets that are no UTF-8 are a name like any other and come back as they were."""
    text = f"witness K {W1}\nwitness \u212a {W2}\ngroup g all K \u212a\nquorum g\n".encode()
    assert len(tlog_policy.parse(text).witnesses) == 2
    odd = b"witness \xff\xfe " + W1.encode() + b"\nquorum \xff\xfe\n"
    policy = tlog_policy.parse(odd)
    assert tlog_policy.format(policy) == odd
    assert policy.satisfied_by([note.VerifierKey.parse(W1)])


def test_a_policy_without_logs_takes_them_from_the_context():
    """And one that names logs takes no other."""
    bare = tlog_policy.parse(f"witness a {KEYS[0].format()}\nquorum a\n".encode())
    assert tlog_policy.judge(bare, cosigned(0), [OWN_KEY]).satisfied
    with pytest.raises(note.SignatureError, match=r"knows no log log\.example"):
        tlog_policy.judge(bare, cosigned(0))
    other = tlog_policy.parse(f"log {LOG}\nquorum none\n".encode())
    with pytest.raises(note.SignatureError, match=r"knows no log log\.example"):
        tlog_policy.judge(other, cosigned(0), [OWN_KEY])


def test_a_bad_line_by_a_known_witness_spoils_the_note():
    """Even where enough others signed it."""
    policy = tlog_policy.parse(NESTED.encode())
    bad = note.Signature(KEYS[2].name, KEYS[2].key_id, (5).to_bytes(8) + bytes(64)).line()
    with pytest.raises(note.SignatureError, match="bad cosignature"):
        tlog_policy.judge(policy, cosigned(0, 1, 3) + bad.encode())


def test_a_log_that_did_not_sign_is_not_replaced_by_witnesses():
    """Cosignatures don't make a checkpoint the log's."""
    head = checkpoint.Checkpoint("log.example", 1, bytes(32))
    forged = checkpoint.sign(head, SIGNERS[7]) + checkpoint.cosign(head.text(), KEYS[0].name, SIGNERS[0], 5).encode()
    policy = tlog_policy.parse(f"log {OWN_KEY.format()}\nwitness a {KEYS[0].format()}\nquorum a\n".encode())
    with pytest.raises(note.SignatureError):
        tlog_policy.judge(policy, forged)


def test_a_cosignature_of_another_checkpoint_counts_for_nothing():
    """A witness's line moved to another size is a bad line."""
    line = cosigned(0, size=1).decode().splitlines(keepends=True)[-1]
    policy = tlog_policy.parse(f"log {OWN_KEY.format()}\nwitness a {KEYS[0].format()}\nquorum a\n".encode())
    with pytest.raises(note.SignatureError):
        tlog_policy.judge(policy, cosigned(size=2) + line.encode())


def test_c_of_m_cosigners():
    """What a quorum policy of ours becomes, also when two cosigners chose one name, or an awkward one."""
    twin = note.VerifierKey.of(KEYS[0].name, note.COSIGNATURE, SIGNERS[5].public_key)
    awkward = note.VerifierKey.of("none", note.COSIGNATURE, SIGNERS[6].public_key)
    cosigners = [(KEYS[0], "https://a.example/"), (twin, None), (awkward, None), (KEYS[1], None)]
    policy = Policy.of_cosigners(OWN_KEY, cosigners, 2)
    assert tlog_policy.parse(tlog_policy.format(policy)) == policy
    assert not policy.satisfied_by([KEYS[0]])
    assert policy.satisfied_by([twin, awkward])
    none = Policy.of_cosigners(OWN_KEY, cosigners, 0)
    assert none.quorum is None
    assert tlog_policy.parse(tlog_policy.format(none)) == none


def test_32_of_everything_and_a_bound():
    """The specification asks for 32; a file has an end."""
    signers = [signing.Ed25519Signer(n.to_bytes(32)) for n in range(1, 66)]
    lines = [f"log {note.VerifierKey.of(f'l{n}', note.ED25519, signers[n].public_key).format()}" for n in range(32)]
    for n in range(32):
        lines.append(f"witness w{n} {note.VerifierKey.of('w', note.COSIGNATURE, signers[32 + n].public_key).format()}")
        lines.append(f"group g{n} any w{n}" if n == 0 else f"group g{n} all w{n} g{n - 1}")
    policy = tlog_policy.parse("\n".join([*lines, "quorum g31", ""]).encode())
    witnesses = [one.key for one in policy.witnesses]
    assert policy.satisfied_by(witnesses)
    assert not any(policy.satisfied_by(witnesses[:n] + witnesses[n + 1 :]) for n in range(32))
    with pytest.raises(PolicyError, match="at most"):
        tlog_policy.parse(b"#" * tlog_policy.MAX_POLICY_BYTES + b"\n")


NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters=" \t\n", exclude_categories=["Cc"]), min_size=1, max_size=8
)


@st.composite
def policies(draw):
    """Any forest of groups over up to six witnesses."""
    names = draw(st.lists(NAMES.filter(lambda n: n != "none" and n[0] != "#"), min_size=1, max_size=10, unique=True))
    count = draw(st.integers(1, min(6, len(names))))
    urls = st.none() | NAMES
    witnesses = tuple(Witness(name=names[n], key=KEYS[n], url=draw(urls)) for n in range(count))
    free, groups = names[:count], []
    for name in names[count:]:
        members = draw(st.lists(st.sampled_from(free), min_size=1, unique=True))
        groups.append(Group(name=name, k=draw(st.integers(1, len(members))), members=tuple(members)))
        free = [one for one in free if one not in members] + [name]
    quorum = draw(st.none() | st.sampled_from([one.name for one in (*witnesses, *groups)]))
    logs = (Log(key=OWN_KEY, url=draw(urls)),) if draw(st.booleans()) else ()
    return Policy(logs=logs, witnesses=witnesses, groups=tuple(groups), quorum=quorum)


@given(policies())
@settings(deadline=None)
def test_a_policy_comes_back_from_its_file(policy):
    """Written and read, it is the same; read and written, the file is."""
    data = tlog_policy.format(policy)
    assert tlog_policy.parse(data) == policy
    assert tlog_policy.format(tlog_policy.parse(data)) == data


@given(policies(), st.sets(st.integers(0, 5)), st.integers(0, 5))
@settings(deadline=None)
def test_evaluation_is_recursive_and_monotone(policy, who, more):
    """It agrees with the definition read recursively, and another voice never hurts."""
    groups = {group.name: group for group in policy.groups}
    own = {one.name: one.key for one in policy.witnesses}

    def holds(name, keys):
        group = groups.get(name)
        return own[name] in keys if group is None else sum(holds(one, keys) for one in group.members) >= group.k

    keys = [KEYS[n] for n in who]
    expected = policy.quorum is None or holds(policy.quorum, keys)
    assert policy.satisfied_by(keys) is expected
    assert policy.satisfied_by([*keys, KEYS[more]]) >= expected


@given(
    st.binary(max_size=300)
    | st.lists(st.sampled_from(NESTED.split(" ")), max_size=30).map(lambda w: " ".join(w).encode())
)
def test_strange_bytes_are_refused(data):
    """Whatever is sent, a policy or `PolicyError`."""
    try:
        policy = tlog_policy.parse(data)
    except PolicyError:
        return
    assert tlog_policy.parse(tlog_policy.format(policy)) == policy


@given(st.integers(0, len(NESTED) - 1), st.integers(0, 255))
@settings(max_examples=300, deadline=None)
def test_no_changed_byte_weakens_the_quorum_unseen(at, byte):
    """One byte changed: refused, or still asking for two here and one there, by keys of the file; or the count itself was rewritten."""
    data = bytearray(NESTED.encode())
    data[at] = byte
    try:
        policy = tlog_policy.parse(bytes(data))
    except PolicyError:
        return
    assert {one.key for one in policy.witnesses} <= set(KEYS)
    assert not policy.satisfied_by([])
