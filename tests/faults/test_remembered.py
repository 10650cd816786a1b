"""The log's cosigners remember how long it was: a writer whose database, stream and high-water file were all set back is told by them."""

import asyncio
import contextlib

import pytest
import pytest_asyncio
from aiohttp import web

from services.canon_writer import remembered
from services.notary import service as notary
from sigilcore import checkpoint, note, signing
from sigilcore.contracts import canon, house
from sigilcore.contracts import notary as contract
from sigilcore.records import system
from sigilcore.refusals import Code, Refused
from sigilrun import service as process
from sigilrun import testing, witness, witness_store
from sigilrun.embedded import ports
from tests.faults.test_writer_crash import PATIENCE_S, Place
from tests.waiting import until

SIGNER = signing.Ed25519Signer(bytes([7]) * 32)
KEY = note.VerifierKey.of("ann.example/witness", note.COSIGNATURE, SIGNER.public_key)


class Stage(Place):
    """A place whose sealed log names one cosigner, at an address that doesn't change."""

    def __init__(self, buses, database, state, port):
        super().__init__(buses, database)
        self.state = state
        self.port = port
        voices = self.world.mentors(1)
        cosigner = system.Cosigner(vkey=KEY.format(), url=f"http://127.0.0.1:{port}")
        named = system.CheckpointWitnesses(c=1, cosigners=(cosigner,))
        policy = self.world.quorum_policy(1, checkpoint_witnesses=named)
        self.world.place(self.world.attested(self.world.proposal("quorum_policy", policy), *voices))
        self.write(6)

    def notary(self):
        return process.running(
            "notary", notary.build, notary.HANDLERS, self.buses.settings("notary"), now=self.world.clock
        )

    @contextlib.asynccontextmanager
    async def cosigner(self):
        """A real witness of our log, on its state."""
        vkeys = [self.world.deployment.log]
        with witness.opened(name=KEY.name, signer=SIGNER, vkeys=vkeys, state=self.state) as one:
            async with witness.serving(one, host="127.0.0.1", port=self.port):
                yield

    @contextlib.asynccontextmanager
    async def showing(self, data):
        """Somebody at the cosigner's address who shows this."""

        async def show(_):
            return web.Response(body=data)

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", show)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", self.port).start()
            yield
        finally:
            await runner.cleanup()

    async def cosigned(self):
        """Write the log and have its head cosigned; how large it was."""
        async with self.cosigner(), self.writing(), self.reading():
            await self.world.send(self.pen)
            async with self.notary():
                # The notary's own introduction is a record of the log, and the world's list doesn't have it.
                with contextlib.closing(witness_store.Store(self.state)) as seen:
                    await until(lambda: seen.sizes().get(self.world.origin, 0) > len(self.world.log))
                    size = seen.sizes()[self.world.origin]
        return size

    async def all_set_back(self):
        """Database, stream and high-water file: as a machine restored from an old image."""
        await self.buses.delete_stream()
        self.high_water.unlink(missing_ok=True)
        await self.set_back(len(self.world.log) - 3)


@pytest_asyncio.fixture(loop_scope="session")
async def stage(database, tmp_path, monkeypatch):
    monkeypatch.setattr(notary, "TICK_S", 0.05)
    monkeypatch.setattr(notary, "RETRY_MOST_S", 0.2)
    async with testing.bus_house(tmp_path / "house") as buses:
        made = Stage(buses, database, tmp_path / "witness", ports.free_port())
        await made.start()
        yield made


async def test_a_writer_that_starts_behind_its_cosigner_does_not_write(stage):
    """All that is ours was set back together. The writer asks before it writes, and what it learned stays when nobody answers any more."""
    size = await stage.cosigned()
    await stage.all_set_back()
    left = len(await stage.records())
    async with stage.cosigner(), stage.reading(), stage.notary(), stage.writing() as one:
        assert f"signed {size}" in one.service.committer.read_only
        await stage.refused_as_read_only()
    async with stage.writing() as one:
        assert f"the high-water file knows of {size}" in one.service.committer.read_only
        await stage.refused_as_read_only()
    assert len(await stage.records()) == left


async def test_cosigners_that_do_not_answer_hold_nobody_up_and_are_heard_later(stage):
    """The only cosigner is away: the writer writes. Once it is back the log is read-only from then on."""
    size = await stage.cosigned()
    await stage.all_set_back()
    async with stage.reading(), stage.notary(), stage.writing() as one:
        assert one.service.committer.read_only is None
        async with stage.cosigner():
            await until(lambda: one.service.committer.read_only is not None)
            assert f"signed {size}" in one.service.committer.read_only
            await stage.refused_as_read_only()
    async with stage.writing() as one:
        assert one.service.committer.read_only is not None


async def test_without_a_notary_the_writer_starts_after_a_bounded_time(stage, monkeypatch):
    """Nobody can be asked: the start isn't blocked."""
    monkeypatch.setattr(remembered, "WAIT_S", 0.3)
    await stage.cosigned()
    async with asyncio.timeout(PATIENCE_S), stage.writing() as one:
        assert one.service.committer.read_only is None


async def _note(stage, size, signer):
    return checkpoint.sign(checkpoint.Checkpoint(stage.world.origin, size, bytes(32)), signer)


@pytest.mark.parametrize("lie", ["another key", "another log", "no note", "not UTF-8", "what we have"])
async def test_only_the_logs_own_key_convicts_it(stage, lie):
    """Whatever somebody at the cosigner's address shows, and whatever the notary passes on: without our key's signature it stops nobody."""
    async with stage.writing():
        await stage.world.send(stage.pen)
    stranger = signing.Ed25519Signer.generate()
    shown = {
        "another key": await _note(stage, 5_000, stranger),
        "another log": checkpoint.sign(checkpoint.Checkpoint("other.example", 5_000, bytes(32)), stage.world.writer),
        "no note": b"5000\n",
        "not UTF-8": b"\xff\xfe",
        "what we have": await _note(stage, 3, stage.world.writer),
    }[lie]
    async with stage.showing(shown), stage.reading(), stage.notary() as asked, stage.writing() as one:
        assert one.service.committer.read_only is None
        urls = (f"http://127.0.0.1:{stage.port}",)
        writer = await stage.buses.bus("canon_writer")
        told = await writer.call(contract.REMEMBER, contract.Remember(origin=stage.world.origin, urls=urls))
        assert told.notes == ((shown.decode(),) if lie != "not UTF-8" else ())
        teller = await stage.buses.bus("notary")
        if lie == "what we have":
            assert (await teller.call(canon.BEYOND, canon.Beyond(note=shown.decode()))).read_only is None
        elif lie != "not UTF-8":
            with pytest.raises(Refused) as refused:
                await teller.call(canon.BEYOND, canon.Beyond(note=shown.decode()))
            assert refused.value.code is Code.SIGNATURE_INVALID
        assert one.service.committer.read_only is None
        assert not asked.ended.is_set()


def test_nobody_else_may_ask():
    """Only the writer has the notary ask somebody, and only the notary shows the writer what may end its writing."""
    may = {
        command: {name for name, one in house.RESIDENTS.items() if command.subject in house.allowance(one, "t").publish}
        for command in (contract.REMEMBER, canon.BEYOND)
    }
    assert may == {contract.REMEMBER: {"canon_writer"}, canon.BEYOND: {"notary"}}
