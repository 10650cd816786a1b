"""The license service: one Root, licences that the log knows, and an end to each."""

import contextlib
import os
import tomllib
from typing import Any
from unittest import mock

import hypothesis
import msgspec
import pytest
from hypothesis import strategies as st

from services.license import bootstrap, rules
from sigilcore import canonical, clock, drafts, ids, licence, note, record, signing
from sigilcore.access import Loa
from sigilcore.contracts import house
from sigilcore.contracts import license as wire
from sigilcore.governance import Governance
from sigilcore.refusals import Code, Refused
from sigilrun.settings_sections import DeploymentFile
from tests.simulator import DAY_MS, NOW_MS, House, Person

SMALL_ORDER = "01" + "00" * 31  # the neutral point: every signature by it is easily made
TOKEN = "correct horse"


@pytest.fixture
def world() -> House:
    """A house with Root's licence."""
    return House()


def refused(code: Code, field: str | None = None) -> Any:
    """Expect this refusal, at this field."""

    class Expect:
        def __enter__(self) -> Any:
            self.raises = pytest.raises(Refused)
            self.info = self.raises.__enter__()
            return self.info

        def __exit__(self, *error: object) -> Any:
            caught = self.raises.__exit__(*error)
            if caught:
                assert (self.info.value.code, self.info.value.field) == (code, field), str(self.info.value)
            return caught

    return Expect()


def asked(**changes: Any) -> wire.CreateLicense:
    """An ordinary request for an operator's licence."""
    fields: dict[str, Any] = {
        "owner_id": "ada",
        "owner_name": "Ada",
        "loa": Loa.OPERATOR,
        "expires_at": clock.format_ms(NOW_MS + 30 * DAY_MS),
    }
    return wire.CreateLicense(**(fields | changes))


def table(world: House, request: wire.CreateLicense) -> licence.LicenceTable:
    return rules.table(world.state, request, licence_id=rules.licence_id(request), now_ms=world.now_ms)


# Issuing


def test_an_operator_gets_everything_that_the_level_allows(world: House) -> None:
    """Without a scope the licence names all; the bindings are the log's, not the caller's."""
    made = table(world, asked())
    assert made.scope == ("*",)
    assert made.issued_at == clock.format_ms(NOW_MS)
    assert made.bindings == licence.Bindings(
        runtime_id=world.state.runtime_id, canon_fingerprint=world.state.genesis_hash
    )
    assert not made.key_bound


def test_an_empty_scope_stays_empty(world: House) -> None:
    """A licence that names nothing is not turned into one that names all."""
    assert table(world, asked(scope=())).scope == ()


def test_nobody_makes_a_second_root(world: House) -> None:
    """Not even with Root's own key and signature."""
    with refused(Code.ROOT_IS_SINGLE, "$.loa"):
        table(world, asked(loa=Loa.ROOT, owner_key=world.root.signer.public_key.hex()))


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"loa": Loa.MENTOR}, Code.BAD_INPUT, "$.owner_key"),
        ({"owner_key": SMALL_ORDER}, Code.WEAK_KEY, "$.owner_key"),
        ({"owner_key": "ff" * 32}, Code.WEAK_KEY, "$.owner_key"),
        ({"expires_at": clock.format_ms(NOW_MS)}, Code.BAD_INPUT, "$.expires_at"),
        ({"expires_at": clock.format_ms(NOW_MS - 1)}, Code.BAD_INPUT, "$.expires_at"),
        ({"expires_at": clock.format_ms(NOW_MS + rules.LONGEST_LIFE_MS + 1)}, Code.BAD_INPUT, "$.expires_at"),
        ({"expires_at": "2030-02-30T00:00:00.000Z"}, Code.BAD_INPUT, "$.expires_at"),
        ({"expires_at": "2030-01-01T00:00:00+00:00"}, Code.BAD_INPUT, "$.expires_at"),
        ({"issued_at": clock.format_ms(NOW_MS - rules.OLDEST_TABLE_MS - 1)}, Code.BAD_INPUT, "$.issued_at"),
        ({"issued_at": clock.format_ms(NOW_MS + 31 * DAY_MS)}, Code.BAD_INPUT, "$.expires_at"),
        ({"scope": ("memory/*", "mem*")}, Code.BAD_INPUT, "$.scope[1]"),
        ({"scope": ("*/write",)}, Code.BAD_INPUT, "$.scope[0]"),
        ({"id": "0" * 36}, Code.BAD_INPUT, "$.id"),
        ({"root_signature": signing.signature_text(bytes(64))}, Code.BAD_INPUT, "$.root_signature"),
    ],
)
def test_what_is_not_issued(world: House, changes: dict[str, Any], code: Code, field: str) -> None:
    """Each defect has a refusal of its own that names the field."""
    with refused(code, field):
        table(world, asked(**changes))


