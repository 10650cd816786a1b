"""Keys and signatures: the vectors of RFC 8032, the keys that are refused, and what a signature is good for."""

import base64
import hashlib

import nacl.bindings
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import example, given, settings
from hypothesis import strategies as st
from securesystemslib import dsse

from sigilcore import digest, signing

# RFC 8032, 7.1, TEST 1 to TEST 3: seed, public key, message, signature.
RFC_8032 = {
    "TEST 1": (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    "TEST 2": (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    "TEST 3": (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
}

P = 2**255 - 19  # the field of Curve25519 (RFC 7748, 4.1)
L = 2**252 + 27742317777372353535851937790883648493  # the order of the base point (RFC 8032, 5.1)
D = -121665 * pow(121666, -1, P) % P
ROOT_OF_MINUS_ONE = pow(2, (P - 1) // 4, P)
IDENTITY = (0, 1)
SIGN = 1 << 255

# The eight points whose order divides the cofactor, in their canonical encodings, by order.
SMALL_ORDER = {
    "0100000000000000000000000000000000000000000000000000000000000000": 1,
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f": 2,
    "0000000000000000000000000000000000000000000000000000000000000000": 4,
    "0000000000000000000000000000000000000000000000000000000000000080": 4,
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05": 8,
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85": 8,
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a": 8,
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa": 8,
}

TYPES = (
    signing.RECORD,
    signing.LICENSE,
    signing.LICENSE_ROOT,
    signing.SESSION,
    signing.CERTIFICATE,
    signing.PROOF,
    signing.PERMIT,
    signing.NONCE,
    signing.GRANT,
    signing.PEER_SESSION,
    signing.MEMBERSHIP,
    signing.FILE,
    signing.SUCCESSION,
)

ALICE = signing.Ed25519Signer(bytes(range(32)))
BOB = signing.Ed25519Signer(bytes(range(1, 33)))


def add(one, other):
    """The addition law of the twisted Edwards curve -x² + y² = 1 + dx²y² (RFC 8032, 5.1.4), in plain integers."""
    (x1, y1), (x2, y2) = one, other
    product = D * x1 * x2 * y1 * y2
    x = (x1 * y2 + x2 * y1) * pow(1 + product, -1, P)
    y = (y1 * y2 + x1 * x2) * pow(1 - product, -1, P)
    return x % P, y % P


def order_up_to_eight(point):
    multiple, order = point, 1
    while multiple != IDENTITY:
        multiple, order = add(multiple, point), order + 1
        if order > 8:
            return None
    return order


def point_of(encoded):
    """The point of an encoding, lenient about y beyond the field; None where the curve has no such point."""
    number = int.from_bytes(encoded, "little")
    odd, y = number >> 255, (number & (SIGN - 1)) % P
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * ROOT_OF_MINUS_ONE % P
    if x * x % P != square:
        return None
    return (P - x) % P if x & 1 != odd else x, y


def non_canonical_encodings():
    """Every encoding of a point that is not its one spelling: y written as y + p, or a sign on x = 0."""
    beyond = [number.to_bytes(32, "little") for y in range(P, SIGN) for number in (y, y | SIGN)]
    minus_zero = [(y | SIGN).to_bytes(32, "little") for y in (1, P - 1)]
    return [encoded for encoded in (*beyond, *minus_zero) if point_of(encoded) is not None]


@pytest.mark.parametrize(("seed", "public", "message", "signature"), RFC_8032.values(), ids=RFC_8032)
def test_the_vectors_of_the_standard(seed, public, message, signature):
    """RFC 8032, 7.1: the seed has this public key, makes this signature, and the signature is good."""
    signer = signing.Ed25519Signer(bytes.fromhex(seed))
    assert signer.public_key.hex() == public
    assert signer.sign(bytes.fromhex(message)).hex() == signature
    assert signing.verify(signer.public_key, bytes.fromhex(message), bytes.fromhex(signature))
    assert signing.check_public_key(bytes.fromhex(public)) == bytes.fromhex(public)


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=200))
@settings(max_examples=50)
def test_another_library_agrees(seed, message):
    """The signatures of two libraries are the same bytes; each verifies the other's."""
    ours, theirs = signing.Ed25519Signer(seed), Ed25519PrivateKey.from_private_bytes(seed)
    assert ours.sign(message) == theirs.sign(message)
    Ed25519PublicKey.from_public_bytes(ours.public_key).verify(ours.sign(message), message)
    with pytest.raises(InvalidSignature):
        Ed25519PublicKey.from_public_bytes(ours.public_key).verify(ours.sign(message), message + b"x")


def test_a_generated_key_is_a_good_one_and_never_the_same():
    """Fresh keys differ, pass the check of enrolment, and don't show their seed."""
    one, other = signing.Ed25519Signer.generate(), signing.Ed25519Signer.generate()
    assert one.public_key != other.public_key
    assert signing.check_public_key(one.public_key) == one.public_key
    assert repr(one) == f"Ed25519Signer({one.key_id})"


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_a_seed_has_32_bytes(size):
    """Nothing is padded or cut."""
    with pytest.raises(ValueError, match="32"):
        signing.Ed25519Signer(bytes(size))


def test_the_key_id_is_the_hash_of_the_raw_key():
    """The first 32 hex digits of SHA-256, which anyone can compute."""
    assert signing.key_id(ALICE.public_key) == hashlib.sha256(ALICE.public_key).hexdigest()[:32]
    assert ALICE.key_id == signing.key_id(ALICE.public_key) != BOB.key_id


@pytest.mark.parametrize(("encoded", "order"), SMALL_ORDER.items())
def test_points_of_small_order_are_refused(encoded, order):
    """The point has that order by plain arithmetic, and is no key: one signature by it could fit many messages."""
    public = bytes.fromhex(encoded)
    assert order_up_to_eight(point_of(public)) == order
    with pytest.raises(signing.WeakKey):
        signing.check_public_key(public)


def test_there_is_no_other_point_of_small_order():
    """The list is complete: it is a group of eight, closed under addition."""
    points = {point_of(bytes.fromhex(encoded)) for encoded in SMALL_ORDER}
    assert len(points) == 8
    assert {add(one, other) for one in points for other in points} == points


@pytest.mark.parametrize("encoded", non_canonical_encodings(), ids=bytes.hex)
def test_second_spellings_of_points_are_refused(encoded):
    """One point, one encoding: otherwise one key would have two key ids."""
    with pytest.raises(signing.WeakKey):
        signing.check_public_key(encoded)


def test_some_second_spellings_hide_points_of_great_order():
    """The list above is no mere repetition of the points of small order."""
    orders = [order_up_to_eight(point_of(encoded)) for encoded in non_canonical_encodings()]
    assert None in orders
    assert {1, 2, 4} <= set(orders)


@pytest.mark.parametrize("encoded", [encoded for encoded, order in SMALL_ORDER.items() if order > 1])
def test_points_of_mixed_order_are_refused(encoded):
    """A good key plus a point of small order: verifiers disagree about its signatures."""
    mixed = nacl.bindings.crypto_core_ed25519_add(ALICE.public_key, bytes.fromhex(encoded))
    assert point_of(mixed) == add(point_of(ALICE.public_key), point_of(bytes.fromhex(encoded)))
    with pytest.raises(signing.WeakKey):
        signing.check_public_key(mixed)


def test_bytes_that_are_no_point_are_refused():
    """Half of all y have no x; a key of another length is none."""
    y = next(y for y in range(2, 100) if point_of(y.to_bytes(32, "little")) is None)
    for public in (y.to_bytes(32, "little"), b"", ALICE.public_key[:31], ALICE.public_key + b"\0"):
        with pytest.raises(signing.WeakKey):
            signing.check_public_key(public)


@given(st.binary(max_size=40) | st.binary(min_size=32, max_size=32), st.binary(max_size=40), st.binary(max_size=70))
@example(ALICE.public_key, b"", bytes(64))
@example(bytes(32), b"", bytes(64))
@example(b"\xff" * 32, b"", b"\xff" * 64)
@example(ALICE.public_key, b"x", ALICE.sign(b"x")[:63])
@example(ALICE.public_key, b"x", ALICE.sign(b"x") + b"\0")
@example(ALICE.public_key, b"x", b"")
def test_verify_answers_hostile_bytes_with_false(public, message, signature):
    """No key, message or signature makes it raise, and none of these is good."""
    assert signing.verify(public, message, signature) is False


@given(st.binary(max_size=80), st.integers(0, 8 * 64 - 1), st.integers(0, 8 * 32 - 1))
def test_a_flipped_bit_ends_a_signature(message, of_signature, of_key):
    """In the signature, in the key, or another message."""

    def flipped(data, bit):
        return (int.from_bytes(data, "little") ^ (1 << bit)).to_bytes(len(data), "little")

    signature = ALICE.sign(message)
    assert signing.verify(ALICE.public_key, message, signature)
    assert not signing.verify(ALICE.public_key, message, flipped(signature, of_signature))
    assert not signing.verify(flipped(ALICE.public_key, of_key), message, signature)
    assert not signing.verify(ALICE.public_key, message + b"\0", signature)
    assert not signing.verify(BOB.public_key, message, signature)


def test_a_signature_has_one_spelling():
    """S + L solves the same equation; RFC 8032 (5.1.7) wants S below L, so nobody can make a second signature of a first."""
    signature = ALICE.sign(b"x")
    scalar = int.from_bytes(signature[32:], "little") + L
    assert not signing.verify(ALICE.public_key, b"x", signature[:32] + scalar.to_bytes(32, "little"))


@pytest.mark.parametrize("encoded", SMALL_ORDER)
def test_a_signature_by_nobody_is_refused(encoded):
    """R = A of small order and S = 0 would satisfy the equation for many messages, were such keys believed."""
    public = bytes.fromhex(encoded)
    assert not any(signing.verify(public, bytes([n]), public + bytes(32)) for n in range(32))


def test_the_pre_authentication_encoding_of_the_standard():
    """The worked example of the DSSE protocol, version 1."""
    expected = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert signing.pae("http://example.com/HelloWorld", b"hello world") == expected


@given(st.text(max_size=30), st.binary(max_size=100))
@example("é", "é".encode())
def test_lengths_count_bytes(payload_type, body):
    """The encoding is that of another package, also where characters and bytes differ in number."""
    assert signing.pae(payload_type, body) == dsse.Envelope(body, payload_type, {}).pae()


@given(
    st.text(" 1aé", max_size=6), st.text(" 1aé", max_size=6), st.text(" 1aé", max_size=6), st.text(" 1aé", max_size=6)
)
def test_no_two_documents_share_an_encoding(type_1, body_1, type_2, body_2):
    """Moving bytes between type and body changes the lengths."""
    same = (type_1, body_1) == (type_2, body_2)
    assert (signing.pae(type_1, body_1.encode()) == signing.pae(type_2, body_2.encode())) is same


def test_a_signature_is_never_good_for_another_kind_of_document():
    """The same body signed as each type verifies as that type alone; the bare body was not signed at all."""
    assert len(set(TYPES)) == len(TYPES)
    body = b'{"id":"x"}'
    for signed_as in TYPES:
        signature = signing.sign_typed(ALICE, signed_as, body)
        good = [read_as for read_as in TYPES if signing.verify_typed(ALICE.public_key, read_as, body, signature)]
        assert good == [signed_as]
        assert not signing.verify(ALICE.public_key, body, signature)


@given(st.binary(min_size=1, max_size=70))
def test_signature_text_goes_round(raw):
    """Standard base64 with padding, there and back."""
    assert signing.signature_bytes(signing.signature_text(raw)) == raw == base64.b64decode(signing.signature_text(raw))


@pytest.mark.parametrize(
    "text", ["YQ", "YQ=", "YR==", " YQ==", "YQ==\n", "YQ==YQ==", "Y-__", "é", "\ud800", "Y", "YQ==="]
)
def test_a_second_spelling_of_a_signature_is_no_signature(text):
    """Missing padding, stray bits, white space, the other alphabet: empty, which verifies nothing."""
    assert signing.signature_bytes(text) == b""


def test_hashes_are_sha_256_of_the_salt_and_the_bytes():
    """Payload and parameters are hashed behind sixteen bytes of salt, no more and no fewer."""
    salt = bytes(range(16))
    assert digest.sha256(b"abc").hex() == digest.sha256_hex(b"abc") == hashlib.sha256(b"abc").hexdigest()
    for salted in (digest.payload_hash, digest.parameter_digest):
        assert salted(salt, b"{}") == hashlib.sha256(salt + b"{}").hexdigest()
        for bad in (b"", salt[:15], salt + b"\0"):
            with pytest.raises(ValueError, match="16"):
                salted(bad, b"{}")
