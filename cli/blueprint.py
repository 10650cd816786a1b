"""`sigil init --from FILE`: what the file may say, and what of it contradicts itself or the log.

    [root]      key, and if wanted owner_id, owner_name, licence, passphrase
    [quorum]    k, and if wanted c, proposal_ttl_s; [quorum.kinds] KIND = K; [[quorum.cosigner]] vkey, url
    [[mentor]]  id, name, key, licence, expires_at, and if wanted voice (the witness's key file; by default `key`), passphrase
    [[licence]] id, name, loa, expires_at, out, and if wanted scope, and key (a key file, made if need be) or public_key (hex)
    [model]     a trust model          [policy]   an access policy

Paths are of the file's own folder. Everything here is pure: the file is checked whole before anything is asked or made, and a log that
says otherwise than the file is refused by the field's name, before anything is changed. What the log holds is never changed to fit.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

from cli.refusal import Refusal
from sigilcore import clock, governance, ids, trust
from sigilcore.access import Loa
from sigilcore.contracts import license as licensing
from sigilcore.policy import AccessPolicy
from sigilcore.record_types import Name, PublicKey
from sigilcore.records import REGISTRY, system

MAX_BYTES: Final = 256 * 1024
Title = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
File = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the file's tables."""


class Root(_Table, frozen=True, kw_only=True):
    """Who founds the house; the key is made if the file isn't there."""

    key: File
    owner_id: Name = "root"
    owner_name: Title = "Root"
    licence: File | None = None
    passphrase: str | None = None


class Quorum(_Table, frozen=True, kw_only=True):
    """The quorum policy that seals the house."""

    k: Annotated[int, msgspec.Meta(ge=1, le=32)]
    c: Annotated[int, msgspec.Meta(ge=0, le=32)] = 0
    proposal_ttl_s: Annotated[int, msgspec.Meta(ge=60, le=2_592_000)] = 86_400
    kinds: dict[str, Annotated[int, msgspec.Meta(ge=1, le=32)]] = {}
    cosigner: tuple[system.Cosigner, ...] = ()


class Mentor(_Table, frozen=True, kw_only=True):
    """A mentor who becomes a witness."""

    id: Name
    name: Title
    key: File
    licence: File
    expires_at: str
    voice: File | None = None
    passphrase: str | None = None

    @property
    def voice_file(self) -> str:
        """The witness's key."""
        return self.voice or self.key


class Licence(_Table, frozen=True, kw_only=True):
    """A licence to issue."""

    id: Name
    name: Title
    loa: Loa
    expires_at: str
    out: File
    scope: tuple[str, ...] | None = None
    key: File | None = None
    public_key: PublicKey | None = None
    passphrase: str | None = None


class Blueprint(_Table, frozen=True, kw_only=True):
    """The whole file."""

    root: Root
    quorum: Quorum
    mentor: Annotated[tuple[Mentor, ...], msgspec.Meta(min_length=1, max_length=32)]
    licence: Annotated[tuple[Licence, ...], msgspec.Meta(max_length=1000)] = ()
    model: trust.TrustModel | None = None
    policy: AccessPolicy | None = None

    def quorum_payload(self) -> dict[str, Any]:
        """The quorum policy, as a record holds it, but for its `expires_at`."""
        asked = self.quorum
        cosigners = [_plain(one) for one in asked.cosigner]
        return {
            "k": asked.k,
            "kinds": dict(asked.kinds),
            "proposal_ttl_s": asked.proposal_ttl_s,
            "checkpoint_witnesses": {"c": asked.c, "cosigners": cosigners},
            "persona_cap": 0,
        }

    def issued(self) -> Iterator[tuple[str, Mentor | Licence, Loa, str]]:
        """Every licence that is to be: field, entry, level, and where its document goes."""
        for index, mentor in enumerate(self.mentor):
            yield f"$.mentor[{index}]", mentor, Loa.MENTOR, mentor.licence
        for index, one in enumerate(self.licence):
            yield f"$.licence[{index}]", one, one.loa, one.out


class BadBlueprint(Refusal):
    """The file itself can't be what is meant."""

    code = "BAD_BLUEPRINT"

    def __init__(self, field: str, message: str) -> None:
        """Nothing was made or asked."""
        super().__init__(message, "Correct the file; nothing was done.", field=field)


