"""`sigil witness serve`: a complete C2SP witness for anybody's logs, and `sigil witness policy`: which cosigners our own log asks for.

A witness's key signs cosignatures and nothing else.
"""

import asyncio
import contextlib
import signal
from pathlib import Path
from typing import Annotated

import typer

from cli import caller, governed, seam
from cli.refusal import Refusal
from cli.seam import PROMPT, Key, Passphrase, State
from sigilcore import governance, note, tlog_policy, witnessed
from sigilrun import keys, telemetry, witness, witness_store

StateFolder = Annotated[
    Path, typer.Option("--state", help="what it has cosigned: never delete it without retiring the key")
]
LogKeys = Annotated[list[str], typer.Option("--log", help="a log's verifier key (vkey); repeat it")]


def serve(
    state: State,
    *,
    key: Key,
    name: Annotated[str, typer.Option("--name", help="the cosigner's name, such as witness.example/w1")],
    log: LogKeys,
    folder: StateFolder,
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="0 takes a free one")] = 0,
    host: Annotated[str, typer.Option("--host", help="where to listen; TLS is a proxy's")] = "127.0.0.1",
    passphrase: Passphrase = PROMPT,
) -> None:
    """Cosign checkpoints that continue what was cosigned before, until Ctrl-C."""
    telemetry.configure(level="info", as_json=True, resident="witness")
    signer = caller.signer(key, passphrase)
    try:
        with witness.opened(name=name, signer=signer, vkeys=log, state=folder) as one:
            if not state.as_json and state.field is None:
                seam.say(f"vkey {one.key.format()}")
            asyncio.run(_until_told(state, one, host, port))
    except (note.NoteError, witness_store.Unreadable) as error:
        raise Refusal(str(error)) from error


async def _until_told(state: State, one: witness.Witness, host: str, port: int) -> None:
    told, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    async with witness.serving(one, host=host, port=port) as address:
        seam.show(state, {"vkey": one.key.format(), "address": address}, f"ready {address}")
        await told.wait()


def evidence(state: State, *, folder: StateFolder) -> None:
    """Checkpoints that logs signed and that this witness did not cosign."""
    if not (folder / witness_store.FILE).exists():
        raise Refusal(f"{folder} holds no witness's state", "Name the folder that sigil witness serve was given.")
    try:
        with contextlib.closing(witness_store.Store(folder)) as store:
            found = store.evidence()
    except witness_store.Unreadable as error:
        raise Refusal(str(error)) from error
    seam.show(state, {"items": found}, seam.table(found, "convicts", "origin", "reason", "kept_at", "note", "held"))


def public(state: State, *, name: Annotated[str, typer.Option("--name")], key: Path) -> None:
    """The verifier key (vkey) of a cosigner, from its key file, without the passphrase and so without proof."""
    info = keys.read_public(key)
    if info.public_key is None:
        raise Refusal(f"{key} is a symmetric key")
    try:
        vkey = note.VerifierKey.of(name, note.COSIGNATURE, info.public_key).format()
    except note.NoteError as error:
        raise Refusal(str(error)) from error
    seam.show(state, {"vkey": vkey}, vkey)


def policy(
    state: State,
    out: Annotated[Path | None, typer.Option("--out", help="write it to this file")] = None,
) -> None:
    """The quorum policy's cosigners as a C2SP tlog-policy file, read from records that are verified here."""

    async def work() -> governance.Governance:
        async with caller.calling(state) as client:
            return await governed.state(client)

    found = seam.wait(work())
    if found.quorum is None:
        raise Refusal("the house isn't sealed", "Seal it with sigil seal --cosigner VKEY=URL.")
    exported = tlog_policy.format(witnessed.policy(found.quorum, note.VerifierKey.parse(found.log_key)))
    if out is not None:
        out.write_bytes(exported)
    text = exported.decode()
    seam.show(state, {"policy": text}, str(out) if out is not None else text.removesuffix("\n"))


def add_to(noun: typer.Typer) -> None:
    """Verbs of the noun `witness`."""
    seam.verb(noun, "serve")(serve)
    seam.verb(noun, "vkey")(public)
    seam.verb(noun, "evidence")(evidence)
    seam.verb(noun, "policy")(policy)