def test_a_licence_may_last_ten_years_to_the_millisecond(world: House) -> None:
    """The bound itself is allowed."""
    latest = clock.format_ms(NOW_MS + rules.LONGEST_LIFE_MS)
    assert table(world, asked(expires_at=latest)).expires_at == latest


def mentor(**changes: Any) -> wire.CreateLicense:
    key = signing.Ed25519Signer.generate().public_key.hex()
    return asked(**({"loa": Loa.MENTOR, "owner_id": "mia", "owner_name": "Mia", "owner_key": key} | changes))


def test_a_mentor_is_not_root(world: House) -> None:
    """Root's key and Root's name stay Root's, so that Root can't become its own witness."""
    with refused(Code.ROOT_IS_SINGLE, "$.owner_key"):
        table(world, mentor(owner_key=world.root.signer.public_key.hex()))
    with refused(Code.ROOT_IS_SINGLE, "$.owner_id"):
        table(world, mentor(owner_id="root"))


def test_a_key_has_one_name(world: House) -> None:
    """Whoever has a licence by one name gets none by another with the same key, so nobody is their own mentor."""
    ada = world.issue(Person("ada"), Loa.OPERATOR)
    key = ada.signer.public_key.hex()
    for loa in (Loa.OPERATOR, Loa.MENTOR):
        with refused(Code.WITNESS_TAKEN, "$.owner_key"):
            table(world, asked(loa=loa, owner_id="mia", owner_key=key))
        with refused(Code.WITNESS_TAKEN, "$.owner_key"):
            table(
                world, asked(loa=Loa.OPERATOR, owner_id="quorum", owner_key=world.services["quorum"].public_key.hex())
            )
    assert table(world, asked(owner_id="ada", owner_key=key)).owner.key == key


def test_a_mentor_licence_carries_roots_signature(world: House) -> None:
    """The refusal holds the very table to sign; repeated with its id, time and signature it is issued, and the log takes it."""
    request = mentor()
    with refused(Code.ROOT_SIGNATURE_NEEDED, "$.root_signature") as info:
        table(world, request)
    draft = msgspec.convert(info.value.detail["draft"], licence.LicenceTable)
    signature = licence.root_sign(draft, world.root.signer)
    again = msgspec.structs.replace(request, id=draft.id, issued_at=draft.issued_at, root_signature=signature)
    world.clock.advance(60_000)
    made = table(world, again)
    assert made == draft
    issue(world, made, root_signature=signature)
    assert world.state.licences[made.id].table == made


@pytest.mark.parametrize(
    "changes",
    [
        {"owner_name": "Mia M."},
        {"expires_at": clock.format_ms(NOW_MS + 31 * DAY_MS)},
        {"scope": ("memory/*",)},
        {"issued_at": clock.format_ms(NOW_MS - 1)},
        {"id": ids.new()},
    ],
)
def test_roots_signature_is_for_that_table_only(world: House, changes: dict[str, Any]) -> None:
    """A signature made for one mentor licence issues no other."""
    request = mentor(id=ids.new(), issued_at=clock.format_ms(NOW_MS))
    with refused(Code.ROOT_SIGNATURE_NEEDED, "$.root_signature") as info:
        table(world, request)
    draft = msgspec.convert(info.value.detail["draft"], licence.LicenceTable)
    signature = licence.root_sign(draft, world.root.signer)
    with refused(Code.SIGNATURE_INVALID, "$.root_signature"):
        table(world, msgspec.structs.replace(request, root_signature=signature, **changes))


def test_a_seal_is_no_root_signature(world: House) -> None:
    """The seal key signs the same bytes as another type of document, and a stolen one mints no mentor."""
    request = mentor(id=ids.new(), issued_at=clock.format_ms(NOW_MS))
    with refused(Code.ROOT_SIGNATURE_NEEDED, "$.root_signature") as info:
        table(world, request)
    draft = msgspec.convert(info.value.detail["draft"], licence.LicenceTable)
    for signer in (world.services["license"], world.root.signer):
        sealed = licence.seal(draft, signer).seal.sig
        with refused(Code.SIGNATURE_INVALID, "$.root_signature"):
            table(world, msgspec.structs.replace(request, root_signature=sealed))