class Contradiction(Refusal):
    """The file says one thing and the log another. The log is never changed to fit."""

    code = "CONTRADICTION"

    def __init__(self, field: str, says: object, has: object) -> None:
        """`says` is the file's, `has` the log's."""
        message = f"the file says {says}, the log {has}"
        super().__init__(
            message, "Make the file say what is, or change the house by a proposal of its own.", field=field
        )


# The file alone


def read(path: Path) -> Blueprint:
    """The file, strictly read and free of contradictions of its own. Raises `BadBlueprint`, OSError."""
    data = path.read_bytes()
    if len(data) > MAX_BYTES:
        raise BadBlueprint("$", f"{path} has more than {MAX_BYTES} bytes")
    try:
        found = msgspec.toml.decode(data, type=Blueprint, strict=True)
    except msgspec.ValidationError as error:
        message, _, where = str(error).rpartition(" - at `")
        raise BadBlueprint(where.rstrip("`") if message else "$", message or str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadBlueprint("$", f"{path} is no TOML: {error}") from error
    check(found)
    return found


def check(found: Blueprint) -> None:
    """The first thing in the file that can't be, down the page."""
    _check_quorum(found.quorum, len(found.mentor))
    seen = {found.root.owner_id}
    for index, mentor in enumerate(found.mentor):
        if mentor.id in seen:
            raise BadBlueprint(f"$.mentor[{index}].id", f"{mentor.id} stands here twice; Root is no mentor")
        seen.add(mentor.id)
    for index, one in enumerate(found.licence):
        _check_licence(f"$.licence[{index}]", one)
    _check_once(((field, (entry.id, loa)) for field, entry, loa, _ in found.issued()), "id", "this owner and level")
    outs = ((field, out) for field, _, _, out in found.issued())
    first = [("$.root", found.root.licence)] if found.root.licence else []
    _check_once((*first, *outs), "out", "this file")
    _check_once(_keys(found), "key", "this key file")
    for field, entry, _, _ in found.issued():
        try:
            clock.parse_ms(moment(entry.expires_at))
        except ValueError as error:
            raise BadBlueprint(f"{field}.expires_at", "a day, or RFC 3339 in UTC with milliseconds") from error


def moment(text: str) -> str:
    """A day as its first moment; anything else as it was given."""
    return f"{text}T00:00:00.000Z" if len(text) == len("2030-01-01") else text


def _keys(found: Blueprint) -> Iterator[tuple[str, str]]:
    yield "$.root", found.root.key
    for index, mentor in enumerate(found.mentor):
        for name in dict.fromkeys((mentor.key, mentor.voice_file)):
            yield f"$.mentor[{index}]", name


def _check_once(named: Iterable[tuple[str, object]], last: str, what: str) -> None:
    seen: dict[object, str] = {}
    for field, value in named:
        if value in seen:
            raise BadBlueprint(f"{field}.{last}", f"{what} is {seen[value]}'s already")
        seen[value] = field


def _check_quorum(asked: Quorum, count: int) -> None:
    for field, k in (("$.quorum.k", asked.k), *((f"$.quorum.kinds.{kind}", k) for kind, k in asked.kinds.items())):
        if not asked.k <= k <= count or 2 * k <= count:
            raise BadBlueprint(field, f"{k} of {count} mentors is no quorum: more than half, and at most all")
    for kind in asked.kinds:
        if kind not in REGISTRY or REGISTRY[kind].space != "system":
            raise BadBlueprint(f"$.quorum.kinds.{kind}", f"{kind} is no system kind")
    if asked.c > len(asked.cosigner):
        raise BadBlueprint("$.quorum.c", f"{asked.c} of {len(asked.cosigner)} cosigners")


def _check_licence(field: str, one: Licence) -> None:
    if one.loa in {Loa.ROOT, Loa.MENTOR}:
        raise BadBlueprint(f"{field}.loa", "Root comes from [root], mentors from [[mentor]]")
    if one.key is not None and one.public_key is not None:
        raise BadBlueprint(f"{field}.public_key", "either a key file or a public key")


# The file and the log


def licence_id(runtime_id: str, owner_id: str, loa: Loa) -> str:
    """One id for one owner and level of one deployment, so that what broke off is found again."""
    return ids.derive(runtime_id, f"init/{loa}/{owner_id}")


def against(
    asked: Blueprint,
    state: governance.Governance,
    licences: Mapping[str, licensing.LicenseView],
    keys: Mapping[str, str | None],
) -> None:
    """Raise the first `Contradiction` of file and log, down the page. `licences` by id; `keys` by file: the public key, or None for a file
    that isn't there."""
    _against_root(asked.root, state, keys)
    if state.quorum is not None:
        _same("$.quorum", asked.quorum_payload(), _plain(state.quorum))
    for index, mentor in enumerate(asked.mentor):
        _against_witness(f"$.mentor[{index}]", mentor, state, keys)
    more = sorted(state.active_witnesses().keys() - {mentor.id for mentor in asked.mentor})
    if more:
        raise Contradiction("$.mentor", f"{len(asked.mentor)} witnesses", f"{', '.join(more)} too")
    for field, entry, loa, _ in asked.issued():
        view = licences.get(licence_id(state.runtime_id, entry.id, loa))
        if view is not None:
            _against_licence(field, entry, view, keys)
    if asked.model is not None and state.model_seq > 0:
        _same("$.model", _plain(asked.model), _plain(state.model))
    if asked.policy is not None and state.policy_seq > 0:
        _same("$.policy", _plain(asked.policy), _plain(state.policy))


def _against_root(root: Root, state: governance.Governance, keys: Mapping[str, str | None]) -> None:
    for name, says, has in (
        ("owner_id", root.owner_id, state.root.owner_id),
        ("owner_name", root.owner_name, state.root.name),
        ("key", keys[root.key], state.root.key),
    ):
        if says != has:
            raise Contradiction(f"$.root.{name}", says, has)


def _against_witness(field: str, mentor: Mentor, state: governance.Governance, keys: Mapping[str, str | None]) -> None:
    entry = state.witnesses.get(mentor.id)
    if entry is None:
        return
    if entry.until_seq is not None:
        raise Contradiction(f"{field}.id", f"{mentor.id} is a witness", f"ended its voice at seq {entry.until_seq}")
    key = keys[mentor.voice_file]
    if key != entry.key.hex():
        says = "a key file that isn't there" if key is None else key
        raise Contradiction(f"{field}.{'key' if mentor.voice is None else 'voice'}", says, entry.key.hex())
    if mentor.name != entry.name:
        raise Contradiction(f"{field}.name", mentor.name, entry.name)


def _against_licence(
    field: str, entry: Mentor | Licence, view: licensing.LicenseView, keys: Mapping[str, str | None]
) -> None:
    if view.revoked_seq is not None:
        raise Contradiction(f"{field}.id", f"{entry.id} holds this licence", f"revoked it at seq {view.revoked_seq}")
    bound = entry.key is not None or (isinstance(entry, Licence) and entry.public_key is not None)
    scope = ("*",) if isinstance(entry, Mentor) or entry.scope is None else entry.scope
    for name, says, has in (
        ("name", entry.name, view.owner_name),
        ("expires_at", moment(entry.expires_at), view.expires_at),
        ("scope", list(scope), list(view.scope)),
        ("key", "bound to a key" if bound else "bearer", "bound to a key" if view.key_bound else "bearer"),
    ):
        if says != has:
            raise Contradiction(f"{field}.{name}", says, has)
    if entry.key is not None and keys[entry.key] is None:
        raise Contradiction(f"{field}.key", "a key file that isn't there", "bound the licence to its key")


def _plain(value: msgspec.Struct | None) -> Any:
    """As JSON has it: lists, whatever they are here."""
    return msgspec.json.decode(msgspec.json.encode(value))


def _same(field: str, says: Mapping[str, Any], has: Mapping[str, Any]) -> None:
    """Refuse the first difference in what the file says; what only a record has (`expires_at`) is not the file's."""
    for name, value in says.items():
        if value == has[name]:
            continue
        if isinstance(value, dict) and isinstance(has[name], dict) and value.keys() <= has[name].keys():
            _same(f"{field}.{_NAMES.get(name, name)}".rstrip("."), value, has[name])
        raise Contradiction(f"{field}.{_NAMES.get(name, name)}".rstrip("."), value, has[name])


# The file's own names for what a record calls otherwise; cosigning stands in [quorum] itself.
_NAMES: Final = {"checkpoint_witnesses": "", "cosigners": "cosigner"}
