"""The house of the simulator, with a canon beside its list: what it writes is sent to the canon as its authors would send it."""

from typing import Any, Protocol

import msgspec

from services.canon_writer import rules
from sigilcore import digest, merkle, note, record
from sigilcore.contracts import canon, house
from sigilcore.decision import DecisionRef
from sigilrun import keys, receipt, settings
from tests import simulator

TOKEN = "one-time-token"
TOKEN_HASH = digest.sha256_hex(TOKEN.encode())


class Pen(Protocol):
    """Whatever takes appends: the committer itself, the canon in memory, a service over the bus."""

    async def append(self, request: canon.Append) -> canon.Appended: ...

    async def bootstrap(self, request: canon.BootstrapAppend) -> canon.Appended: ...


class World(simulator.House):
    """A house that can be bootstrapped with `TOKEN`, and that verifies every receipt it gets."""

    def __init__(
        self,
        deployed: settings.DeploymentFile | None = None,
        keystore: keys.Keystore | None = None,
        now_ms: int = simulator.NOW_MS,
    ) -> None:
        self._given = deployed, keystore
        self._placed: dict[int, record.SignedRecord] = {}
        super().__init__(now_ms=now_ms)
        self.sent = 0
        self.receipts: list[canon.Appended] = []

    def _genesis(self) -> None:
        """With the deployment's keys, if there is one."""
        deployed, keystore = self._given
        if deployed is not None and keystore is not None:
            self.runtime_id = deployed.runtime_id
            self.services = {name: keystore.signer(name) for name in deployed.services}
            self.writer = keystore.signer(house.LOG_KEY)
            self.origin = note.VerifierKey.parse(deployed.log).name
        super()._genesis()

    @property
    def deployment(self) -> rules.Deployment:
        genesis = record.check(self.log[0]).payload
        return rules.Deployment(
            tenant=genesis.tenant,
            runtime_id=genesis.runtime_id,
            services=genesis.services,
            log=genesis.log,
            bootstrap_token_hash=TOKEN_HASH,
        )

    @property
    def log_key(self) -> note.VerifierKey:
        return note.VerifierKey.parse(self.deployment.log)

    def append(self, kind: str, payload: Any, *args: Any, **options: Any) -> record.Checked:
        if kind == "genesis":
            payload = msgspec.structs.replace(payload, bootstrap_token_hash=TOKEN_HASH)
        return super().append(kind, payload, *args, **options)

    @property
    def genesis(self) -> canon.BootstrapAppend:
        return canon.BootstrapAppend(token=TOKEN, record=self.log[0])

    async def send(self, pen: Pen) -> list[canon.Appended]:
        """Everything that the house has written since the last time, each record by a call of its own."""
        answers = []
        while self.sent < len(self.log):
            signed = self.log[self.sent]
            if self.sent == 0:
                answers.append(await pen.bootstrap(self.genesis))
            else:
                answers.append(await pen.append(canon.Append(records=(signed,))))
            self.verify([signed], answers[-1])
            refusal = answers[-1].results[0].refusal
            assert refusal is None, refusal
            assert answers[-1].results[0].seq == self.sent
            self.sent += 1
        return answers

    async def call(
        self, pen: Pen, *records: record.SignedRecord, decision: DecisionRef | None = None
    ) -> canon.Appended:
        """One call, its receipt verified as an author verifies it; what was placed is the house's log too."""
        answer = await pen.append(canon.Append(records=records, decision=decision))
        for signed, result in zip(records, answer.results, strict=True):
            if result.seq is not None and result.seq >= len(self.log) and result.hash == sent_of(signed).hash:
                self._placed[result.seq] = signed
        self._absorb()
        self.verify(list(records), answer)
        return answer

    def _absorb(self) -> None:
        """Answers of one commit may be heard in any order; the log is in the order of seq."""
        while (signed := self._placed.pop(len(self.log), None)) is not None:
            self._commit(signed, record.check(signed))
            self.sent = len(self.log)

    def verify(self, records: list[record.SignedRecord], answer: canon.Appended) -> None:
        sent = [sent_of(signed) for signed in records]
        earlier = {seq: sent_of(self.log[seq]) for seq in receipt.rebuilt(sent, answer)}
        receipt.verify(sent, answer, self.log_key, earlier)
        self.receipts.append(answer)


def sent_of(signed: record.SignedRecord) -> receipt.Sent:
    header, _ = record.open_header(bytes(signed.header))
    return receipt.Sent(id=header.core.id, hash=header.hash, leaf_hash=merkle.leaf_hash(bytes(signed.header)))


def code_of(answer: canon.Appended, index: int = 0) -> str | None:
    refusal = answer.results[index].refusal
    return None if refusal is None else str(refusal.code)