def issue(world: House, made: licence.LicenceTable, root_signature: str | None = None) -> record.Checked:
    """Write what the service would write."""
    request, link = world._permission("license/create")
    payload = rules.issuance(
        made,
        seal_key_id=world.services["license"].key_id,
        root_signature=root_signature,
        request=request,
    )
    return world.append("license_issued", payload, world.instances["license"], links=[link])


def test_the_log_never_holds_a_seal(world: House) -> None:
    """A bearer document can't be put together from its record."""
    made = table(world, asked())
    sealed = licence.seal(made, world.services["license"])
    written = issue(world, made)
    assert sealed.seal.sig.encode() not in written.payload_bytes
    assert sealed.seal.content_hash == written.payload.content_hash
    found = licence.validate(licence.to_toml(sealed), world.state, world.now_ms)
    assert found.valid


def test_one_licence_has_one_issuing_record() -> None:
    """The record's id comes from the licence's, and is another."""
    name = ids.new()
    assert rules.issuance_id(name) == rules.issuance_id(name) != name
    assert ids.is_id(rules.issuance_id(name))


# Renewing and reissuing


def renewing(world: House, person: Person, **changes: Any) -> wire.RenewLicense:
    fields: dict[str, Any] = {
        "license_id": person.licence_id,
        "expires_at": clock.format_ms(world.now_ms + 60 * DAY_MS),
        "id": ids.new(),
    }
    return wire.RenewLicense(**(fields | changes))


def renewed(world: House, request: wire.RenewLicense) -> licence.LicenceTable:
    return rules.renewal(world.state, request, licence_id=rules.licence_id(request), now_ms=world.now_ms)


@pytest.mark.parametrize("loa", [Loa.GUEST, Loa.OBSERVER, Loa.OPERATOR])
@pytest.mark.parametrize("keyed", [True, False])
def test_a_renewal_changes_id_and_times_only(world: House, loa: Loa, keyed: bool) -> None:
    """Owner, level, scope and key are the log's, whatever is asked."""
    ada = world.issue(Person("ada", keyed=keyed), loa, scope=("memory/*",))
    world.clock.advance(DAY_MS)
    made, old = renewed(world, renewing(world, ada)), ada.table
    assert old is not None
    assert (made.owner, made.loa, made.scope, made.bindings) == (old.owner, old.loa, old.scope, old.bindings)
    assert made.id != old.id
    assert (made.issued_at, made.expires_at) == (
        clock.format_ms(world.now_ms),
        clock.format_ms(world.now_ms + 60 * DAY_MS),
    )


def test_an_expired_licence_may_be_renewed(world: House) -> None:
    """That is when people notice."""
    ada = world.issue(Person("ada"), Loa.OPERATOR, days=1)
    world.clock.advance(2 * DAY_MS)
    assert renewed(world, renewing(world, ada)).expires_at == clock.format_ms(world.now_ms + 60 * DAY_MS)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"expires_at": clock.format_ms(NOW_MS + 30 * DAY_MS)}, "$.expires_at"),
        ({"expires_at": clock.format_ms(NOW_MS + rules.LONGEST_LIFE_MS + 1)}, "$.expires_at"),
        ({"expires_at": "2030-02-30T00:00:00.000Z"}, "$.expires_at"),
        ({"issued_at": clock.format_ms(NOW_MS - rules.OLDEST_TABLE_MS - 1)}, "$.issued_at"),
        ({"id": "0" * 36}, "$.id"),
    ],
)
def test_what_is_no_renewal(world: House, change: dict[str, Any], field: str) -> None:
    """An end that isn't later, or too late; a time or an id that isn't one."""
    ada = world.issue(Person("ada"), Loa.OPERATOR)
    with refused(Code.BAD_INPUT, field):
        renewed(world, renewing(world, ada, **change))


def test_what_ended_is_not_renewed(world: House) -> None:
    """Revoked is for good, Root's stays as it is, and what was never issued is nothing."""
    ada = world.issue(Person("ada"), Loa.OPERATOR)
    world.revoke(ada)
    with refused(Code.LICENSE_REVOKED, "$.license_id"):
        renewed(world, renewing(world, ada))
    with refused(Code.ROOT_IS_SINGLE, "$.license_id"):
        renewed(world, renewing(world, world.root))
    with refused(Code.LICENSE_NOT_FOUND, "$.license_id"):
        renewed(world, renewing(world, ada, license_id=ids.new()))


