"""Which logs and how many of which witnesses make a checkpoint good (C2SP tlog-policy): the file, and its judgement.

Decides: which bytes are a policy, and whether a cosigned checkpoint satisfies one.

Invariants:

1. Names, and all octets above ASCII, are opaque: two names are one only if their octets are.
2. A name is defined once, before it is used; it is a member of at most one group, so that no witness counts twice.
3. No public key stands twice, whatever its name: one voice for one key. A log isn't its own witness either, which is stricter than the
   specification.
4. There is exactly one quorum. `none` is spelled out; a policy can't forget it.
5. What parses, formats to a file that parses to the same policy. `all` and `any` are spellings of a number.

    trusted = tlog_policy.parse(data)
    verdict = tlog_policy.judge(trusted, cosigned)
    assert verdict.satisfied, verdict.reason

Keys of types that this program can't verify are refused with their line, since ignoring one would change who is needed.
"""

import re
from collections.abc import Callable, Sequence
from typing import Self

import msgspec

from sigilcore import checkpoint, note, signing
from sigilcore.checkpoint import Checkpoint, Cosignature  # by name: fields below are called after the module

MAX_POLICY_BYTES = 1 << 18
MAX_DEFINITIONS = 256  # of logs, witnesses and groups each; the specification asks for 32
NONE = "none"
COSIGNERS = "cosigners"

_NOT_ALLOWED = re.compile(rb"[^\t\n\x20-\x7e\x80-\xff]")
_BLANK = re.compile(r"[ \t]+")
_COUNT = re.compile(r"[1-9][0-9]{0,3}")


class PolicyError(ValueError):
    """Not a policy; the message begins with the line's number where there is one."""


