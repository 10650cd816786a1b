"""A house's file: what it may say, and each thing in it that can't be, by its field."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli import blueprint
from sigilcore import ids
from sigilcore.access import Loa
from tests.house.test_cli_init import FILE


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