def test_a_mentors_renewal_needs_root_again(world: House) -> None:
    """Root's signature under the old licence, or under another renewal, renews nothing."""
    mia = world.issue(Person("mia"), Loa.MENTOR)
    request = renewing(world, mia, issued_at=clock.format_ms(NOW_MS))
    with refused(Code.ROOT_SIGNATURE_NEEDED, "$.root_signature") as info:
        renewed(world, request)
    draft = msgspec.convert(info.value.detail["draft"], licence.LicenceTable)
    assert mia.table is not None
    for other in (mia.table, msgspec.structs.replace(draft, expires_at=clock.format_ms(NOW_MS + 61 * DAY_MS))):
        stale = licence.root_sign(other, world.root.signer)
        with refused(Code.SIGNATURE_INVALID, "$.root_signature"):
            renewed(world, msgspec.structs.replace(request, root_signature=stale))
    signature = licence.root_sign(draft, world.root.signer)
    assert renewed(world, msgspec.structs.replace(request, root_signature=signature)) == draft


def test_the_same_call_again_is_the_same_table_for_ever(world: House) -> None:
    """An answer that was lost can be heard again after every date has passed; a new call by then is refused."""
    request = asked(id=ids.new())
    made = table(world, request)
    issue(world, made)
    world.clock.advance(40 * DAY_MS)
    assert table(world, request) == made
    with refused(Code.BAD_INPUT, "$.expires_at"):
        table(world, msgspec.structs.replace(request, id=ids.new()))


def test_a_known_id_makes_no_root(world: House) -> None:
    """Level root is refused before anything is looked up."""
    with refused(Code.ROOT_IS_SINGLE, "$.loa"):
        table(world, asked(id=world.root.licence_id, loa=Loa.ROOT))


def test_a_reissue_is_the_same_content_under_the_key_of_now(world: House) -> None:
    """After a rotation both seals verify, over one content; nothing else of the document differs."""
    ada = world.issue(Person("ada", keyed=False), Loa.OPERATOR)
    old = licence.parse(ada.toml)
    world.rotate_service("license")
    found = licence.validate(ada.toml, world.state, world.now_ms)
    fresh = licence.seal(rules.reissued(world.state, found), world.services["license"])
    assert fresh.license == old.license
    assert fresh.seal.content_hash == old.seal.content_hash
    assert fresh.seal.key_id != old.seal.key_id
    for document in (old, fresh):
        assert licence.validate(licence.to_toml(document), world.state, world.now_ms).valid


def test_only_what_counts_is_reissued(world: House) -> None:
    """Revoked, expired, forged, altered, of another house, or no licence at all: each by its reason, and no seal is made."""
    ada, eve = world.issue(Person("ada"), Loa.OPERATOR), world.issue(Person("eve"), Loa.OPERATOR, days=1)
    stolen = licence.seal(
        msgspec.structs.replace(licence.parse(ada.toml).license, id=ids.new()), world.services["license"]
    )
    world.revoke(ada)
    world.clock.advance(2 * DAY_MS)
    for text, reason in (
        (ada.toml, licence.Reason.REVOKED),
        (eve.toml, licence.Reason.EXPIRED),
        (licence.to_toml(stolen), licence.Reason.NEVER_ISSUED),
        (eve.toml.replace("operator", "mentor"), licence.Reason.SEAL_BROKEN),
        (House().root.toml, licence.Reason.SEAL_KEY_UNKNOWN),
        ("", licence.Reason.UNREADABLE),
    ):
        with refused(Code.LICENSE_INVALID, "$.license") as info:
            rules.reissued(world.state, licence.validate(text, world.state, world.now_ms))
        assert info.value.detail == {"reasons": [reason]}


# Revoking, listing, validating


def page_of(world: House, *, cursor: str | None = None, limit: int, only: Any = None) -> wire.LicensePage:
    return rules.page(world.state, cursor=cursor, limit=limit, now_ms=world.now_ms, only=only)


