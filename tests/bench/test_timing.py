"""Rounds, parts and statistics, with a clock that the test turns."""

from __future__ import annotations

import numpy as np
import pytest

from cdal_bench.intervals import interval_words, median, ratio_of_medians
from cdal_bench.results import Latency
from cdal_bench.runners import Part
from cdal_bench.timing import Task, expected_seconds, interleave


class Clock:
    """Seconds that pass only where a part says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []
        self.waits = 0

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.waits += 1

    def part(self, name: str, seconds: float, times: int = 1) -> Part:
        def run() -> None:
            self.now += seconds
            self.log.append(name)

        return Part(name, run, times)


def test_parts_count_as_often_as_they_are_repeated():
    clock = Clock()
    job = Task((clock.part("encoder", 2.0), clock.part("step", 0.5, times=100)), "extrapolated")
    samples = interleave({"a": job}, repetitions=3, warmup=0, clock=lambda: clock.now, wait=clock.wait)
    assert samples == {"a": pytest.approx((52_000.0,) * 3)}


def test_the_whole_is_expected_from_its_parts_after_a_warm_up():
    clock = Clock()
    clock.now = 100.0

    class Slow:
        def parts(self, images):
            return (clock.part("encoder", 2.0), clock.part("step", 0.5, times=100))

    assert expected_seconds(Slow(), None, lambda: clock.now) == 52.0
    assert clock.log == ["encoder", "encoder", "step", "step"]
    assert expected_seconds(object(), None) == 0.0


def test_rounds_are_interleaved_in_changing_order_after_the_warm_up():
    clock = Clock()
    jobs = {name: Task((clock.part(name, 1.0),), None) for name in "abc"}
    samples = interleave(jobs, repetitions=12, warmup=2, clock=lambda: clock.now, wait=clock.wait)
    assert clock.log[:6] == ["a", "a", "b", "b", "c", "c"]
    rounds = [tuple(clock.log[i : i + 3]) for i in range(6, len(clock.log), 3)]
    assert len(rounds) == 12
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)
    assert len(set(rounds)) > 1
    assert {len(values) for values in samples.values()} == {12}
    assert clock.waits == 36, "before each measured run"
    assert samples["a"] == pytest.approx((1000.0,) * 12), "and not measured"


@pytest.mark.parametrize(("seconds", "rounds"), [(0.0, 1), (10.0, 4), (1e9, 9)])
def test_no_round_begins_after_the_time_is_up_but_one_is_always_measured(seconds, rounds):
    clock = Clock()
    job = {"a": Task((clock.part("a", 3.0),), None)}
    assert (
        len(interleave(job, repetitions=9, warmup=0, seconds=seconds, clock=lambda: clock.now, wait=clock.wait)["a"])
        == rounds
    )


def test_medians_lie_in_their_intervals():
    samples = np.random.default_rng(0).normal(100, 10, 400)
    found, of_few = median(samples), median(samples[:20])
    assert found.value == np.median(samples)
    assert found.low < 100 < found.high
    assert found.low < found.value < found.high
    assert of_few.high - of_few.low > 2 * (found.high - found.low)


def test_an_interval_of_a_median_holds_the_truth_in_95_of_100_cases():
    rng = np.random.default_rng(1)
    found = [median(rng.normal(100, 10, 20)) for _ in range(300)]
    assert sum(interval.low < 100 < interval.high for interval in found) / 300 > 0.9


def test_tails_have_no_intervals():
    latency = Latency.of(tuple(np.random.default_rng(0).normal(100, 10, 100)))
    for tail, expected in ((latency.p95, 116.4), (latency.p99, 123.3)):
        assert tail.low == tail.value == tail.high == pytest.approx(expected, rel=0.1)


def test_one_sample_has_no_width():
    found = median([5.0])
    assert (found.value, found.low, found.high) == (5.0, 5.0, 5.0)
    assert interval_words(1) == ""


def test_few_samples_have_their_range():
    found = median([5.0, 1.0, 2.0, 3.0, 4.0])
    assert (found.value, found.low, found.high) == (3.0, 1.0, 5.0)
    ratio = ratio_of_medians([100.0, 110.0, 120.0], [10.0, 11.0, 12.0])
    assert (ratio.value, ratio.low, ratio.high) == (10.0, 100 / 12, 12.0)
    assert interval_words(5) == "range of 5 rounds"
    assert interval_words(6) == "95 % interval"


def test_a_ratio_covers_the_truth():
    rng = np.random.default_rng(2)
    found = ratio_of_medians(rng.normal(500, 20, 50), rng.normal(10, 1, 50))
    assert found.low < 50 < found.high
    assert found.high - found.low < 10
