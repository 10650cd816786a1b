"""The quorum from the command line, one house and one story: a policy signed where no server is, a rebase, and Root replaced on both roads.

The tests go on where the one before ended; each key lies in a file of its own, and only its owner's words name it.
"""

import json
import re

import pytest

from sigilcore import policy
from tests.house.test_cli import Person


class Story(Person):
    """A house with one witness, and what everyone there does."""

    root = "root"

    def as_root(self, *words: str, code: int = 0) -> dict:
        """A verb of Root's, signed with its key file."""
        return self.told(*words, "--key", f"{self.root}.key", "--profile", self.root, code=code)

    def told(self, *words: str, code: int = 0) -> dict:
        if code:
            return self.refused(*words, code=code)
        return self.ask(*words)

    def offline(self, *words: str, code: int = 0) -> dict:
        """The same verbs on a machine that has neither the house nor a profile: only files."""
        away = {"SIGIL_ADDRESS": "http://127.0.0.1:9", "SIGIL_HOME": str(self.work / "nothing"), "SIGIL_DATA": "none"}
        done = self.sigil(*words, "--json", code=code, **away)
        return json.loads(done.stderr.splitlines()[-1] if code else done.stdout)

    def key(self, name: str) -> str:
        return self.ask("keys", "new", "--out", f"{name}.key")["public_key"]

    def agreed(self, proposal_id: str, *others: str) -> dict:
        """Mia reads it online and signs; so does a key that joins; Root commits."""
        for name in ("mia", *others):
            words = ("--as", name, "--key", f"{name}.key", "--profile", "mia", "--yes")
            self.ask("proposal", "attest", proposal_id, *words)
        return self.commit(proposal_id)

    def commit(self, proposal_id: str) -> dict:
        return self.as_root("proposal", "commit", proposal_id)

    def login(self, name: str) -> None:
        self.sigil("login", "--profile", name, "--license", f"{name}.toml", "--key", f"{name}.key")

    def succeed(self, name: str) -> None:
        """The new Root fetches its licence and logs in."""
        self.ask("root", "license", "--key", f"{name}.key", "--out", f"{name}.toml")
        self.login(name)
        self.root = name


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    made = Story(tmp_path_factory.mktemp("quorum"))
    made.sigil("up")
    try:
        made.genesis = made.ask("init", "--key", "root.key", "--out", "root.toml", "--profile", "root")["genesis_hash"]
        public = made.key("mia")
        mentor = ("--owner-id", "mia", "--owner-name", "Mia", "--loa", "mentor", "--expires-at", "2035-01-01")
        made.as_root("license", "create", *mentor, "--owner-key", public, "--out", "mia.toml")
        made.login("mia")
        joining = made.as_root("witness", "add", "mia", "--witness-key", public)
        made.agreed(joining["proposal_id"])
        made.seal = made.agreed(made.as_root("seal", "--k", "1")["proposal_id"])["hash"]
        yield made
        made.sigil("audit", "export", "--out", "ledger.jsonl")
        report = made.ask("audit", "replay", "ledger.jsonl", "--genesis", made.genesis, "--seal", made.seal)
        assert report["pinned"] == ["genesis", "seal"]
    finally:
        made.sigil("down")


def policy_file(story, version, **changes):
    plain = {"version": version, "rungs": {}, "thresholds": {}, "rate_limit": 120, **changes}
    (story.work / f"{version}.json").write_text(json.dumps(plain))
    return f"{version}.json"


def test_a_policy_signed_where_no_server_is(story):
    """Shown into a file, changed by a stranger on the way: refused. The true one is read and signed offline, brought back, and rules."""
    assert story.ask("policy", "current", "--profile", "mia")["policy"]["version"] == policy.FIRST_POLICY.version
    made = story.as_root("policy", "upload", policy_file(story, "strict", rungs={"witness/list": "mentor"}))
    show = ("proposal", "show", made["proposal_id"], "--profile", "mia", "--out", "carried.json")
    assert story.ask(*show)["state"] == "open"
    text = (story.work / "carried.json").read_text()
    assert "witness/list" in text
    (story.work / "bent.json").write_text(text.replace("witness/list", "license/list"))
    sign = ("--as", "mia", "--key", "mia.key", "--license", "mia.toml")
    assert story.offline("proposal", "sign", "bent.json", *sign, code=1)["code"] == "UNVERIFIED"
    assert (
        story.offline("proposal", "sign", "carried.json", *sign[:4], "--genesis", "0" * 64, code=1)["code"]
        == "UNVERIFIED"
    )
    assert story.refused("proposal", "submit", "carried.json")["code"] == "REFUSED"
    signed = story.offline("proposal", "sign", "carried.json", *sign, "--seal", story.seal)
    assert signed["record_hash"] == made["hash"]
    assert story.ask("proposal", "submit", "carried.json") == {"have": 1, "need": 1, "state": "ready"}
    assert story.refused("proposal", "submit", "carried.json")["code"] == "ALREADY_ATTESTED"
    story.commit(made["proposal_id"])
    assert story.ask("policy", "current", "--profile", "mia")["policy"]["rungs"] == {"witness/list": "mentor"}