class Log(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A log whose checkpoints are good; its key's name is its origin."""

    key: note.VerifierKey
    url: str | None = None


class Witness(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A cosigner, by the name that groups use."""

    name: str
    key: note.VerifierKey
    url: str | None = None


class Group(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """It witnesses what at least `k` of its members do; members are witnesses or groups defined before."""

    name: str
    k: int
    members: tuple[str, ...]


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A policy that holds together; raises `PolicyError`. `quorum` is the name of a witness or group, None for no quorum."""

    logs: tuple[Log, ...]
    witnesses: tuple[Witness, ...]
    groups: tuple[Group, ...]
    quorum: str | None

    def __post_init__(self) -> None:
        book = _Book()
        for log in self.logs:
            book.log(log)
        for witness in self.witnesses:
            book.witness(witness)
        for group in self.groups:
            book.group(group)
        if self.quorum == NONE:
            raise PolicyError("no quorum is None, not a name")
        if self.quorum is not None:
            book.quorum(self.quorum)

    @classmethod
    def of_cosigners(
        cls, log_key: note.VerifierKey, cosigners: Sequence[tuple[note.VerifierKey, str | None]], c: int
    ) -> Self:
        """One log, and `c` of these cosigners (key and URL); no quorum if `c` is 0."""
        counts: dict[str, int] = {}
        witnesses = []
        for key, url in cosigners:
            counts[key.name] = counts.get(key.name, 0) + 1
            taken = counts[key.name] > 1 or key.name in {NONE, COSIGNERS}
            name = f"{key.name}#{key.key_id:08x}" if taken else key.name
            witnesses.append(Witness(name=name, key=key, url=url))
        groups = (Group(name=COSIGNERS, k=c, members=tuple(one.name for one in witnesses)),) if c else ()
        return cls(
            logs=(Log(key=log_key),),
            witnesses=tuple(witnesses),
            groups=groups,
            quorum=COSIGNERS if c else None,
        )

    def satisfied_by(self, keys: Sequence[note.VerifierKey]) -> bool:
        """Whether the cosignatures of these keys satisfy the quorum."""
        if self.quorum is None:
            return True
        witnessed = {one.name for one in self.witnesses if one.key in keys}
        for group in self.groups:  # each stands on those before it
            if sum(member in witnessed for member in group.members) >= group.k:
                witnessed.add(group.name)
        return self.quorum in witnessed


class Verdict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A checkpoint that a known log signed, who cosigned it, and whether that is enough."""

    log: note.VerifierKey
    checkpoint: Checkpoint
    cosignatures: tuple[Cosignature, ...]
    satisfied: bool
    reason: str


def parse(data: bytes) -> Policy:
    """Read a policy file; raises `PolicyError`."""
    if len(data) > MAX_POLICY_BYTES:
        raise PolicyError(f"a policy has at most {MAX_POLICY_BYTES} bytes")
    if (stray := _NOT_ALLOWED.search(data)) is not None:
        bad = data.count(b"\n", 0, stray.start()) + 1
        raise PolicyError(f"line {bad}: the octet {stray[0][0]:#04x} is not allowed")
    if not data.endswith(b"\n"):
        raise PolicyError("the last line doesn't end in a line feed")
    book = _Book()
    # Octets above ASCII stay what they are: this decoding is reversible for every one.
    for number, line in enumerate(data.decode("utf-8", "surrogateescape")[:-1].split("\n"), 1):
        items = [item for item in _BLANK.split(line) if item]
        if not items or items[0].startswith("#"):
            continue
        try:
            _LINES.get(items[0], _unknown)(book, items)
        except (PolicyError, note.NoteError) as error:
            raise PolicyError(f"line {number}: {error}") from None
    return book.policy()


def format(policy: Policy) -> bytes:  # noqa: A001 - the pair of `parse`; called as tlog_policy.format
    """The policy's file."""
    lines = [_join("log", log.key.format(), log.url) for log in policy.logs]
    lines += [_join("witness", one.name, one.key.format(), one.url) for one in policy.witnesses]
    lines += [_join("group", one.name, _count(one), *one.members) for one in policy.groups]
    lines.append(_join("quorum", NONE if policy.quorum is None else policy.quorum))
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")


def judge(policy: Policy, data: bytes, logs: Sequence[note.VerifierKey] = ()) -> Verdict:
    """Judge a checkpoint's note by the policy; `logs` are those of the context, for a policy that names none.

    Raises `note.NoteError` for bytes that are no checkpoint, `note.SignatureError` when no known log signed them or a line by a known
    key is bad: such a note is malformed, whatever else signed it.
    """
    signed = note.parse(data)
    read = checkpoint.parse_text(signed.text)
    known = [log.key for log in policy.logs] or list(logs)
    keys = [key for key in known if key.name == read.origin and key.type == note.ED25519]
    if not keys:
        raise note.SignatureError(f"the policy knows no log {read.origin}")
    log_key = note.verify(signed, keys)[0]
    made = checkpoint.cosignatures(signed, [one.key for one in policy.witnesses])
    satisfied = policy.satisfied_by([one.key for one in made])
    names = ", ".join(f"{one.key.name} at {one.timestamp}" for one in made) or "nobody"
    wanted = (
        "no quorum is asked for"
        if policy.quorum is None
        else f"the quorum {policy.quorum} is{'' if satisfied else ' not'} met"
    )
    return Verdict(
        log=log_key,
        checkpoint=read,
        cosignatures=tuple(made),
        satisfied=satisfied,
        reason=f"cosigned by {names}; {wanted}",
    )


class _Book:
    """What is defined so far; every definition is held against it."""

    def __init__(self) -> None:
        self._logs: list[Log] = []
        self._witnesses: list[Witness] = []
        self._groups: list[Group] = []
        self._quorum: str | None = None
        self._judged = False
        self._names: set[str] = set()
        self._members: set[str] = set()
        self._keys: set[bytes] = set()

    def log(self, log: Log) -> None:
        if log.key.type != note.ED25519:
            raise PolicyError(f"{_shown(log.key.name)} is no key that a log signs with")
        self._key(log.key)
        _check_url(log.url)
        self._add(self._logs, log)

    def witness(self, witness: Witness) -> None:
        if witness.key.type != note.COSIGNATURE:
            raise PolicyError(f"{_shown(witness.key.name)} is no cosigner's key")
        self._define(witness.name)
        self._key(witness.key)
        _check_url(witness.url)
        self._add(self._witnesses, witness)

    def group(self, group: Group) -> None:
        if not 1 <= group.k <= len(group.members):
            raise PolicyError(f"{group.k} of {len(group.members)} members")
        for member in group.members:
            if member not in self._names:
                raise PolicyError(f"{_shown(member)} is not defined before")
            if member in self._members:
                raise PolicyError(f"{_shown(member)} is a member already")
            self._members.add(member)
        self._define(group.name)
        self._add(self._groups, group)

    def quorum(self, name: str) -> None:
        if self._judged:
            raise PolicyError("a second quorum")
        if name != NONE and name not in self._names:
            raise PolicyError(f"{_shown(name)} is not defined before")
        self._judged = True
        self._quorum = None if name == NONE else name

    def policy(self) -> Policy:
        if not self._judged:
            raise PolicyError("no quorum line")
        return Policy(
            logs=tuple(self._logs),
            witnesses=tuple(self._witnesses),
            groups=tuple(self._groups),
            quorum=self._quorum,
        )

    def _define(self, name: str) -> None:
        if not name or _BLANK.search(name) or "\n" in name or name.startswith("#"):
            raise PolicyError(f"not a name: {_shown(name)}")
        _check_octets(name)
        if name == NONE:
            raise PolicyError(f"{NONE} is no name")
        if name in self._names:
            raise PolicyError(f"{_shown(name)} is defined twice")
        self._names.add(name)

    def _key(self, key: note.VerifierKey) -> None:
        _check_octets(key.name)
        try:
            signing.check_public_key(key.public_key)
        except signing.WeakKey as error:
            raise PolicyError(f"{_shown(key.name)}: {error}") from None
        if key.public_key in self._keys:
            raise PolicyError(f"{_shown(key.name)}: this public key stands twice")
        self._keys.add(key.public_key)

    @staticmethod
    def _add(defined: "list[Log] | list[Witness] | list[Group]", one: "Log | Witness | Group") -> None:
        if len(defined) == MAX_DEFINITIONS:
            raise PolicyError(f"more than {MAX_DEFINITIONS} of a kind")
        defined.append(one)  # type: ignore[arg-type]


def _log(book: _Book, items: list[str]) -> None:
    _, vkey, *url = _shaped(items, 2, 3)
    book.log(Log(key=_vkey(vkey), url=url[0] if url else None))


def _witness(book: _Book, items: list[str]) -> None:
    _, name, vkey, *url = _shaped(items, 3, 4)
    book.witness(Witness(name=name, key=_vkey(vkey), url=url[0] if url else None))


def _group(book: _Book, items: list[str]) -> None:
    _, name, count, *members = _shaped(items, 4, None)
    if count not in {"all", "any"} and not _COUNT.fullmatch(count):
        raise PolicyError(f"neither all, any nor a number: {_shown(count)}")
    k = {"all": len(members), "any": 1}.get(count) or int(count)
    book.group(Group(name=name, k=k, members=tuple(members)))


def _quorum(book: _Book, items: list[str]) -> None:
    _, name = _shaped(items, 2, 2)
    book.quorum(name)


def _unknown(_: _Book, items: list[str]) -> None:
    raise PolicyError(f"not a definition: {_shown(items[0])}")


_LINES: dict[str, Callable[[_Book, list[str]], None]] = {
    "log": _log,
    "witness": _witness,
    "group": _group,
    "quorum": _quorum,
}


def _shaped(items: list[str], least: int, most: int | None) -> list[str]:
    if len(items) < least or (most is not None and len(items) > most):
        raise PolicyError(f"{items[0]} takes other words")
    return items


def _vkey(text: str) -> note.VerifierKey:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PolicyError("a verifier key is UTF-8") from None
    return note.VerifierKey.parse(text)


def _check_url(url: str | None) -> None:
    if url is not None and (not url or _BLANK.search(url) or "\n" in url):
        raise PolicyError(f"not a URL: {_shown(url)}")
    if url is not None:
        _check_octets(url)


def _check_octets(text: str) -> None:
    try:
        octets = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise PolicyError("not octets") from None
    # A text that another one's octets decode to would not come back from its own file.
    if _NOT_ALLOWED.search(octets) or octets.decode("utf-8", "surrogateescape") != text:
        raise PolicyError(f"octets that are not allowed: {_shown(text)}")


def _count(group: Group) -> str:
    if group.k == len(group.members):
        return "all"
    return "any" if group.k == 1 else str(group.k)


def _join(*items: str | None) -> str:
    return " ".join(item for item in items if item is not None)


def _shown(text: str) -> str:
    return ascii(text[:80])
