"""The `sigil` command: one file a noun, one function a verb, one place where errors become words and exit codes."""

import sys

import typer

from cli import (
    commands,
    config,
    keyring,
    licenses,
    memory,
    model,
    proposal,
    records,
    seam,
    session,
    stack,
    verify,
    witness,
)


def application() -> typer.Typer:
    """All nouns and verbs."""
    app = typer.Typer(
        name="sigil",
        help="A governed runtime: licences, a gate, a quorum, and one verifiable ledger.",
        epilog=seam.EXIT_CODES,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    stack.add(app)
    session.add(app)
    for noun in (
        keyring.noun(),
        licenses.noun(),
        witness.noun(),
        proposal.noun(),
        model.noun(),
        model.trust_noun(),
        memory.noun(),
        records.canon_noun(),
        records.audit_noun(),
        commands.noun(),
        config.noun(),
    ):
        app.add_typer(noun)
    proposal.add(app)
    commands.add(app)
    verify.add(app)
    return app


def main() -> None:
    """Run one verb; the exit code says how it went."""
    state = seam.State(as_json="--json" in sys.argv)
    try:
        application()(obj=state)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        sys.exit(seam.fail(error, as_json=state.as_json))


if __name__ == "__main__":
    main()