def test_licences_are_listed_by_state(world: House) -> None:
    """Each licence is in one state now, revoked before expired; a cursor goes on within it."""
    people = {name: world.issue(Person(name, keyed=False), Loa.OBSERVER, days=days) for name, days in
              (("ada", 30), ("bob", 1), ("cyd", 1), ("dan", 30), ("eve", 30))}  # fmt: skip
    for name in ("cyd", "dan"):
        world.revoke(people[name])
    world.clock.advance(2 * DAY_MS)
    wanted = {"valid": ["root", "ada", "eve"], "expired": ["bob"], "revoked": ["cyd", "dan"], "not yet valid": []}
    for only, owners in wanted.items():
        found = page_of(world, limit=500, only=only).items
        assert [(item.owner_id, item.state) for item in found] == [(name, only) for name in owners]
    first = page_of(world, limit=1, only="revoked")
    assert [item.owner_id for item in page_of(world, cursor=first.cursor, limit=1, only="revoked").items] == ["dan"]
    assert {item.owner_id: item.bearer for item in page_of(world, limit=500).items} == {
        "root": False, **dict.fromkeys(people, True)
    }  # fmt: skip


def test_revoking_names_why_not(world: House) -> None:
    """Unknown, Root's own, and revoked already are three answers."""
    ada = world.issue(Person("ada"), Loa.OPERATOR)
    with refused(Code.LICENSE_NOT_FOUND, "$.license_id"):
        rules.check_revocable(world.state, ids.new())
    with refused(Code.ROOT_IS_SINGLE, "$.license_id"):
        rules.check_revocable(world.state, world.root.licence_id)
    assert rules.check_revocable(world.state, ada.licence_id).table == ada.table
    world.revoke(ada)
    with refused(Code.LICENSE_REVOKED, "$.license_id") as info:
        rules.check_revocable(world.state, ada.licence_id)
    assert info.value.detail == {"seq": world.state.licences[ada.licence_id].revoked_seq}


def test_pages_hold_every_licence_once(world: House) -> None:
    """Following the cursor shows all licences in order of issue, and ends."""
    people = [world.issue(Person(f"p{index}"), Loa.OBSERVER) for index in range(6)]
    seen, cursor, pages = [], None, 0
    while True:
        page = page_of(world, cursor=cursor, limit=3)
        seen += [item.license_id for item in page.items]
        pages += 1
        cursor = page.cursor
        if cursor is None:
            break
    assert seen == [world.root.licence_id, *(person.licence_id for person in people)]
    assert pages == 3


def test_a_full_last_page_ends() -> None:
    """No empty page follows a page that happens to be full."""
    world = House()
    world.issue(Person("ada"), Loa.OBSERVER)
    assert page_of(world, limit=2).cursor is None


@pytest.mark.parametrize("cursor", ["", "-1", "1_0", "٣", "1.0", "9" * 17])
def test_a_forged_cursor_is_bad_input(world: House, cursor: str) -> None:
    """A cursor is a decimal seq, nothing that int() would also take."""
    with refused(Code.BAD_INPUT, "$.cursor"):
        page_of(world, cursor=cursor, limit=2)


def test_a_list_shows_no_seal_and_no_key(world: House) -> None:
    """What is listed tells the level and the end, never what could be presented."""
    ada = world.issue(Person("ada"), Loa.OPERATOR)
    world.revoke(ada)
    item = page_of(world, limit=10).items[-1]
    assert (item.owner_id, item.loa, item.key_bound) == ("ada", Loa.OPERATOR, True)
    assert item.revoked_seq == world.state.licences[ada.licence_id].revoked_seq
    assert ada.signer.public_key.hex().encode() not in msgspec.json.encode(item)


def test_validation_tells_what_the_log_knows(world: House) -> None:
    """A valid licence is told whole; an expired or revoked one still says whose it was."""
    ada = world.issue(Person("ada", keyed=False), Loa.OPERATOR)
    good = told(world, ada.toml)
    assert (good.valid, good.reasons, good.loa, good.owner_id, good.bearer) == (True, (), Loa.OPERATOR, "ada", True)
    world.revoke(ada)
    ended = told(world, ada.toml)
    assert (ended.valid, ended.reasons, ended.owner_name) == (False, (licence.Reason.REVOKED,), "Ada")


def test_validation_repeats_no_claim_of_a_forgery(world: House) -> None:
    """A document that the log doesn't know is not echoed as if it said something."""
    ada = world.issue(Person("ada"), Loa.OPERATOR)
    document = licence.parse(ada.toml)
    thief = licence.seal(msgspec.structs.replace(document.license, loa=Loa.MENTOR), world.services["license"])
    for text, reason in (
        (licence.to_toml(thief), licence.Reason.NEVER_ISSUED),
        (ada.toml.replace("operator", "mentor"), licence.Reason.SEAL_BROKEN),
        ("not toml at all [", licence.Reason.UNREADABLE),
    ):
        answer = told(world, text)
        assert (answer.valid, answer.reasons) == (False, (reason,))
        assert answer.loa is None
        assert answer.owner_id is None


