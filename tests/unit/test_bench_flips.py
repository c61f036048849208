"""What the load calls good, and what the bench tells of it."""

from bench.flip import different
from bench.flips import inside, record, summary
from tests.support.load import Outcome, bad


def outcome(began: float, took: float, *, streamed: bool = False, content: str = "a b") -> Outcome:
    return Outcome(began, took, streamed, None, 8, content)


def test_a_stream_with_another_text_than_every_whole_answer_is_cut() -> None:
    good = [outcome(0, 1), outcome(0, 1, streamed=True)]
    assert bad(good) == []
    (lost,) = bad([*good, outcome(1, 1, streamed=True, content="a")])
    assert lost.cut


def test_an_input_that_the_way_back_left_otherwise_is_found_and_so_is_a_resource_too_many_or_few() -> None:
    before = {"same": {"a": 1}, "other": {"a": 1}, "gone": {}, "component": None}
    now = {"same": {"a": 1}, "other": {"a": 2}, "new": {}, "component": None}
    assert different(before, now) == ["gone", "new", "other"]
    assert different(before, before) == []


def test_a_flip_tells_its_longest_gap_and_who_was_inside() -> None:
    outcomes = [outcome(9, 0.5), outcome(10.5, 5), outcome(16, 0.5)]
    flip = record("hold", "vllm", outcomes, texts=outcomes, began=10, ended=15, hold=4.0, ours=2.0)
    assert flip["gap"] == 6.0
    assert [each[0] for each in inside(flip)] == [0.5]


def test_three_hundredths_of_a_hundred_requests_may_have_been_lost_unseen() -> None:
    outcomes = [outcome(n, 0.5) for n in range(100)]
    row = summary("hold", [record("hold", "vllm", outcomes, texts=outcomes, began=10, ended=15)])
    assert row[1:6] == [1, 100, 0, 0, "3.0000 %"]
    outcomes[3].problem = "cut: no end"
    row = summary("hold", [record("hold", "vllm", outcomes, texts=outcomes, began=10, ended=15)])
    assert row[3:6] == [0, 1, "-"]
