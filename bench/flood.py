"""A revocation and an attestation, with and without a flood, in one house and one run: what a flood costs those who brake.

The flood and who brakes share two cores with the house, so the ratio pays for the flood's own sending too.
"""

import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from bench.figures import Figure, milli, quantile
from cli import owner
from sigilcore import record
from sigilcore.access import Loa
from sigilcore.contracts import license
from sigilcore.records import audit
from tests import flooding
from tests import machine as machines

TIMES = 10
FIRST = 500  # answers of the flood before anything is measured
ENV = {"SIGIL_GATE_RATE_LIMIT_PER_MINUTE": "600"}


async def run(fast: bool = False) -> list[Figure]:
    """Both figures."""
    times = 4 if fast else TIMES
    with tempfile.TemporaryDirectory(prefix="sigil-bench-") as temporary:
        async with machines.running(Path(temporary) / "data", ENV) as machine:
            mentor = await machine.enrol("mentor-1")
            flooder = await machine.person("flooder", Loa.OPERATOR)
            assert flooder.client.session is not None
            licences = [(await machine.person(f"ends-{n}", Loa.OPERATOR)).licence_id for n in range(2 * times)]
            proposals = [await _proposed(machine) for _ in range(2 * times)]
            flood = flooding.Flood(machine.address, flooder.client.session.token)
            before, _ = await machine.ledger()
            quiet = await _measured(machine, mentor, licences[:times], proposals[:times])
            began = time.perf_counter()
            async with flood.running():
                await flood.sent(FIRST)
                loud = await _measured(machine, mentor, licences[times:], proposals[times:])
            spent, sent = time.perf_counter() - began, flood.answered.total()
            after, _ = await machine.ledger()
    left = sum(_is_of(placed, flooder.licence_id) for placed in after[len(before) :])
    told = f"{sent / spent:,.0f} requests/s of strangers, broken ones and one caller beyond its rate"
    return [
        _figure("license/revoke", quiet[0], loud[0], told),
        _figure("quorum/attest, the proposal read first", quiet[1], loud[1], told),
        Figure(
            what="records that the whole flood left: decisions, writes, summaries",
            value=f"{left:,}",
            limit=f"{sent:,} requests",
            ratio=f"{left / sent:.3f} a request",
            bound="the gate's rate of one licence, ten denials and one summary a minute",
        ),
    ]


def _is_of(placed: record.PlacedRecord, licence_id: str) -> bool:
    """True for a record that stands there because of this caller, or of refusals that were only counted."""
    checked = record.check(placed.signed())
    if isinstance(checked.payload, audit.DecisionBatch):
        return any(one.chain.audit.licence == licence_id for one in checked.payload.decisions)
    return checked.core.kind in {"memory_block", "refusal_summary"}


async def _proposed(machine: machines.Machine) -> str:
    assert machine.root.signer is not None
    payload = owner.seal_payload(1, kinds={}, proposal_ttl_s=3600)
    return (await owner.propose(machine.root.client, machine.root.signer, "quorum_policy", payload)).proposal_id


async def _measured(
    machine: machines.Machine, mentor: machines.Someone, licences: list[str], proposals: list[str]
) -> tuple[list[float], list[float]]:
    revoked = [
        await _timed(lambda one=one: machine.root.client.call(license.REVOKE, license.RevokeLicense(license_id=one)))
        for one in licences
    ]
    attested = [await _timed(lambda one=one: machine.attest(one, mentor)) for one in proposals]
    return sorted(revoked), sorted(attested)


async def _timed(ask: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await ask()
    return time.perf_counter() - began


def _figure(what: str, quiet: list[float], loud: list[float], told: str) -> Figure:
    usual, under = quantile(quiet, 0.5), quantile(loud, 0.5)
    return Figure(
        what=f"{what}, under a flood of {told}",
        value=f"p50 {milli(under)}, longest {milli(loud[-1])}",
        limit=f"without it p50 {milli(usual)}",
        ratio=f"{under / usual:.1f}×",
        bound="eleven hands that flood as fast as they are answered, on the same two cores",
    )