def test_a_candidates_score_is_explained(story):
    """Whose standing a proposal of witnesses would count is told with the score; a command that proposes nobody takes no name."""
    explain = ("trust", "explain", "--profile", story.root)
    told = story.ask(*explain, "witness/add", "--candidate", "mia", "--candidate", "nobody-yet")
    assert told["standing_of"] == ["mia", "nobody-yet"]
    assert "standing: the lowest of mia" in story.sigil(*explain, "witness/add", "--candidate", "mia").stdout
    assert story.refused(*explain, "keys/revoke", "--candidate", "mia")["code"] == "BAD_INPUT"


def test_a_lost_race_is_proposed_again(story):
    """Two policies on one head: the second is stale, and rebased it needs its voices anew."""
    first = story.as_root("policy", "upload", policy_file(story, "one", rate_limit=100))
    second = story.as_root("policy", "upload", policy_file(story, "two", rate_limit=200))
    story.agreed(first["proposal_id"])
    stale = story.ask("proposal", "show", second["proposal_id"], "--profile", "mia")
    assert (stale["state"], stale["on_head"]) == ("stale", False)
    assert {line["path"]: (line["old"], line["new"]) for line in stale["difference"]}["$.policy.rate_limit"] == (
        100,
        200,
    )
    rebased = story.as_root("proposal", "rebase", second["proposal_id"])
    assert rebased["proposal_id"] != second["proposal_id"]
    assert story.ask("proposal", "show", rebased["proposal_id"], "--profile", "mia")["have"] == 0
    story.agreed(rebased["proposal_id"])
    assert story.ask("policy", "current", "--profile", "mia")["policy"]["rate_limit"] == 200


def test_changes_that_stand_or_fall_together(story):
    """A policy and a longer life for proposals, from one file: nonsense names its entry; shown, signed and rebased as one."""
    policy_ = {"version": "three", "rungs": {}, "thresholds": {}, "rate_limit": 300}
    quorum = {
        "k": 1,
        "kinds": {},
        "proposal_ttl_s": 7200,
        "checkpoint_witnesses": {"c": 0, "cosigners": []},
        "persona_cap": 0,
    }
    parts = [{"kind": "access_policy", "payload": {"policy": policy_}}, {"kind": "quorum_policy", "payload": quorum}]
    (story.work / "several.json").write_text(json.dumps([parts[0], {**parts[1], "kind": "genesis"}]))
    refused = story.as_root("proposal", "together", "several.json", code=1)
    assert (refused["code"], refused["field"]) == ("BAD_INPUT", "$.payload.changes[1].kind")
    (story.work / "several.json").write_text(json.dumps(parts))
    first = story.as_root("proposal", "together", "several.json")
    story.agreed(story.as_root("policy", "upload", policy_file(story, "between", rate_limit=250))["proposal_id"])
    rebased = story.as_root("proposal", "rebase", first["proposal_id"])
    shown = story.ask("proposal", "show", rebased["proposal_id"], "--profile", "mia")
    told = {line["path"]: (line["old"], line["new"]) for line in shown["difference"]}
    assert shown["kind"] == "changes"
    assert told["$.changes[0].payload.policy.rate_limit"] == (250, 300)
    assert told["$.changes[1].payload.proposal_ttl_s"] == (86_400, 7200)
    committed = story.agreed(rebased["proposal_id"])
    current = story.ask("policy", "current", "--profile", "mia")
    assert (current["policy"]["rate_limit"], current["seq"]) == (300, committed["seq"])


def test_root_gives_its_place_to_another(story):
    """Proposed with the old key, proven with the new one, agreed by the quorum; then the old licence opens nothing."""
    public = story.key("zoe")
    change = ("--owner-id", "zoe", "--owner-name", "Zoe", "--root-key", public)
    story.agreed(story.as_root("root", "replace", *change)["proposal_id"], "zoe")
    refused = story.refused("login", "--profile", "again", "--license", "root.toml", "--key", "root.key")
    assert refused["code"] == "LICENSE_INVALID"
    assert story.refused("root", "license", "--key", "root.key", "--out", "x.toml")["code"] == "ROOT_IS_SINGLE"
    story.succeed("zoe")
    ada = ("--owner-id", "ada", "--owner-name", "Ada", "--loa", "guest", "--expires-at", "2035-01-01")
    story.as_root("license", "create", *ada, "--out", "ada.toml")


def test_root_is_put_aside_by_all_witnesses(story):
    """A record by the new Root goes by hand from witness to witness; without them it is refused, with them the old Root is out."""
    story.key("yan")
    draft = ("--owner-id", "yan", "--owner-name", "Yan", "--key", "yan.key", "--out", "root.json")
    assert story.ask("root", "draft", *draft)["need"] == 1
    assert story.refused("keys", "carry", "root.json")["code"] == "QUORUM_NOT_SATISFIED"
    shown = story.ask("keys", "attest", "root.json", "--as", "mia", "--key", "mia.key")
    assert (shown["kind"], shown["payload"]["owner_id"]) == ("root_key", "yan")
    story.ask("keys", "carry", "root.json")
    story.succeed("yan")
    licences = story.ask("license", "list", "--profile", "yan")["items"]
    assert [(one["owner_id"], one["revoked_seq"] is None) for one in licences if one["loa"] == "root"] == [
        ("root", False),
        ("zoe", False),
        ("yan", True),
    ]
    listed = story.ask("witness", "list", "--profile", "yan")
    assert (listed["active"], listed["quorum"]) == (1, 1)
    assert re.fullmatch("[0-9a-f]{64}", listed["items"][0]["key"])
