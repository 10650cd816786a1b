"""Faults: what is ours to mend. Logged in full where they happen; the caller hears a trace id and nothing else."""


class Fault(Exception):  # noqa: N818 - the house's word
    """Something of ours broke; `trace_id` finds it in the logs."""

    def __init__(self, trace_id: str) -> None:
        """`trace_id` is safe to show; nothing else is."""
        super().__init__(f"fault {trace_id}")
        self.trace_id = trace_id


class Corrupt(Exception):  # noqa: N818 - names the evidence
    """Evidence that does not verify: the loop stops and the loader recovers; never skipped in silence."""