DEEP = ".".join(["a"] * 8_000)
HIDDEN = {
    "bare": f"{DEEP}=1",
    "quoted": ".".join(['"a"'] * 4_000) + "=1",
    "a table": f"[{DEEP}]",
    "in a table of one line": "k={" + DEEP + "=1}",
    "a quote in the other quotes": f"""'"'.{DEEP}.'"'=1""",
    "an escaped quote": r'k=["\"",{' + DEEP + r'=1},"\""]',
    "four quotes at the end": 'k=[""""a"""",{' + DEEP + '=1},"x"]',
    "a text of many lines": "k=['''\n\"''',{" + DEEP + "=1},'\"']",
    "a comment that opens a text": f"# '''\n{DEEP}=1\n# '''",
}
PIECES = ('"', "'", '"""', "'''", "\\", "\n", "#", "k=", "[", "]", "{", "}", ",", " ", "x", ".".join("a" * 70) + "=1")


@pytest.mark.parametrize("how", HIDDEN)
def test_a_name_of_thousands_of_parts(world: House, how: str) -> None:
    """The reader of TOML needs half a second for one, in sixteen kilobytes from a stranger who has no licence at all. It never sees it."""
    assert len(HIDDEN[how]) <= licence.MAX_TOML_BYTES
    with pytest.raises(ValueError, match="names of so many parts"):
        licence.parse(HIDDEN[how])
    assert told(world, HIDDEN[how]).reasons == (licence.Reason.UNREADABLE,)


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(st.lists(st.sampled_from(PIECES), max_size=16).map("".join))
def test_no_quotes_hide_a_long_name(text: str) -> None:
    """Whatever stands before it: the reader meets no name of more parts than a licence may have dots."""
    longest, reader = [0], tomllib._parser.parse_key

    def parse_key(src: str, pos: int) -> Any:
        found = reader(src, pos)
        longest.append(len(found[1]))
        return found

    with mock.patch.object(tomllib._parser, "parse_key", parse_key), contextlib.suppress(ValueError):
        licence.parse(text)
    assert max(longest) <= licence.MAX_DOTS + 1


def test_a_scope_full_of_dots_is_read(world: House) -> None:
    """What stands in texts and comments is nobody's name."""
    ada = world.issue(Person("ada", keyed=False), Loa.OPERATOR, scope=tuple(f"a.b.{number}/*" for number in range(64)))
    assert licence.parse(f"# {'.' * 500}\n{ada.toml}").license == ada.table


def told(world: House, text: str) -> wire.LicenseValidation:
    return rules.validation(licence.validate(text, world.state, world.now_ms))


# Bootstrap


class Founding:
    """A deployment before its Root."""

    def __init__(self) -> None:
        self.root = signing.Ed25519Signer.generate()
        self.services = {name: signing.Ed25519Signer.generate() for name in house.SERVICE_KEYS}
        writer = signing.Ed25519Signer.generate()
        self.deployment = DeploymentFile(
            runtime_id=ids.new(),
            tenant="default",
            services={name: signer.public_key.hex() for name, signer in self.services.items()},
            log=note.VerifierKey.of("sigil/x/default", note.ED25519, writer.public_key).format(),
        )
        self.hash = bootstrap.token_hash(TOKEN)

    def request(self, **changes: Any) -> wire.Bootstrap:
        fields: dict[str, Any] = {
            "token": TOKEN,
            "owner_id": "root",
            "owner_name": "Root",
            "root_key": self.root.public_key.hex(),
        }
        return wire.Bootstrap(**(fields | changes))

    def expected(self, request: wire.Bootstrap | None = None) -> Any:
        return bootstrap.genesis(request or self.request(), self.deployment, self.hash)

    def draft(self, **changes: Any) -> wire.Draft:
        payload = msgspec.structs.replace(self.expected(), **changes)
        return bootstrap.draft(payload, record_id=ids.new(), now_ms=NOW_MS, salt=os.urandom(16))

    def signed(self, draft: wire.Draft, signer: signing.Signer | None = None) -> wire.Bootstrap:
        sig = drafts.signed(draft, signer or self.root).sig
        return self.request(draft=draft, signature=sig)

    def accept(self, request: wire.Bootstrap, now_ms: int = NOW_MS) -> record.Checked:
        return bootstrap.accepted(request, self.expected(request), now_ms)


