"""`sigil init --from FILE`: a whole house set up, from its bootstrap to its first licences, and again from wherever it broke off.

Each step looks first at what the log holds, and does what is missing; so a run that was killed anywhere is finished by the next one, and a
run on a finished house changes nothing. What the file says otherwise than the log is refused before anything is changed (`blueprint`).

- Private keys are made and used here only: Root's, and each mentor's as a witness. The server sees public keys and signatures.
- A licence has one id for its owner and level (`blueprint.licence_id`): one that was issued and whose document never arrived is asked for
  again by the very same call, and answered with the very same document.
- A proposal that was left open with exactly the asked change is gone on with.
"""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from cli import blueprint, governed, owner
from cli.blueprint import Blueprint, Contradiction, Licence, Mentor
from sigilcore import canonical, ids, licence, records, signing
from sigilcore.access import Loa
from sigilcore.contracts import canon, common, house, quorum
from sigilcore.contracts import license as licensing
from sigilcore.refusals import Code, Refused
from sigilrun import http, keys, private_files, settings

T = TypeVar("T")
Tell = Callable[[str], None]

PATIENCE_S: Final = 30.0
# Refusals by a part of the house that hasn't seen yet what another part answered a moment ago.
BEHIND: Final = frozenset({Code.NOT_BOOTSTRAPPED, Code.NOT_YET, Code.UNAVAILABLE, Code.BUSY})


class Secrets:
    """Passphrases by where they come from; each source is read once, for a descriptor gives its bytes once."""

    def __init__(self, base: Path, default: str) -> None:
        """`default` is the verb's; paths in the file's own sources are of the file's folder."""
        self._base = base
        self._default = default
        self._held: dict[str, bytes] = {}

    def of(self, given: str | None, *, confirm: bool = False) -> bytes:
        """The passphrase for a key; for a new one (`confirm`) a prompt asks twice, unless what it was told has opened another already."""
        source = self._default if given is None else given
        if given is not None and given.startswith("file:"):
            source = f"file:{self._base / given.removeprefix('file:')}"
        if source not in self._held:
            self._held[source] = keys.passphrase_from(source, confirm=confirm)
        return self._held[source]


