"""`sigil verify FILE`: a bundle checked offline, step by step. Exit 0 verified, 1 does not verify, 2 can't be read."""

from pathlib import Path
from typing import Annotated

import typer

from cli import seam
from cli.seam import State

Genesis = Annotated[
    str | None, typer.Option("--genesis", help="the genesis hash that you pinned; without it step 2 takes it on trust")
]


Policy = Annotated[
    Path | None,
    typer.Option("--policy", help="a C2SP tlog-policy file: which cosigners must have signed the checkpoint"),
]


def check(state: State, file: Path, genesis: Genesis = None, policy: Policy = None) -> None:
    """Verify a bundle with no server: numbered steps, the first that fails is the answer."""
    from sigilcore import tlog_policy, verify  # noqa: PLC0415 - and nothing that talks

    reading = file
    try:
        bundle = verify.read(file.read_bytes())
        if policy is not None:
            reading = policy
        trusted = None if policy is None else tlog_policy.parse(policy.read_bytes())
    except (verify.Unreadable, tlog_policy.PolicyError) as error:
        if state.as_json:
            seam.show(state, {"verified": False, "unreadable": str(error), "steps": []})
        seam.note(f"{reading} can't be read: {seam.line(str(error))}")
        raise typer.Exit(seam.EXIT_USAGE) from error
    results = verify.verify(bundle, genesis, trusted)
    verified = verify.verified(results)
    marks = {True: "ok", False: "FAILED", None: "-"}
    lines = [f"{step.number}. {marks[step.ok]:<6} {step.name}: {seam.line(step.detail)}" for step in results]
    lines.append("verified" if verified else "does not verify")
    seam.show(state, {"verified": verified, "steps": results}, "\n".join(lines))
    if not verified:
        raise typer.Exit(seam.EXIT_REFUSED)


def register(app: typer.Typer) -> None:
    """The verb `verify`."""
    seam.verb(app, "verify")(check)