@pytest.fixture
def founding() -> Founding:
    """A deployment before its Root."""
    return Founding()


def test_the_draft_comes_back_signed_as_record_0(founding: Founding) -> None:
    """The writer's own check of genesis takes what step 2 accepts."""
    from sigilcore import admission

    checked = founding.accept(founding.signed(founding.draft()))
    admission.check_genesis(checked)
    assert checked.payload == founding.expected()


def test_another_token_begins_nothing(founding: Founding) -> None:
    """The refusal is the same for a near miss and for nonsense."""
    bootstrap.check_token(TOKEN, founding.hash)
    for token in ("correct hors", "x", "correct horse ", founding.hash):
        with refused(Code.BOOTSTRAP_REFUSED, "$.token"):
            bootstrap.check_token(token, founding.hash)


def test_a_weak_key_is_no_root(founding: Founding) -> None:
    """A key that anybody can sign with founds nothing."""
    with refused(Code.WEAK_KEY, "$.root_key"):
        founding.expected(founding.request(root_key=SMALL_ORDER))


def test_a_peers_name_is_no_root(founding: Founding) -> None:
    """No licence names a peer, so this Root would stay without one."""
    with refused(Code.BAD_INPUT, "$.owner_id"):
        founding.expected(founding.request(owner_id="peer:root"))


def test_a_services_key_is_no_root(founding: Founding) -> None:
    """One key has one role."""
    with refused(Code.BOOTSTRAP_REFUSED, "$.root_key"):
        founding.expected(founding.request(root_key=founding.deployment.services["license"]))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"runtime_id": ids.new()}, "$.draft.payload.runtime_id"),
        ({"log": "evil+00000000+AAAA"}, "$.draft.payload.log"),
        ({"bootstrap_token_hash": "0" * 64}, "$.draft.payload.bootstrap_token_hash"),
        ({"modules": ("evil",)}, "$.draft.payload.modules[0]"),
        ({"corpus_licences": ()}, "$.draft.payload.corpus_licences[0]"),
    ],
)
def test_a_changed_draft_is_refused_at_its_field(founding: Founding, changes: dict[str, Any], field: str) -> None:
    """Root's signature makes no field of the deployment another."""
    with refused(Code.RECORD_INVALID, field):
        founding.accept(founding.signed(founding.draft(**changes)))


def test_a_swapped_service_key_is_refused(founding: Founding) -> None:
    """Nobody slips a gate of their own into record 0."""
    evil = founding.deployment.services | {"gatekeeper": signing.Ed25519Signer.generate().public_key.hex()}
    with refused(Code.RECORD_INVALID, "$.draft.payload.services.gatekeeper"):
        founding.accept(founding.signed(founding.draft(services=evil)))


def test_another_owner_is_refused(founding: Founding) -> None:
    """The draft is for the owner and the key that began."""
    other = founding.signed(founding.draft())
    with refused(Code.RECORD_INVALID, "$.draft.payload.root.owner_id"):
        founding.accept(msgspec.structs.replace(other, owner_id="eve"))
    eve = signing.Ed25519Signer.generate()
    with refused(Code.RECORD_INVALID, "$.draft.payload.root.key"):
        founding.accept(msgspec.structs.replace(other, root_key=eve.public_key.hex()))


def test_somebody_elses_signature_is_refused(founding: Founding) -> None:
    """The named key signs, nobody in its place."""
    eve = signing.Ed25519Signer.generate()
    with pytest.raises(Refused) as info:
        founding.accept(founding.signed(founding.draft(), eve))
    assert info.value.code is Code.SIGNATURE_INVALID


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"tenant": "other"}, "$.draft.core.tenant"),
        ({"prev": "0" * 64}, "$.draft.core.prev"),
        ({"links": (record.Link(label="x", target="y"),)}, "$.draft.core.prev"),
        ({"ts": clock.format_ms(NOW_MS - bootstrap.OLDEST_DRAFT_MS - 1)}, "$.draft.core.ts"),
        ({"ts": clock.format_ms(NOW_MS + bootstrap.NEWEST_DRAFT_MS + 1)}, "$.draft.core.ts"),
        ({"payload_hash": "0" * 64}, "$.header.core.payload_hash"),
        ({"kind": "model_config"}, None),
    ],
)
def test_a_changed_core_is_refused(founding: Founding, changes: dict[str, Any], field: str | None) -> None:
    """Record 0 has no past, this tenant, and was drafted lately."""
    draft = founding.draft()
    core = msgspec.structs.replace(canonical.convert(draft.core.encode(), record.Core), **changes)
    changed = msgspec.structs.replace(draft, core=canonical.of(core).decode())
    with pytest.raises(Refused) as info:
        founding.accept(founding.signed(changed))
    assert info.value.code is Code.RECORD_INVALID
    assert field is None or info.value.field == field


