"""Envelopes and tokens: a third party verifies the one, nothing but our own spelling passes as the other."""

import base64
import json
import string

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from securesystemslib import dsse
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

from sigilcore import canonical, envelope, signing

ALICE, BOB, CAROL = (signing.Ed25519Signer(bytes(range(first, first + 32))) for first in range(3))
BODY = canonical.encode({"kind": "note", "text": "é", "n": 1})
URL_ALPHABET = string.ascii_letters + string.digits + "-_"


class Ticket(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    holder: str
    seats: tuple[int, ...] = ()


TICKET = Ticket(holder="Ada", seats=(1, 2))


def pair(signer, payload_type=signing.RECORD, body=BODY):
    return signer.key_id, signing.sign_typed(signer, payload_type, body)


def third_party_keys(*signers):
    return [SSlibKey(signer.key_id, "ed25519", "ed25519", {"public": signer.public_key.hex()}) for signer in signers]


def third_party(data):
    return dsse.Envelope.from_dict(json.loads(data))


def malformed(call, *arguments):
    with pytest.raises(envelope.BadToken) as caught:
        call(*arguments)
    assert caught.value.reason == "malformed"


def url_text(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def token_of(body, signer=ALICE, payload_type=signing.PERMIT):
    """A well-signed token around any bytes, as a hostile holder of the key would make it."""
    return f"{url_text(body)}.{url_text(signing.sign_typed(signer, payload_type, body))}"


def unseal(token, payload_type=signing.PERMIT, public=ALICE.public_key):
    return envelope.unseal(token, payload_type, Ticket, public)


def reason(token, payload_type=signing.PERMIT, public=ALICE.public_key):
    with pytest.raises(envelope.BadToken) as caught:
        unseal(token, payload_type, public)
    return caught.value.reason


def with_field(name, value):
    data = json.loads(envelope.export(signing.RECORD, BODY, [pair(ALICE), pair(BOB)]))
    data[name] = value
    return json.dumps(data).encode()


def test_a_third_party_verifies_an_export_with_its_threshold():
    """securesystemslib finds two of three signatures, whichever two were given."""
    keys = third_party_keys(ALICE, BOB, CAROL)
    for signers in ((ALICE, BOB), (BOB, CAROL), (CAROL, ALICE), (ALICE, BOB, CAROL)):
        exported = third_party(envelope.export(signing.RECORD, BODY, [pair(signer) for signer in signers]))
        assert exported.payload == BODY
        assert exported.payload_type == signing.RECORD
        assert len(exported.verify(keys, 2)) == 2


@pytest.mark.parametrize(
    "second",
    [
        (BOB.key_id, bytes(64)),
        (BOB.key_id, pair(ALICE)[1]),
        (BOB.key_id, BOB.sign(BODY)),
        pair(BOB, payload_type=signing.LICENSE),
        pair(BOB, body=BODY + b" "),
        pair(signing.Ed25519Signer(bytes(32))),
    ],
    ids=["zeros", "another's", "bare body", "another type", "another body", "a stranger's"],
)
def test_a_third_party_refuses_a_bad_signature(second):
    """One good signature and one that isn't make one of two."""
    exported = third_party(envelope.export(signing.RECORD, BODY, [pair(ALICE), second]))
    keys = third_party_keys(ALICE, BOB, CAROL)
    assert len(exported.verify(keys, 1)) == 1
    with pytest.raises(VerificationError):
        exported.verify(keys, 2)


@given(st.binary(max_size=200), st.sampled_from([signing.RECORD, signing.LICENSE]))
def test_an_export_goes_round_here_and_there(body, payload_type):
    """Our reader and the other package find the same body, type and signatures; the bytes are canonical."""
    signatures = (pair(ALICE, payload_type, body), pair(BOB, payload_type, body))
    data = envelope.export(payload_type, body, signatures)
    ours, theirs = envelope.parse(data), third_party(data)
    assert (ours.body(), ours.payloadType, ours.signed()) == (body, payload_type, signatures)
    assert (theirs.payload, theirs.payload_type) == (body, payload_type)
    assert {key_id: bytes.fromhex(one.signature) for key_id, one in theirs.signatures.items()} == dict(signatures)
    assert canonical.encode(canonical.decode(data)) == data
    assert set(json.loads(data)) == {"payload", "payloadType", "signatures"}


def test_an_envelope_of_another_maker_is_read():
    """The other package signs and writes; white space and order of fields are its own affair."""
    made = dsse.Envelope(BODY, signing.RECORD, {})
    made.signatures = third_party(envelope.export(signing.RECORD, BODY, [pair(ALICE)])).signatures
    read = envelope.parse(json.dumps(made.to_dict(), indent=2).encode())
    ((key_id, signature),) = read.signed()
    assert key_id == ALICE.key_id
    assert signing.verify_typed(ALICE.public_key, read.payloadType, read.body(), signature)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        with_field("extra", 1),
        with_field("payload", 1),
        with_field("payload", None),
        with_field("payload", "YQ"),
        with_field("payload", "YR=="),
        with_field("payload", "YQ==\n"),
        with_field("payload", " YQ=="),
        with_field("payload", "YWI-"),
        with_field("payload", "é==="),
        with_field("payload", "=YQ="),
        with_field("signatures", []),
        with_field("signatures", {}),
        with_field("signatures", [{"keyid": "a"}]),
        with_field("signatures", [{"sig": "YQ=="}]),
        with_field("signatures", [{"keyid": "a", "sig": "YQ"}]),
        with_field("signatures", [{"keyid": "a", "sig": "YQ==", "cert": "x"}]),
        with_field("signatures", [{"keyid": "a", "sig": "YQ=="}, {"keyid": "a", "sig": "YQ=="}]),
        with_field("signatures", [{"keyid": str(n), "sig": "YQ=="} for n in range(envelope.MAX_SIGNATURES + 1)]),
        with_field("payloadType", 1),
        with_field("payload", "YQ==")[:-1] + b',"payload":"YQ=="}',
        b" " * (envelope.MAX_ENVELOPE_BYTES + 1),
    ],
    ids=lambda data: repr(data[:50]),
)
def test_a_malformed_envelope_is_refused(data):
    """Missing, strange and repeated fields, base64 in a second spelling, no signatures, too many, two by one key."""
    malformed(envelope.parse, data)