class Builder:
    """One run over one file."""

    def __init__(self, client: http.Client, asked: Blueprint, base: Path, secrets: Secrets, tell: Tell) -> None:
        """Nothing is made or asked yet; `tell` hears each thing that was done."""
        self.client = client
        self.asked = asked
        self.base = base
        self.done: list[str] = []
        self.toml = ""
        self._secrets = secrets
        self._tell = tell
        self._signers: dict[str, keys.SealedSigner] = {}
        self._issued: dict[str, licensing.LicenseView] = {}  # before this run

    async def run(self, token: Callable[[], str], deployed: settings.DeploymentFile | None) -> http.Session:
        """All of it; what was done is in `done`."""
        opened = await self._enter(token, deployed)
        state = await governed.state(self.client)
        self._issued = await self._licences()
        blueprint.against(self.asked, state, self._issued, self._publics())
        self._make_keys()
        for field, entry, loa, out in self.asked.issued():
            if loa is Loa.MENTOR:
                await self._issue(field, entry, loa, out)
        for index, mentor in enumerate(self.asked.mentor):
            await self._appoint(index, mentor)
        await self._govern()
        for field, entry, loa, out in self.asked.issued():
            if loa is not Loa.MENTOR:
                await self._issue(field, entry, loa, out)
        return opened

    # Root

    async def _enter(self, token: Callable[[], str], deployed: settings.DeploymentFile | None) -> http.Session:
        """Found the canon if nobody has, and open Root's session. Every part may be repeated."""
        root = self.asked.root
        status = await self.client.call(canon.CHECKPOINT, common.Empty())
        if status.bootstrapped and not self._path(root.key).exists():
            raise Contradiction("$.root.key", "a key file that isn't there", "a Root already")
        if self._make_key(root.key, root.passphrase):
            self._told(f"made {root.key}: keep it and its passphrase; nobody can recover them")
        signer = self._signer(root.key, root.passphrase)
        self.toml = self._kept_licence(signer) or await self._bootstrap(signer, token, deployed)
        return await self._patiently(lambda: self.client.login(self.toml, owner=signer))

    def _kept_licence(self, signer: signing.Signer) -> str | None:
        """Root's licence, where an earlier run left it."""
        out = self.asked.root.licence
        if out is None or not self._path(out).exists():
            return None
        toml = self._document("$.root.licence", out)
        if licence.parse(toml).license.owner.key != signer.public_key.hex():
            raise Contradiction("$.root.licence", f"{out} is Root's licence", "another owner in it")
        return toml

    async def _bootstrap(
        self, signer: signing.Signer, token: Callable[[], str], deployed: settings.DeploymentFile | None
    ) -> str:
        root = self.asked.root
        status = await self.client.call(canon.CHECKPOINT, common.Empty())
        try:
            done = await owner.bootstrap(
                self.client,
                signer,
                token=token(),
                owner_id=root.owner_id,
                owner_name=root.owner_name,
                deployed=deployed,
            )
        except Refused as refused:
            if refused.code is not Code.ALREADY_BOOTSTRAPPED:
                raise
            says = f"{root.owner_id} ({root.owner_name}) with the key {signer.key_id}"
            raise Contradiction("$.root", says, "another Root, or another token") from refused
        assert done.toml is not None
        if not status.bootstrapped:
            self._told(f"founded the canon: genesis {done.genesis_hash}")
        if root.licence is not None:
            private_files.write_new(self._path(root.licence), done.toml.encode())
            self._told(f"wrote {root.licence}")
        return done.toml

    # Licences

    async def _licences(self) -> dict[str, licensing.LicenseView]:
        found: dict[str, licensing.LicenseView] = {}
        cursor: str | None = None
        while True:
            asked = licensing.ListLicenses(cursor=cursor, limit=500)
            page = await self._patiently(lambda asked=asked: self.client.call(licensing.LIST, asked))  # type: ignore[misc]
            found |= {view.license_id: view for view in page.items}
            if (cursor := page.cursor) is None:
                return found

    async def _issue(self, field: str, entry: Mentor | Licence, loa: Loa, out: str) -> None:
        """A licence, and its document where it belongs."""
        asked = self._request(entry, loa)
        assert asked.id is not None
        view = self._issued.get(asked.id)
        if self._path(out).exists():
            self._check_document(field, out, asked, view)
            return
        signer = self._signer(self.asked.root.key, self.asked.root.passphrase)
        try:
            if view is None:
                made = await self._patiently(lambda: owner.create_license(self.client, asked, signer))
            else:
                again = self._again(asked, view, signer)
                made = await self._patiently(lambda: self.client.call(licensing.CREATE, again))
        except Refused as refused:
            if refused.code is not Code.ID_TAKEN:
                raise
            raise Contradiction(f"{field}.key", "another key than it was issued with", "this licence") from refused
        private_files.write_new(self._path(out), made.toml.encode())
        bearer = "; a bearer document: whoever holds it is its owner" if made.bearer else ""
        self._told(f"{'issued' if view is None else 'wrote again'} {entry.id}'s {loa} licence to {out}{bearer}")

    def _request(self, entry: Mentor | Licence, loa: Loa) -> licensing.CreateLicense:
        """The one call that issues it, the same in every run."""
        opened = self.client.session
        assert opened is not None
        return licensing.CreateLicense(
            owner_id=entry.id,
            owner_name=entry.name,
            loa=loa,
            expires_at=blueprint.moment(entry.expires_at),
            owner_key=self._public(entry),
            scope=None if isinstance(entry, Mentor) else entry.scope,
            id=blueprint.licence_id(opened.runtime_id, entry.id, loa),
        )

    def _again(
        self, asked: licensing.CreateLicense, view: licensing.LicenseView, root: signing.Signer
    ) -> licensing.CreateLicense:
        """The very call that issued it: for a mentor with Root's signature, which is the same each time."""
        if asked.loa is not Loa.MENTOR:
            return asked
        opened = self.client.session
        assert opened is not None
        assert asked.id is not None
        table = licence.LicenceTable(
            id=asked.id,
            owner=licence.Owner(id=asked.owner_id, name=asked.owner_name, key=asked.owner_key),
            loa=asked.loa,
            scope=("*",),
            issued_at=view.issued_at,
            expires_at=asked.expires_at,
            issuer=house.origin(opened.runtime_id, licence.parse(self.toml).license.issuer.rpartition("/")[2]),
            version=1,
            bindings=licence.Bindings(runtime_id=opened.runtime_id, canon_fingerprint=opened.genesis_hash),
        )
        return msgspec.structs.replace(asked, issued_at=table.issued_at, root_signature=licence.root_sign(table, root))

    def _check_document(
        self, field: str, out: str, asked: licensing.CreateLicense, view: licensing.LicenseView | None
    ) -> None:
        """A document that is there already is this licence's, and the log knows it."""
        table = licence.parse(self._document(field, out)).license
        if view is None or table.id != asked.id or table.owner.key != asked.owner_key:
            last = "licence" if asked.loa is Loa.MENTOR else "out"
            raise Contradiction(
                f"{field}.{last}", f"{out} is {asked.owner_id}'s", f"another licence ({table.id}) there"
            )

    def _document(self, field: str, out: str) -> str:
        data = private_files.read(self._path(out), licence.MAX_TOML_BYTES)
        try:
            text = (data or b"").decode()
            licence.parse(text)
        except ValueError as error:
            raise blueprint.BadBlueprint(field, f"{out} is there already, and no licence: {error}") from error
        return text

    # What governs

    async def _appoint(self, index: int, mentor: Mentor) -> None:
        """A mentor becomes a witness: by its own proof, and every voice so far."""
        state = await governed.state(self.client)
        if mentor.id in state.witnesses:
            return
        voice = self._signer(mentor.voice_file, mentor.passphrase)
        payload = {
            "action": "add",
            "witness_id": mentor.id,
            "name": mentor.name,
            "key": voice.public_key.hex(),
            "licence_id": blueprint.licence_id(state.runtime_id, mentor.id, Loa.MENTOR),
        }
        others = [one for one in self.asked.mentor if one.id in state.active_witnesses()]
        await self._change("trusted_witness", payload, (mentor, *others))
        self._told(f"{mentor.id} is a witness, {index + 1} of {len(self.asked.mentor)}")

    async def _govern(self) -> None:
        """The seal, then model and policy, each unless it is what the log has."""
        state = await governed.state(self.client)
        if state.quorum is None:
            await self._change("quorum_policy", self.asked.quorum_payload(), self.asked.mentor)
            self._told(f"sealed: {self.asked.quorum.k} of {len(self.asked.mentor)}")
        if self.asked.model is not None and self.asked.model != state.model:
            await self._change("model_config", {"model": msgspec.to_builtins(self.asked.model)}, self.asked.mentor)
            self._told(f"trust model {self.asked.model.version}")
        if self.asked.policy is not None and self.asked.policy != state.policy:
            await self._change("access_policy", {"policy": msgspec.to_builtins(self.asked.policy)}, self.asked.mentor)
            self._told(f"access policy {self.asked.policy.version}")

    async def _change(self, kind: str, payload: Mapping[str, Any], voices: tuple[Mentor, ...]) -> None:
        """Propose, or go on with an open proposal of this very change; attest until it is ready; commit."""
        root = self._signer(self.asked.root.key, self.asked.root.passphrase)
        proposal_id = await self._open(kind, payload)
        if proposal_id is None:
            # A service that hasn't seen a mentor's licence yet says that there is none.
            proposed = await self._patiently(
                lambda: owner.propose(self.client, root, kind, payload), also={Code.LICENSE_INVALID, Code.STALE_PREV}
            )
            proposal_id = proposed.proposal_id
        read = await self._patiently(lambda: owner.read_proposal(self.client, proposal_id), also={Code.NOT_FOUND})
        ready = read.view.state == "ready"
        for mentor in voices:
            if ready:
                break
            ready = await self._attest(read, mentor)
        asked = quorum.ProposalId(proposal_id=proposal_id, id=ids.new())
        await self._patiently(lambda: self.client.call(quorum.COMMIT, asked))

    async def _open(self, kind: str, payload: Mapping[str, Any]) -> str | None:
        """A proposal of exactly this change on the present head, verified here, that a run before left."""
        found = await governed.state(self.client)
        page = await self.client.call(quorum.PROPOSALS, quorum.ListProposals(limit=100))
        for view in page.items:
            if view.kind != kind or view.state not in {"open", "ready"}:
                continue
            read = governed.Read(found, view)
            there = read.checked.payload
            wanted = canonical.typed({"expires_at": there.expires_at, **payload}, records.REGISTRY[kind].payload)
            if read.on_head and there == wanted:
                return view.proposal_id
        return None

    async def _attest(self, read: governed.Read, mentor: Mentor) -> bool:
        """A mentor's voice, once; whether the proposal is ready by it."""
        signer = self._signer(mentor.voice_file, mentor.passphrase)
        try:
            tally = await self._patiently(lambda: owner.attest(self.client, read, mentor.id, signer))
        except Refused as refused:
            if refused.code is not Code.ALREADY_ATTESTED:
                raise
            return False
        return tally.state == "ready"

    # Keys

    def _path(self, name: str) -> Path:
        return self.base / name

    def _key_files(self) -> dict[str, str | None]:
        """Every key file that the file names, and where its passphrase comes from."""
        root = self.asked.root
        found = {root.key: root.passphrase}
        for mentor in self.asked.mentor:
            found |= {mentor.key: mentor.passphrase, mentor.voice_file: mentor.passphrase}
        found |= {one.key: one.passphrase for one in self.asked.licence if one.key is not None}
        return found

    def _publics(self) -> dict[str, str | None]:
        """What the key files say of themselves; it is proven when they are opened."""
        found: dict[str, str | None] = {}
        for name in self._key_files():
            public = keys.read_public(self._path(name)).public_key if self._path(name).exists() else None
            found[name] = None if public is None else public.hex()
        return found

    def _make_keys(self) -> None:
        for name, passphrase in self._key_files().items():
            if self._make_key(name, passphrase):
                self._told(f"made {name}")

    def _make_key(self, name: str, passphrase: str | None) -> bool:
        path = self._path(name)
        if path.exists():
            return False
        keys.write_key_file(path, path.stem, self._secrets.of(passphrase, confirm=True))
        return True

    def _signer(self, name: str, passphrase: str | None) -> keys.SealedSigner:
        if name not in self._signers:
            self._signers[name] = keys.open_key_file(self._path(name), self._secrets.of(passphrase))
        return self._signers[name]

    def _public(self, entry: Mentor | Licence) -> str | None:
        if entry.key is not None:
            found = keys.read_public(self._path(entry.key)).public_key
            if found is None:
                raise keys.WrongKeyKind(f"{self._path(entry.key)} is no signing key.")
            return found.hex()
        return entry.public_key if isinstance(entry, Licence) else None

    # Telling and waiting

    def _told(self, what: str) -> None:
        self.done.append(what)
        self._tell(what)

    async def _patiently(
        self, attempt: Callable[[], Awaitable[T]], also: frozenset[Code] | set[Code] = frozenset()
    ) -> T:
        """Again while a part of the house is behind; every call here may be repeated."""
        return await http.persistently(attempt, give_up_s=PATIENCE_S, passing=http.PASSING | BEHIND | also)
