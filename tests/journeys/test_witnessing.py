"""A house whose checkpoints two strangers cosign: what is committed and not yet witnessed, what one of them down means, and a log that
signed another history."""

import asyncio
import contextlib
import os
import re
import socket
import sys
from pathlib import Path

import aiohttp
import msgspec
from tlog_scales.signing import Vkey
from tlog_scales.tlog import Checkpoint as OtherCheckpoint

from cli import governed
from sigilcore import checkpoint, merkle, note, signing, tlog_policy, verify, witnessed
from sigilcore.access import Loa
from sigilcore.contracts import canon, house, quorum
from sigilcore.contracts.common import Empty
from sigilcore.records import audit, system
from sigilrun import house as running
from sigilrun import keys
from tests import machine as machines

REPO = Path(__file__).parents[2]
SOON_S = 40.0


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Stranger:
    """Somebody with a witness of their own: `sigil witness serve` as a process, which may be away."""

    def __init__(self, folder, name):
        folder.mkdir()
        self.folder = folder
        self.name = f"{name}.example/witness"
        self.password = folder / "password"
        self.password.write_text(f"the passphrase of {name}\n")
        self.password.chmod(0o600)
        self.key_file = folder / "witness.key"
        public = keys.write_key_file(self.key_file, "witness", keys.passphrase_from(f"file:{self.password}"))
        self.key = note.VerifierKey.of(self.name, note.COSIGNATURE, public)
        self.port = free_port()
        self.out = folder / "out"
        self.process = None
        self.log = ""

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    @property
    def cosigner(self):
        return system.Cosigner(vkey=self.key.format(), url=self.url)

    async def come(self, state="state"):
        """Serve, knowing the log."""
        words = [
            "--key",
            self.key_file,
            "--passphrase",
            f"file:{self.password}",
            "--name",
            self.name,
            "--log",
            self.log,
        ]
        words += ["--state", self.folder / state, "--port", self.port]
        with self.out.open("ab") as out:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "cli.main", "witness", "serve", *map(str, words)),
                stdout=out,
                stderr=out,
                cwd=REPO,
                env={**os.environ, "HOME": str(self.folder)},
            )
        await until(self.health)

    async def go(self):
        if self.process is not None and self.process.returncode is None:
            self.process.terminate()
            await self.process.wait()

    async def health(self):
        try:
            async with aiohttp.ClientSession() as http, http.get(f"{self.url}/healthz") as answer:
                return await answer.json()
        except aiohttp.ClientError:
            return None

    async def size(self):
        """How far it has cosigned the log."""
        return ((await self.health()) or {"sizes": {}})["sizes"].get(note.VerifierKey.parse(self.log).name, 0)

    async def add(self, request):
        async with aiohttp.ClientSession() as http, http.post(f"{self.url}/add-checkpoint", data=request) as answer:
            return answer.status, await answer.text()


async def until(question, wanted=bool):
    """The first answer that will do, within a bounded time."""
    async with asyncio.timeout(SOON_S):
        while True:
            found = await question()
            if wanted(found):
                return found
            await asyncio.sleep(0.1)


async def published(machine):
    """What the world sees of the log."""
    async with aiohttp.ClientSession() as http, http.get(f"{machine.address}/log/default/checkpoint") as answer:
        return await answer.text()


async def head(machine):
    return await machine.root.client.call(canon.CHECKPOINT, Empty())


async def standing(machine, record_id):
    return (await machine.root.client.call(canon.GET, canon.Get(id=record_id))).witnessed


def writer_key(machine):
    """The log's own key, as a thief of the whole machine has it."""
    layout = running.Layout(machine.data)
    store = keys.Keystore.open(layout.keystore, keys.passphrase_from(f"file:{layout.passphrase}"))
    return store.signer(house.LOG_KEY)


async def at_a_terminal(machine, folder, bundle):
    """An observer takes the policy from the log and verifies the bundle by it, with the command."""
    observer = await machine.person("oscar", Loa.OBSERVER)
    (folder / "oscar.toml").write_text(observer.toml)
    (folder / "oscar.toml").chmod(0o600)
    (folder / "bundle.json").write_bytes(msgspec.json.encode(bundle))
    environment = {**os.environ, "SIGIL_HOME": str(folder / "home"), "SIGIL_ADDRESS": machine.address}

    async def sigil(*words):
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "cli.main", *map(str, words)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=REPO,
            env=environment,
        )
        said, _ = await child.communicate()
        return child.returncode, said.decode()

    assert (await sigil("login", "--license", folder / "oscar.toml"))[0] == 0
    code, said = await sigil("witness", "policy", "--out", folder / "policy")
    assert code == 0, said
    check = ("verify", folder / "bundle.json", "--genesis", machine.genesis, "--policy")
    code, said = await sigil(*check, folder / "policy")
    assert (code, "7. ok" in said) == (0, True), said
    stricter = (
        (folder / "policy").read_text().replace("log ", "# log ").replace("group cosigners all", "group cosigners 3")
    )
    (folder / "stricter").write_text(stricter)
    code, said = await sigil(*check, folder / "stricter")
    assert (code, "3 of 2 members" in said) == (2, True), said
    stranger = note.VerifierKey.of("carl.example", note.COSIGNATURE, signing.Ed25519Signer.generate().public_key)
    (folder / "other").write_text(f"witness carl {stranger.format()}\nquorum carl\n")
    code, said = await sigil(*check, folder / "other")
    assert (code, "7. FAILED" in said) == (1, True), said


