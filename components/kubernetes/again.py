"""What has a step of a stack on a cluster run again though no setting has changed: somebody has changed what
it made. Pure.

A step runs where it is told something else than Pulumi's state has of it, and once it has put things right
the next preview has to be empty. So what it is told is made from what the state has, too.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from components import facts
from components.facts import Variable, variable

ONCE_MORE = "once more"
"""Follows what has been put right before and is the same again: the state would not know the difference."""


def lost(state: Mapping[str, Any], told: Mapping[Variable, str], gone: Sequence[str]) -> dict[Variable, str]:
    """What the step that brings files is told besides `told`, where these ConfigMaps are not there. `state`
    is what Pulumi has of that step, empty where it has none.

    What is not there because the step never brought it is not lost.
    """
    before = str(variable(state, "LOST") or "")
    if gone and all(variable(state, key) == value for key, value in told.items()):
        return {"LOST": facts.lost(facts.lost_in(before)[0] + 1, gone)}
    return {"LOST": before} if before else {}


def live(state: Mapping[str, Any], plan: str, words: str, right: str) -> str:
    """What the step is told that puts right what serves: `words` say how it is, and `right` how it is where
    nobody has changed anything since the step was done with this `plan`."""
    before = variable(state, "LIVE")
    if before is None or state.get("stdin") != plan:
        return words
    if words == right:
        return str(before)
    return words if words != before else facts.fleet(words, [ONCE_MORE])
