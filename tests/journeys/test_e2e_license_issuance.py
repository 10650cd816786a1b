"""Journey e2e_license_issuance: Root issues at each level, a licence is checked by anyone, and a revocation is felt at once."""

import time

import pytest

from sigilcore import licence, signing
from sigilcore.access import Loa
from sigilcore.contracts import gatekeeper, license
from sigilcore.contracts.common import Empty
from sigilcore.refusals import Code, Refused
from tests import machine as machines


async def validate(machine, toml):
    """What anyone hears of a document."""
    stranger = await machine.client()
    return await stranger.call(license.VALIDATE, license.ValidateLicense(license=toml))


@pytest.mark.parametrize("loa", [Loa.GUEST, Loa.OBSERVER, Loa.OPERATOR, Loa.MENTOR])
async def test_e2e_license_issuance(machine, loa):
    """Issued, readable, valid, listed without its seal, and named as bearer when it is."""
    someone = await machine.person(f"lee-{loa}", loa)
    answer = await validate(machine, someone.toml)
    assert (answer.valid, answer.loa, answer.owner_id, answer.reasons) == (True, loa, f"lee-{loa}", ())
    assert answer.bearer == (loa is not Loa.MENTOR)
    records = await machine.audit()
    seal = licence.parse(someone.toml).seal
    assert not any(seal.sig.encode() in bytes(placed.payload) for placed in records)


async def test_revocation_is_felt_within_a_second(machine):
    """A warm session ends with its licence."""
    bob = await machine.person("bob-revoked", Loa.OBSERVER)
    await bob.client.call(gatekeeper.PING, Empty())
    await machine.root.client.call(license.REVOKE, license.RevokeLicense(license_id=bob.licence_id, reason="left"))
    deadline = time.monotonic() + 1.0
    while True:
        try:
            await bob.client.call(gatekeeper.PING, Empty())
        except Refused as refused:
            assert refused.code is Code.LICENSE_INVALID
            assert refused.detail["reasons"] == ["REVOKED"]
            break
        assert time.monotonic() < deadline
    assert (await validate(machine, bob.toml)).reasons == ("REVOKED",)
    await machine.audit()


async def test_root_is_single(machine):
    """Nobody makes a second Root: not by create, not by another bootstrap."""
    asked = license.CreateLicense(owner_id="root2", owner_name="Root", loa=Loa.ROOT, expires_at=machines.UNTIL)
    with pytest.raises(Refused) as caught:
        await machine.root.client.call(license.CREATE, asked)
    assert (caught.value.code, caught.value.code.status) == (Code.ROOT_IS_SINGLE, 403)
    again = license.Bootstrap(
        token="guess",
        owner_id="root2",
        owner_name="Root",
        root_key=signing.Ed25519Signer.generate().public_key.hex(),
    )
    with pytest.raises(Refused) as caught:
        await (await machine.client()).call(license.BOOTSTRAP, again)
    assert caught.value.code in {Code.ALREADY_BOOTSTRAPPED, Code.BOOTSTRAP_REFUSED}
    assert caught.value.code.status == 403


async def test_licence_of_another_deployment(machine):
    """The true seal over another runtime is not this house's licence; and what was never issued is nothing."""
    ada = await machine.person("ada-forge", Loa.OPERATOR)
    stranger = signing.Ed25519Signer.generate()
    forged = licence.seal(licence.parse(ada.toml).license, stranger)
    assert (await validate(machine, licence.to_toml(forged))).reasons == ("SEAL_KEY_UNKNOWN",)
    assert (await validate(machine, "not a licence")).reasons == ("UNREADABLE",)