def test_an_export_is_never_one_that_parse_refuses():
    """No signatures, one key twice, or a body beyond the bound: the mistake is met where it is made."""
    for signatures in ([], [pair(ALICE), pair(ALICE)]):
        with pytest.raises(ValueError, match="malformed"):
            envelope.export(signing.RECORD, BODY, signatures)
    with pytest.raises(ValueError, match="at most"):
        envelope.export(signing.RECORD, bytes(envelope.MAX_ENVELOPE_BYTES), [pair(ALICE)])
    largest = bytes(canonical.MAX_BYTES)
    assert envelope.parse(envelope.export(signing.RECORD, largest, [pair(ALICE)])).body() == largest


def test_a_token_goes_round():
    """What was sealed is unsealed with the right key and type, and is base64url of canonical bytes and a signature."""
    token = envelope.seal(ALICE, signing.PERMIT, TICKET)
    assert unseal(token) == TICKET
    assert token == token_of(b'{"holder":"Ada","seats":[1,2]}')
    assert set(token) <= set(URL_ALPHABET + ".")


def test_a_token_is_good_for_its_key_and_its_type_only():
    """Another key, another kind of document, a key that is none: the signature is at fault."""
    token = envelope.seal(ALICE, signing.PERMIT, TICKET)
    assert reason(token, public=BOB.public_key) == "signature"
    assert reason(token, payload_type=signing.SESSION) == "signature"
    for public in (b"", bytes(32), b"\xff" * 32, ALICE.public_key + b"\0"):
        assert reason(token, public=public) == "signature"


def test_the_body_of_one_token_does_not_pass_with_the_signature_of_another():
    """Cut and paste."""
    one = envelope.seal(ALICE, signing.PERMIT, TICKET)
    other = envelope.seal(ALICE, signing.PERMIT, Ticket(holder="Eve"))
    assert reason(other.split(".")[0] + "." + one.split(".")[1]) == "signature"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b'{"seats":[],"holder":"Ada"}',
        b'{"holder": "Ada"}',
        b'{"holder":"Eve","holder":"Ada"}',
        b'{"holder":"Ada","new":1}',
        b'{"holder":1}',
        b'{"seats":[1]}',
        b"[]",
        b"\xff",
        b"[" * 10_000,
    ],
    ids=lambda body: repr(body[:30]),
)
def test_a_well_signed_body_must_still_be_canonical_and_fit(body):
    """A signature makes no document of bytes: order, white space, repeated and unknown fields, wrong types."""
    assert reason(token_of(body)) == ("content" if body else "malformed")


