"""Journey e2e_license_issuance: Root issues at each level, a licence is checked by anyone, and a revocation is felt at once."""

import asyncio
import base64
import time

import msgspec
import pytest

from cli import owner
from sigilcore import decision, ids, licence, signing
from sigilcore.access import Loa
from sigilcore.contracts import gatekeeper, license
from sigilcore.contracts.common import Empty
from sigilcore.records import audit
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


async def test_licence_lives_renewed_and_reissued(machine):
    """A bearer licence and a mentor's are renewed, sealed afresh, listed by state and ended; each answer says what is a bearer document."""
    client, root = machine.root.client, machine.root.signer
    for someone in (await machine.person("liv", Loa.OPERATOR), await machine.person("liv-mentor", Loa.MENTOR)):
        bearer = someone.signer is None
        asked = license.RenewLicense(license_id=someone.licence_id, expires_at="2035-06-01T00:00:00.000Z", id=ids.new())
        made = await owner.renew_license(client, asked, root)
        assert (made.bearer, made.renews) == (bearer, someone.licence_id)
        old, new = licence.parse(someone.toml).license, licence.parse(made.toml).license
        assert msgspec.structs.replace(new, id=old.id, issued_at=old.issued_at, expires_at=old.expires_at) == old
        if bearer:
            again = await client.call(license.RENEW, asked)
            assert (again.toml, again.seq) == (made.toml, made.seq)
        sealed = await someone.client.call(license.REISSUE, license.ReissueLicense(license=made.toml))
        assert (sealed.bearer, licence.parse(sealed.toml).license) == (bearer, new)
        await (await machine.client()).login(sealed.toml, owner=someone.signer)

        ended = await client.call(license.REVOKE, license.RevokeLicense(license_id=someone.licence_id))
        assert ended.bearer == bearer
        answers = [await validate(machine, toml) for toml in (someone.toml, made.toml)]
        assert [(answer.valid, answer.bearer) for answer in answers] == [(False, bearer), (True, bearer)]
        page = await client.call(license.LIST, license.ListLicenses(state="revoked", limit=500, wait_for=ended.seq))
        view = next(item for item in page.items if item.license_id == someone.licence_id)
        assert (view.bearer, view.revoked_seq, view.state) == (bearer, ended.seq, "revoked")
        assert made.license_id not in {item.license_id for item in page.items}
        with pytest.raises(Refused) as caught:
            await client.call(license.REISSUE, license.ReissueLicense(license=someone.toml))
        assert (caught.value.code, caught.value.detail["reasons"]) == (Code.LICENSE_INVALID, ["REVOKED"])
        with pytest.raises(Refused) as caught:
            await client.call(license.RENEW, msgspec.structs.replace(asked, id=ids.new()))
        assert caught.value.code is Code.LICENSE_REVOKED
    await machine.audit()


async def test_no_allow_after_a_revocation_in_the_log(machine):
    """Many calls are in flight while a licence ends: from the position of its end on the log holds no Allow for it, however they raced;
    and once the gate says that it has seen that position, the very next call is refused."""
    bob = await machine.person("bob-order", Loa.OBSERVER)
    stop = asyncio.Event()

    async def ask():
        while not stop.is_set():
            try:
                await bob.client.call(gatekeeper.PING, Empty())
            except Refused:
                return

    askers = [asyncio.create_task(ask()) for _ in range(8)]
    await bob.client.call(gatekeeper.PING, Empty())
    ended = await machine.root.client.call(license.REVOKE, license.RevokeLicense(license_id=bob.licence_id))
    async with asyncio.timeout(30):
        while (await machine.root.client.call(gatekeeper.SYSTEM_INFO, Empty())).size <= ended.seq:
            await asyncio.sleep(0)
    with pytest.raises(Refused) as caught:
        await bob.client.call(gatekeeper.PING, Empty())
    assert caught.value.detail["reasons"] == ["REVOKED"]
    stop.set()
    await asyncio.gather(*askers)
    verdicts = []
    for placed in await machine.audit():
        if b'"kind":"decision_batch"' in bytes(placed.header):
            batch = msgspec.json.decode(bytes(placed.payload), type=audit.DecisionBatch)
            verdicts += [
                (placed.seq > ended.seq, one.chain.verdict)
                for one in batch.decisions
                if one.chain.audit.licence == bob.licence_id
            ]
    assert (False, decision.Verdict.ALLOW) in verdicts
    assert (True, decision.Verdict.DENY) in verdicts
    assert (True, decision.Verdict.ALLOW) not in verdicts


async def test_bearer_document_is_kept_nowhere(machine):
    """Issued, renewed, sealed afresh, validated, presented at a login and mistyped into a call: its seal stands in no record, no file of
    Postgres, of the stream or of a view, and in no log."""
    bea = await machine.person("bea-bearer", Loa.OPERATOR)
    asked = license.RenewLicense(license_id=bea.licence_id, expires_at="2035-06-01T00:00:00.000Z")
    renewed = await machine.root.client.call(license.RENEW, asked)
    again = await bea.client.call(license.REISSUE, license.ReissueLicense(license=bea.toml))
    await validate(machine, renewed.toml)
    for toml in (renewed.toml, again.toml):
        await (await machine.client()).login(toml)
    with pytest.raises(Refused):
        await bea.client.call(license.REVOKE, license.RevokeLicense(license_id=bea.licence_id, reason=bea.toml[:500]))
    records = await machine.audit()
    ledger = b"".join(bytes(one.header) + bytes(one.payload) for one in records)
    files = dict(machines.contents(machine.data))
    assert any(path.is_relative_to(machine.data / "postgres") for path in files)
    for toml in (bea.toml, renewed.toml, again.toml):
        sig = licence.parse(toml).seal.sig
        for needle in (sig.encode(), base64.b64decode(sig), sig.encode().replace(b"/", b"\\/")):
            assert needle not in ledger
            assert [path for path, content in files.items() if needle in content] == []
