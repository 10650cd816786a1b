"""A house's file: what it may say, and each thing in it that can't be, by its field."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli import blueprint
from services.license import rules as license_rules
from sigilcore import ids, trust
from sigilcore.access import Loa
from sigilcore.records import system
from tests.house.test_cli_init import FILE
from tests.simulator import House, Person


def read(tmp_path: Path, text: str) -> blueprint.Blueprint:
    path = tmp_path / "house.toml"
    path.write_text(text)
    return blueprint.read(path)


def test_a_whole_file_is_read(tmp_path: Path) -> None:
    """Each table is there, and what may be left out has its meaning."""
    found = read(tmp_path, FILE)
    assert [mentor.voice_file for mentor in found.mentor] == ["ada.key", "bob-voice.key", "cyd.key"]
    assert found.quorum_payload()["checkpoint_witnesses"] == {"c": 0, "cosigners": []}
    assert [(loa, out) for _, _, loa, out in found.issued()] == [
        (Loa.MENTOR, "ada.toml"), (Loa.MENTOR, "bob.toml"), (Loa.MENTOR, "cyd.toml"),
        (Loa.OPERATOR, "olga.toml"), (Loa.OPERATOR, "otto.toml"),
    ]  # fmt: skip


def test_the_page_s_example_is_such_a_file(tmp_path: Path) -> None:
    """What docs/CLI.md shows is read as it stands."""
    page = (Path(__file__).parents[2] / "docs/CLI.md").read_text()
    found = read(tmp_path, page.partition("```toml\n")[2].partition("```")[0])
    assert (found.quorum.k, len(found.mentor), len(found.licence)) == (2, 3, 2)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (("k = 2", "k = 4"), "$.quorum.k"),
        (("k = 2", "k = 1"), "$.quorum.k"),
        (("k = 2", "k = 0"), "$.quorum.k"),
        (("k = 2", "k = true"), "$.quorum.k"),
        (("k = 2", "c = 1\nk = 2"), "$.quorum.c"),
        (("log_key = 2", "log_key = 1"), "$.quorum.kinds.log_key"),
        (("log_key = 2", "memory_block = 2"), "$.quorum.kinds.memory_block"),
        (('id = "bob"', 'id = "ada"'), "$.mentor[1].id"),
        (('id = "bob"', 'id = "grace"'), "$.mentor[1].id"),
        (('id = "bob"', 'id = "b b"'), "$.mentor[1].id"),
        (('id = "otto"', 'id = "olga"'), "$.licence[1].id"),
        (('key = "root.key"', 'key = "ada.key"'), "$.mentor[0].key"),
        (('voice = "bob-voice.key"', 'voice = "ada.key"'), "$.mentor[1].key"),
        (('out = "olga.toml"', 'out = "ada.toml"'), "$.licence[0].out"),
        (('out = "olga.toml"', 'out = "root.toml"'), "$.licence[0].out"),
        (('loa = "operator"', 'loa = "root"'), "$.licence[0].loa"),
        (('loa = "operator"', 'loa = "mentor"'), "$.licence[0].loa"),
        (('expires_at = "2034-01-01"', 'expires_at = "2034-02-30"'), "$.licence[0].expires_at"),
        (('key = "otto.key"', f'key = "otto.key"\npublic_key = "{"01" * 32}"'), "$.licence[1].public_key"),
        (('owner_name = "Grace"', 'owner_nmae = "Grace"'), "$.root"),
        (("[policy.rungs]", "[policy.rnugs]"), "$.policy"),
        (("[policy.rungs]", "[policy.rungs"), "$"),
    ],
    ids=str,
)
def test_what_can_t_be_is_refused_by_its_field(tmp_path: Path, change: tuple[str, str], field: str) -> None:
    """The first thing down the page; nothing was asked or made by then."""
    with pytest.raises(blueprint.BadBlueprint) as caught:
        read(tmp_path, FILE.replace(*change, 1))
    assert caught.value.field == field, caught.value
    assert [path.name for path in tmp_path.iterdir()] == ["house.toml"]


# The file and the log


class Built:
    """A house in memory that was built by its file: one witness, an operator, another model and policy."""

    def __init__(self) -> None:
        self.house = House()
        self.house.change_model(bias=trust.DEFAULT_MODEL.bias + 1)
        self.house.change_policy(rungs={"memory/write": Loa.MENTOR})
        self.operator = self.house.issue(Person("olga", keyed=False), Loa.OPERATOR, scope=("memory/*",))
        state = self.house.state
        root, (mentor,) = state.root, state.active_witnesses().values()
        assert state.model is not None
        assert state.policy is not None
        table = self.operator.table
        assert table is not None
        self.keys: dict[str, str | None] = {"root.key": root.key, "w.key": mentor.key.hex()}
        self.file = blueprint.Blueprint(
            root=blueprint.Root(key="root.key", owner_id=root.owner_id, owner_name=root.name),
            quorum=blueprint.Quorum(k=1, proposal_ttl_s=3600),
            mentor=(blueprint.Mentor(id="witness", name="Witness", key="w.key", licence="w.toml", expires_at=END),),
            licence=(
                blueprint.Licence(
                    id="olga", name="Olga", loa=Loa.OPERATOR, expires_at=table.expires_at, out="o", scope=("memory/*",)
                ),
            ),
            model=state.model,
            policy=state.policy,
        )

    def views(self) -> dict[str, Any]:
        """The licences as they would be listed, the operator's under the id that a set-up gives it."""
        state = self.house.state
        view = license_rules.view(state.licences[self.operator.licence_id], self.house.now_ms)
        name = blueprint.licence_id(state.runtime_id, "olga", Loa.OPERATOR)
        return {name: msgspec.structs.replace(view, license_id=name)}

    def against(self, file: blueprint.Blueprint, keys: dict[str, str | None] | None = None) -> None:
        blueprint.against(file, self.house.state, self.views(), keys or self.keys)