@pytest.mark.parametrize("spoil", [lambda text: text + " ", lambda text: text.replace(":", ": ", 1), lambda _: "{}"])
def test_only_canonical_drafts_come_back(founding: Founding, spoil: Any) -> None:
    """The same value in other bytes is refused before anything is believed."""
    draft = founding.draft()
    for changed in (
        msgspec.structs.replace(draft, core=spoil(draft.core)),
        msgspec.structs.replace(draft, payload=spoil(draft.payload)),
    ):
        with pytest.raises(Refused) as info:
            founding.accept(founding.signed(changed))
        assert info.value.code is Code.RECORD_INVALID


def test_a_draft_without_its_signature_is_bad_input(founding: Founding) -> None:
    """Step 2 has both parts."""
    with refused(Code.BAD_INPUT, "$.signature"):
        founding.accept(founding.request(draft=founding.draft()))


def test_the_door_stays_closed_but_for_the_one_who_opened_it(founding: Founding) -> None:
    """After genesis the same token, owner and key hear their licence again; any difference is refused for ever."""
    state = Governance()
    state.apply(0, founding.accept(founding.signed(founding.draft())))
    bootstrap.check_resumes(founding.request(), state)
    eve = signing.Ed25519Signer.generate().public_key.hex()
    for other in ({"token": "x"}, {"root_key": eve}, {"owner_id": "eve"}, {"owner_name": "Eve"}):
        with refused(Code.ALREADY_BOOTSTRAPPED):
            bootstrap.check_resumes(founding.request(**other), state)


def after(first: record.Checked) -> Governance:
    """The state of a log that holds this record 0."""
    state = Governance()
    state.apply(0, first)
    return state


def test_roots_licence_is_the_same_however_often_it_is_made(founding: Founding) -> None:
    """All of it is derived from record 0, so a resumed bootstrap ends in the same document."""
    first = founding.accept(founding.signed(founding.draft()))
    made = bootstrap.root_table(after(first))
    assert made == bootstrap.root_table(after(first))
    assert (made.loa, made.owner.key) == (Loa.ROOT, founding.root.public_key.hex())
    assert made.bindings.canon_fingerprint == first.header.hash
    assert made.issued_at == first.core.ts
    signer = founding.services["license"]
    assert licence.to_toml(licence.seal(made, signer)) == licence.to_toml(licence.seal(made, signer))
    later = founding.accept(founding.signed(founding.draft()))
    assert bootstrap.root_table(after(later)).id != made.id


def test_the_writer_takes_roots_licence_after_genesis(founding: Founding) -> None:
    """Admission lets the derived licence in once, without a decision, and never a second one."""
    from sigilcore import admission
    from sigilcore.records import audit

    state = Governance()
    first = founding.accept(founding.signed(founding.draft()))
    state.apply(0, first)
    instance = signing.Ed25519Signer.generate()
    opened = audit.InstanceOpened(
        service="license", instance="1", key=instance.public_key.hex(), settings_digest="0" * 64
    )

    def place(seq: int, kind: str, payload: Any, signer: signing.Signer, links: Any = ()) -> None:
        checked = record.check(
            record.build(
                kind,
                payload,
                id=ids.new(),
                tenant="default",
                ts=clock.format_ms(NOW_MS),
                space="audit",
                signer=signer,
                salt=bytes(16),
                links=links,
                prev=state.chains.get(signer.key_id),
            )
        )
        admission.admit(state, checked, now_ms=NOW_MS)
        state.apply(seq, checked)

    place(1, "instance_opened", opened, founding.services["license"])
    payload = rules.issuance(
        bootstrap.root_table(state), seal_key_id=founding.services["license"].key_id, root_signature=None, request=None
    )
    link = record.Link(label="genesis", target=first.header.hash)
    place(2, "license_issued", payload, instance, [link])
    text = licence.to_toml(licence.seal(payload.license, founding.services["license"]))
    assert licence.validate(text, state, NOW_MS + 1).valid
    with refused(Code.ID_TAKEN, "$.payload.license.id"):
        place(3, "license_issued", payload, instance, [link])