def test_every_second_spelling_of_a_token_is_malformed():
    """Padding, white space, the other alphabet, stray last bits, other separators, missing and extra parts."""
    token = envelope.seal(ALICE, signing.PERMIT, TICKET)
    body, signature = token.split(".")
    assert len(signature) % 4 == 2  # the last character holds four bits that count for nothing
    stray = URL_ALPHABET[(URL_ALPHABET.index(signature[-1]) + 1) % 64]
    for bad in (
        "",
        ".",
        body,
        body + ".",
        "." + signature,
        f"{body}.{signature}.",
        f".{body}.{signature}",
        f"{body}.{signature}.{signature}",
        f"{body}.{signature}==",
        f"{body}==.{signature}",
        f"{body}.{signature}\n",
        f" {body}.{signature}",
        f"{body}.{signature[:-1]}{stray}",
        f"{body}.{signature[:-1]}",
        f"{body}.{signature}AA",
        f"{body}:{signature}",
        f"{body}A.{signature}" if len(body) % 4 == 0 else f"{body}{'A' * (5 - len(body) % 4)}.{signature}",
        f"{body}.{signature[:-2]}\u0661{signature[-1]}",
        f"\ud800.{signature}",
        "+/" + token,
        "A" * envelope.MAX_TOKEN + "." + signature,
    ):
        malformed(unseal, bad)
        malformed(envelope.peek_unverified, bad, Ticket)


def test_signatures_hold_both_alphabets_apart():
    """A token whose text has - or _ is refused when it is written with + or /."""
    tokens = [envelope.seal(ALICE, signing.PERMIT, Ticket(holder=str(n))) for n in range(20)]
    assert any("-" in token for token in tokens)
    assert any("_" in token for token in tokens)
    for token in tokens:
        other = token.replace("-", "+").replace("_", "/")
        if other != token:
            malformed(unseal, other)


def test_a_peek_believes_nothing_and_unseal_still_refuses():
    """`peek_unverified` reads a forged token, so that its key can be looked up; `unseal` then says no."""
    forged = f"{url_text(canonical.of(TICKET))}.{url_text(bytes(64))}"
    assert envelope.peek_unverified(forged, Ticket) == TICKET
    assert reason(forged) == "signature"
    with pytest.raises(envelope.BadToken) as caught:
        envelope.peek_unverified(token_of(b"{}"), Ticket)
    assert caught.value.reason == "content"


def test_what_is_sealed_can_be_unsealed_also_at_the_bound():
    """A token of exactly the largest size is read; a larger one isn't made."""
    empty = len(envelope.seal(ALICE, signing.PERMIT, Ticket(holder="")))
    room = (envelope.MAX_TOKEN - empty) * 3 // 4
    tokens = [envelope.seal(ALICE, signing.PERMIT, Ticket(holder="x" * (room - less))) for less in range(4)]
    assert max(map(len, tokens)) > envelope.MAX_TOKEN - 3
    for token in tokens:
        assert unseal(token).holder.startswith("x")
    with pytest.raises(ValueError, match="at most"):
        envelope.seal(ALICE, signing.PERMIT, Ticket(holder="x" * (room + 4)))


@given(st.text(max_size=40) | st.text(URL_ALPHABET + ".+/= ", max_size=120))
@example("\ud800.\ud800")
@example("e30." + "A" * 86)
@settings(max_examples=400)
def test_hostile_text_is_never_a_token(text):
    """Whatever comes, the answer is BadToken with one of its three reasons."""
    for call in (unseal, lambda token: envelope.peek_unverified(token, Ticket)):
        with pytest.raises(envelope.BadToken) as caught:
            call(text)
        assert caught.value.reason in {"malformed", "signature", "content"}


@given(st.data())
@settings(max_examples=300)
def test_a_changed_character_ends_a_token(data):
    """One character replaced, anywhere, by any other: there is no second spelling of a good token."""
    token = envelope.seal(ALICE, signing.PERMIT, TICKET)
    place = data.draw(st.integers(0, len(token) - 1))
    new = data.draw(st.sampled_from(URL_ALPHABET + ".+/= é\n").filter(lambda character: character != token[place]))
    assert reason(token[:place] + new + token[place + 1 :]) in {"malformed", "signature"}


@given(st.binary(max_size=100) | st.text('{}[]",:payloadTypesignaturekYQ=', max_size=100).map(str.encode))
def test_hostile_bytes_are_never_an_envelope(data):
    """Whatever comes, the answer is BadToken."""
    malformed(envelope.parse, data)
