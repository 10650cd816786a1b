"""The whole story of the demo, as the demo plays it."""

import pytest

from cli import demo


@pytest.mark.journey
async def test_the_whole_story_holds(tmp_path):
    """From a bare folder to a ledger judged again offline, with every process killed once on the way."""
    assert await demo.play(tmp_path) == 0
