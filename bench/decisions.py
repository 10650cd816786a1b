"""The pure decision beside other engines: one question, a hundred policy entries, the same yes and no from all of them.

The question is whether a caller's level suffices for a command. The others answer that and no more; the gate's answer also holds licence,
scope, proof, owner and score, gives its steps, and can be judged again from its record. What the others leave to their caller (who the
caller is, what was asked, the record of it) isn't counted for or against anyone.
"""

import itertools
import json
from collections.abc import Callable

import casbin
import cedarpy
import msgspec
import regorus

from bench.figures import Figure, micro, seconds
from sigilcore import gate, policy
from sigilcore.access import Loa
from sigilcore.contracts import catalogue
from sigilcore.contracts.command import Admission
from sigilcore.decision import Verdict
from sigilcore.governance import WitnessEntry
from tests.simulator import House, Person

ENTRIES = 100
MANY = 100_000
ALLOWED, DENIED = "memory/write", "license/create"

CASBIN = """
[request_definition]
r = sub, act
[policy_definition]
p = sub, act
[role_definition]
g = _, _
[policy_effect]
e = some(where (p.eft == allow))
[matchers]
m = r.act == p.act && g(r.sub, p.sub)
"""

REGO = """
package gate
import rego.v1
default allow := false
allow if data.levels[input.loa] >= data.levels[data.rungs[input.command]]
"""


def run() -> list[Figure]:
    """Each engine's time for the same allowed call, after it was asked the denied one."""
    rungs = _rungs()
    ours, others = _gate(rungs), {"cedarpy": _cedar(rungs), "casbin": _casbin(rungs), "regorus": _regorus(rungs)}
    for name, ask in {"gate": ours, **others}.items():
        if (ask(ALLOWED), ask(DENIED)) != (True, False):
            raise AssertionError(f"{name} decides otherwise")
    spent = seconds(lambda: ours(ALLOWED))
    figures = [
        Figure(
            what=f"the pure decision, {ENTRIES} policy entries",
            value=micro(spent),
            limit="aim 10 µs",
            ratio=f"{spent * 1e6 / 10:.2f}×",
            bound="building the chain of reasons",
        )
    ]
    among_many = _grown(rungs)
    grown = seconds(lambda: among_many(ALLOWED))
    figures.append(
        Figure(
            what=f"the same among {MANY:,} licences and witnesses, by a caller of {MANY:,} decisions",
            value=micro(grown),
            limit=f"among few {micro(spent)}",
            ratio=f"{grown / spent:.2f}×",
            bound="nothing that grows",
        )
    )
    for name, ask in others.items():
        theirs = seconds(lambda ask=ask: ask(ALLOWED))  # type: ignore[misc]
        figures.append(
            Figure(what=f"{name}: level against command only", value=micro(theirs), ratio=f"{theirs / spent:.1f}× ours")
        )
    return figures


def _rungs() -> dict[str, Loa]:
    """Every command of the house with its rung, and invented ones up to the number."""
    real = {name: one.rung for name, one in catalogue.COMMANDS.items() if one.admission is Admission.PERMIT}
    kept = {ALLOWED: real[ALLOWED], DENIED: real[DENIED]} | real
    invented = {f"bench/number-{number}": Loa.OPERATOR for number in range(ENTRIES)}
    return dict(list((kept | invented).items())[:ENTRIES])


def _gate(rungs: dict[str, Loa]) -> Callable[[str], bool]:
    house = House()
    caller = house.issue(Person("ada"), Loa.OPERATOR)
    house.state.policy = _policy(rungs)
    asked = {name: house.facts(caller, name) for name in (ALLOWED, DENIED)}
    return lambda name: gate.judge(house.state, asked[name]).verdict is Verdict.ALLOW


def _policy(rungs: dict[str, Loa]) -> policy.AccessPolicy:
    return policy.AccessPolicy(version="bench", rungs=rungs, thresholds=dict.fromkeys(rungs, 0), rate_limit=1_000_000)


def _crowd() -> tuple[House, dict[str, gate.Facts]]:
    """A state in which a great many licences and witnesses stand, and a caller that was judged a great many times."""
    house = House()
    caller = house.issue(Person("ada"), Loa.OPERATOR)
    entry, key = house.state.licences[caller.licence_id], caller.signer.public_key
    for number in range(MANY):
        house.state.licences[f"licence-{number}"] = entry
        name = f"mentor-{number}"
        house.state.witnesses[name] = WitnessEntry(witness_id=name, name=name, key=key, since_seq=number)
        house.standings.fold(number, "ada", house.now_ms - number % 3_600_000, Verdict.ALLOW)
    return house, {name: house.facts(caller, name) for name in (ALLOWED, DENIED)}


def _grown(rungs: dict[str, Loa]) -> Callable[[str], bool]:
    house, asked = _crowd()
    house.state.policy = _policy(rungs)

    def ask(name: str) -> bool:
        stands = house.standings.at("ada", house.now_ms)
        return gate.judge(house.state, msgspec.structs.replace(asked[name], standing=stands)).verdict is Verdict.ALLOW

    return ask


def _cedar(rungs: dict[str, Loa]) -> Callable[[str], bool]:
    text = "\n".join(
        f'permit(principal, action == Action::"{name}", resource) when {{ context.loa >= {loa.rung} }};'
        for name, loa in rungs.items()
    )
    policies, entities = cedarpy.PolicySet.from_str(text), cedarpy.Entities.from_json_str("[]")
    context = {"loa": Loa.OPERATOR.rung}

    def ask(name: str) -> bool:
        request = {
            "principal": 'User::"ada"',
            "action": f'Action::"{name}"',
            "resource": 'Tenant::"default"',
            "context": context,
        }
        return bool(cedarpy.is_authorized(request, policies, entities).allowed)

    return ask


def _casbin(rungs: dict[str, Loa]) -> Callable[[str], bool]:
    model = casbin.Model()
    model.load_model_from_text(CASBIN)
    enforcer = casbin.Enforcer(model)
    enforcer.add_policies([[loa.value, name] for name, loa in rungs.items()])
    enforcer.add_grouping_policies([[above.value, below.value] for below, above in itertools.pairwise(Loa)])
    return lambda name: bool(enforcer.enforce(Loa.OPERATOR.value, name))


def _regorus(rungs: dict[str, Loa]) -> Callable[[str], bool]:
    engine = regorus.Engine()
    engine.add_policy("gate.rego", REGO)
    engine.add_data_json(json.dumps({"levels": {loa.value: loa.rung for loa in Loa}, "rungs": rungs}))

    def ask(name: str) -> bool:
        engine.set_input({"loa": Loa.OPERATOR.value, "command": name})
        return bool(engine.eval_rule("data.gate.allow"))

    return ask