@contextlib.asynccontextmanager
async def strangers(tmp_path):
    both = [Stranger(tmp_path / name, name) for name in ("ann", "bob")]
    try:
        yield both
    finally:
        for one in both:
            await one.go()


async def test_committed_then_witnessed(tmp_path):
    """The whole story of one house; see the module."""
    async with strangers(tmp_path) as (ann, bob), machines.running(tmp_path / "data") as machine:
        ann.log = bob.log = (await governed.state(machine.root.client)).log_key
        log_key = note.VerifierKey.parse(ann.log)

        # Both are away: the seal stands, and everybody is told that it isn't witnessed.
        sealed = await machine.seal(2, 2, c=2, cosigners=(ann.cosigner, bob.cosigner))
        assert sealed.witnessed == "not yet"
        assert await standing(machine, sealed.id) == "not yet"
        view = await machine.root.client.call(quorum.PROPOSAL, quorum.ReadProposal(proposal_id=sealed.proposal_id))
        assert (view.state, view.witnessed) == ("committed", "not yet")
        assert (await head(machine)).witnessed is None
        state = await governed.state(machine.root.client)
        policy = tlog_policy.parse(tlog_policy.format(witnessed.policy(state.quorum, log_key)))
        bundle = await machine.root.client.call(canon.PROOF, canon.Prove(id=sealed.id))
        results = verify.verify(bundle, machine.genesis)
        assert verify.verified(results)
        assert "committed, not yet witnessed" in results[4].detail
        results = verify.verify(bundle, machine.genesis, policy)
        assert [step.ok for step in results] == [True] * 6 + [False]
        assert await machine.doctor() == {"UNWITNESSED", "WITNESS_MARGIN"}

        # One of two comes: not enough.
        await ann.come()
        await until(ann.size, lambda size: size > sealed.seq)
        assert await standing(machine, sealed.id) == "not yet"

        # The other comes: witnessed, for everybody, and by another program's judgement.
        await bob.come()
        await until(lambda: standing(machine, sealed.id), lambda found: found == "witnessed")
        view = await machine.root.client.call(quorum.PROPOSAL, quorum.ReadProposal(proposal_id=sealed.proposal_id))
        assert view.witnessed == "witnessed"
        assert (await machine.commit(sealed.proposal_id)).witnessed == "witnessed"
        shown = await published(machine)
        other = OtherCheckpoint.from_text(shown)
        for vkey in (ann.log, ann.key.format(), bob.key.format()):
            other.verify(Vkey.from_string(vkey))
        assert other.size > sealed.seq
        assert tlog_policy.judge(policy, shown.encode()).satisfied
        bundle = await machine.root.client.call(canon.PROOF, canon.Prove(id=sealed.id))
        results = verify.verify(bundle, machine.genesis, policy)
        assert verify.verified(results), results
        assert results[4].detail.endswith("; witnessed")
        await at_a_terminal(machine, tmp_path, bundle)
        # Two of two mentors: whatever is witnessed, one lost key still stops every change.
        assert await until(machine.doctor, lambda found: "UNWITNESSED" not in found) == {"WITNESS_MARGIN"}

        # One goes: new records aren't witnessed, old ones stay it. One of two is enough by a policy that says so.
        await bob.go()
        loosened = await machine.change_quorum(2, c=1, cosigners=(ann.cosigner, bob.cosigner))
        await until(lambda: standing(machine, loosened.id), lambda found: found == "witnessed")
        assert (await ann.size()) > loosened.seq >= (await bob.size())

        # The log's own key signs another history for Ann: refused, kept, told.
        thief = writer_key(machine)

        async def split():
            size = await ann.size()
            fork = checkpoint.sign(checkpoint.Checkpoint(log_key.name, size, b"\x00" * 32), thief)
            return await ann.add(checkpoint.AddCheckpoint(size, (), fork).encode())

        status, reason = await until(split, lambda answer: answer[0] != 409)
        assert (status, "another root" in reason) == (422, True)
        assert '"event": "log_contradiction"' in ann.out.read_text()

        # Bob has lost his memory, and cosigned another history before he comes back: the notary finds his note, and the log tells of it.
        leaves = [merkle.leaf_hash(b"another history %d" % n) for n in range(5)]
        forked = checkpoint.sign(checkpoint.Checkpoint(log_key.name, 5, merkle.root(leaves)), thief)
        home, bob.port = bob.port, free_port()
        await bob.come("forgotten")
        assert (await bob.add(checkpoint.AddCheckpoint(0, (), forked).encode()))[0] == 200
        await bob.go()
        bob.port = home
        await bob.come("forgotten")

        async def told():
            found = await machine.root.client.call(canon.LIST, canon.ListRecords(kind="log_contradiction"))
            return found.items

        (record,) = await until(told)
        payload = msgspec.convert(record.payload, audit.LogContradiction)
        assert payload.proven
        assert payload.cosigner == bob.key.format()
        assert checkpoint.open_signed(payload.evidence.encode(), log_key).root == merkle.root(leaves)
        assert checkpoint.open_signed(payload.note.encode(), log_key).size > 5
        assert re.search(r'"event": "log_contradiction".*"level": "critical"', machine.logs())
        # Ann's voice is still enough, and it covers the record of the contradiction itself.
        await until(lambda: standing(machine, record.header["core"]["id"]), lambda found: found == "witnessed")
        assert len(await told()) == 1
