"""Who is suspected, and what the diagnosis says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from codeflow.parallel.faults import Fault, RankFault, diagnoses, dissenters, suspects, write_diagnosis


@pytest.mark.parametrize(
    ("votes", "expected"),
    [
        ("aaaa", ()),
        ("a", ()),
        ("aaba", (2,)),
        ("abab", (0, 1, 2, 3)),
        ("ab", (0, 1)),
        ("aabc", (0, 1, 2, 3)),  # two of four are no majority
        ("aaabc", (3, 4)),
        ("abc", (0, 1, 2)),
    ],
)
def test_the_majority_is_right(votes: str, expected: tuple[int, ...]) -> None:
    assert dissenters({rank: (ord(vote), 0) for rank, vote in enumerate(votes)}) == expected


def fault(*ranks: int) -> Fault:
    return Fault("gradients", "layers.0.x", ranks, 12, "3 copies differ")


def test_a_rank_named_alone_outweighs_groups() -> None:
    assert suspects([fault(0, 1), fault(1), fault(2, 3)]) == (1,)
    assert suspects([fault(0, 1), fault(1, 2)]) == (0, 1, 2)
    assert "rank 1 at step 12" in str(fault(1))
    assert "one of ranks 0, 1 at step 12" in str(fault(0, 1))
    assert RankFault("x", [1]).ranks == (1,)


def test_a_bad_payload_explains_a_pass_with_two_results() -> None:
    again = [Fault("recomputation", "loss", (rank,), 12, "another result on another rank") for rank in range(4)]
    payload = Fault("payloads", "message 3", (2,), 12, "not as rank 3 sent it; 1 messages bad")
    assert suspects([*again, payload]) == (2,)
    assert suspects([*again, payload, fault(1)]) == (1, 2)
    assert suspects(again) == (0, 1, 2, 3)


def test_the_diagnosis_names_everything(tmp_path: Path) -> None:
    path = write_diagnosis(tmp_path, [fault(1)] * 300, ["left", "right"])
    tree = json.loads(path.read_text())
    assert tree["suspects"] == [{"rank": 1, "host": "right"}]
    assert (tree["step"], tree["n_faults"], len(tree["faults"])) == (12, 300, 100)
    assert tree["faults"][0]["tensor"] == "layers.0.x"
    assert diagnoses(tmp_path) == [path]