END = "2035-01-01"


@pytest.fixture(scope="module")
def built() -> Built:
    return Built()


def test_a_house_agrees_with_its_file(built: Built) -> None:
    """No contradiction; and what the file doesn't say is none either."""
    built.against(built.file)
    built.against(msgspec.structs.replace(built.file, model=None, policy=None, licence=()))


def test_before_anything_was_built_nothing_contradicts(built: Built) -> None:
    """A log that has only its Root agrees with every file of that Root's."""
    fresh = House()
    keys = {**built.keys, "root.key": fresh.state.root.key, "w.key": None}
    blueprint.against(built.file, fresh.state, {}, keys)


OTHER = "ab" * 32


@pytest.mark.parametrize(
    ("where", "changes", "field"),
    [
        ("root", {"owner_id": "eve"}, "$.root.owner_id"),
        ("root", {"owner_name": "Eve"}, "$.root.owner_name"),
        ("quorum", {"k": 3}, "$.quorum.k"),
        ("quorum", {"proposal_ttl_s": 60}, "$.quorum.proposal_ttl_s"),
        ("quorum", {"c": 1}, "$.quorum.c"),
        ("quorum", {"cosigner": (system.Cosigner(vkey="x", url=None),)}, "$.quorum.cosigner"),
        ("quorum", {"kinds": {"log_key": 2}}, "$.quorum.kinds"),
        ("mentor", {"name": "Wally"}, "$.mentor[0].name"),
        ("mentor", {"id": "wally", "key": "other.key"}, "$.mentor"),
        ("mentor", {"key": "other.key"}, "$.mentor[0].key"),
        ("mentor", {"key": "missing.key"}, "$.mentor[0].key"),
        ("mentor", {"voice": "other.key"}, "$.mentor[0].voice"),
        ("licence", {"name": "Olaf"}, "$.licence[0].name"),
        ("licence", {"expires_at": END}, "$.licence[0].expires_at"),
        ("licence", {"scope": None}, "$.licence[0].scope"),
        ("licence", {"public_key": OTHER}, "$.licence[0].key"),
        ("licence", {"key": "other.key"}, "$.licence[0].key"),
        ("model", {"bias": 2}, "$.model.bias"),
        ("model", {"version": "9"}, "$.model.version"),
        ("policy", {"rungs": {"memory/write": Loa.ROOT}}, "$.policy.rungs.memory/write"),
        ("policy", {"rungs": {}}, "$.policy.rungs"),
        ("policy", {"rate_limit": 5}, "$.policy.rate_limit"),
    ],
    ids=str,
)
def test_a_contradiction_is_named_by_its_field(built: Built, where: str, changes: dict[str, Any], field: str) -> None:
    """The file says one thing, the log another: which, and what each says."""
    part = getattr(built.file, where)
    several = isinstance(part, tuple)
    changed = msgspec.structs.replace(part[0] if several else part, **changes)
    file = msgspec.structs.replace(built.file, **{where: (changed,) if several else changed})
    with pytest.raises(blueprint.Contradiction) as caught:
        built.against(file, {**built.keys, "other.key": OTHER, "missing.key": None})
    assert caught.value.field == field, caught.value


def test_what_ended_is_not_made_again(built: Built) -> None:
    """A licence that was revoked is a contradiction, not a gap to fill."""
    gone = Built()
    gone.house.revoke(gone.operator)
    with pytest.raises(blueprint.Contradiction, match="revoked it at seq") as caught:
        gone.against(gone.file)
    assert caught.value.field == "$.licence[0].id"


@given(st.text(max_size=200) | st.binary(max_size=200))
def test_no_file_is_a_fault(tmp_path_factory: pytest.TempPathFactory, junk: str | bytes) -> None:
    """Whatever stands in it, the answer is a refusal."""
    path = tmp_path_factory.getbasetemp() / "junk.toml"
    path.write_bytes(junk if isinstance(junk, bytes) else junk.encode("utf-8", "surrogatepass"))
    with pytest.raises(blueprint.BadBlueprint):
        blueprint.read(path)


def test_a_licence_has_one_id_for_owner_and_level() -> None:
    """Another owner, level or deployment is another licence; and the id is one that the house takes."""
    one, other = ids.new(), ids.new()
    found = {blueprint.licence_id(*said) for said in (
        (one, "ada", Loa.GUEST), (one, "ada", Loa.OPERATOR), (one, "bob", Loa.GUEST), (other, "ada", Loa.GUEST)
    )}  # fmt: skip
    assert len(found) == 4
    assert all(map(ids.is_id, found))
    assert blueprint.licence_id(one, "ada", Loa.GUEST) in found


def test_a_default_is_no_shared_thing(tmp_path: Path) -> None:
    """Tables are frozen: nobody who reads one file changes what another says."""
    with pytest.raises(AttributeError):
        read(tmp_path, FILE).quorum.k = 1  # type: ignore[misc]
    assert msgspec.structs.asdict(read(tmp_path, FILE).quorum)["k"] == 2
