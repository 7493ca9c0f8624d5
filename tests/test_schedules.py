"""Schedules: closed forms, composition, transforms, and errors at the door."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from funcebm import jit, schedules

COUNTS = torch.arange(25)

# name: schedule, the closed form as a plain function of the count
TABLE = {
    "constant": (schedules.constant(0.3), lambda n: 0.3),
    "linear": (schedules.linear(2.0, 0.5, 10), lambda n: 2.0 - 1.5 * min(n, 10) / 10),
    "cosine": (schedules.cosine(2.0, 0.5, 10), lambda n: 0.5 + 0.75 * (1 + math.cos(math.pi * min(n, 10) / 10))),
    "exponential": (schedules.exponential(2.0, 0.7, minimum=0.1), lambda n: max(0.1, 2.0 * 0.7**n)),
    "exponential_slow": (schedules.exponential(2.0, 0.5, num_steps=4), lambda n: 2.0 * 0.5 ** (n / 4)),
    "geometric": (schedules.geometric(0.5, 8.0, 10), lambda n: 0.5 * 16.0 ** (min(n, 10) / 10)),
    "logarithmic": (schedules.logarithmic(2.0), lambda n: 2.0 * math.log(2) / math.log(n + 2)),
    "polynomial": (schedules.polynomial(2.0, 0.5, 10, power=3.0), lambda n: 0.5 + 1.5 * (1 - min(n, 10) / 10) ** 3),
    "multi_step": (
        schedules.piecewise([5, 9], [1.0, 0.1, 0.01]),
        lambda n: 0.1 ** sum(milestone <= n for milestone in (5, 9)),
    ),
    "warm_up": (
        schedules.warm_up(schedules.exponential(2.0, 0.9), 6, initial_factor=0.1),
        lambda n: 2.0 * (0.1 + 0.9 * n / 6) if n <= 6 else 2.0 * 0.9 ** (n - 6),
    ),
    "join": (
        schedules.join([schedules.linear(0.0, 1.0, 4), schedules.constant(1.0), schedules.linear(1.0, 0.0, 5)], [4, 9]),
        lambda n: n / 4 if n < 4 else 1.0 if n < 9 else max(0.0, 1 - (n - 9) / 5),
    ),
    "temperature": (
        schedules.temperature(0.15, 20),
        lambda n: 0.15 * max(0.0, (min(n, 20) / 20 - 0.8) / 0.2),
    ),
    "temperature_past_one": (
        schedules.temperature(0.15, 20, threshold=0.5, start=0.25, end=1.25, square_root=True),
        lambda n: math.sqrt(0.15 * min(1.0, max(0.0, (0.25 + min(n, 20) / 20 - 0.5) / 0.5))),
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_is_its_closed_form_elementwise_and_one_by_one(name):
    schedule, formula = TABLE[name]
    expected = torch.tensor([formula(int(n)) for n in COUNTS])
    # 3e-4: the square root of a difference of two times of order one, in float32, at the kink
    tolerance = 3e-4 if "past_one" in name else 1e-6
    torch.testing.assert_close(schedule(COUNTS), expected, atol=tolerance, rtol=1e-6)
    singles = [schedule(n) for n in COUNTS]
    assert all(value.shape == () and value.dtype == torch.float32 for value in singles)
    torch.testing.assert_close(torch.stack(singles), schedule(COUNTS), atol=0, rtol=0)
    torch.testing.assert_close(torch.func.vmap(schedule)(COUNTS), schedule(COUNTS), atol=0, rtol=0)
    assert schedule(3) == schedule(torch.tensor(3))


@pytest.mark.parametrize("name", TABLE)
def test_a_float64_step_gives_a_float64_value(name):
    assert TABLE[name][0](torch.tensor(3.0, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.compiled
@pytest.mark.usefixtures("op_by_op")
def test_all_are_traced_into_one_graph():
    def everything(step):
        return torch.stack([schedule(step) for schedule, _ in TABLE.values()])

    compiled = jit(everything)
    for step in (torch.tensor(0), torch.tensor(7)):
        torch.testing.assert_close(compiled(step), everything(step), atol=0, rtol=0)


@given(start=st.floats(-10, 10), end=st.floats(-10, 10), num_steps=st.integers(1, 1000), beyond=st.integers(0, 10**6))
def test_ramps_meet_both_ends_exactly_and_stay(start, end, num_steps, beyond):
    for make in (schedules.linear, schedules.cosine, schedules.polynomial):
        schedule = make(start, end, num_steps)
        assert schedule(torch.tensor(0)) == torch.tensor(start)
        assert schedule(torch.tensor(num_steps + beyond)) == torch.tensor(end)


def test_counts_past_float32_are_compared_as_integers():
    schedule = schedules.piecewise([2**24 + 1], [0.0, 1.0])
    assert schedule(torch.tensor(2**24)) == 0
    assert schedule(torch.tensor(2**24 + 1)) == 1


def test_numbers_may_be_traced():
    def value(start, rate):
        return schedules.exponential(start, rate)(torch.tensor(3))

    starts, rates = torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.9])
    torch.testing.assert_close(torch.func.vmap(value)(starts, rates), starts * rates**3)
    torch.testing.assert_close(torch.func.grad(value)(starts[0], rates[0]), torch.tensor(0.125))


def test_a_warm_up_of_no_steps_is_the_schedule():
    schedule = schedules.linear(1.0, 0.0, 5)
    torch.testing.assert_close(schedules.warm_up(schedule, 0)(COUNTS), schedule(COUNTS))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: schedules.constant("a"), "value must be a finite number"),
        (lambda: schedules.constant(float("nan")), "finite"),
        (lambda: schedules.constant(torch.ones(2)), "0-d tensor"),
        (lambda: schedules.linear(1.0, 0.0, 0), "num_steps must be an integer of at least 1"),
        (lambda: schedules.cosine(1.0, 0.0, 2.5), "num_steps"),
        (lambda: schedules.exponential(1.0, 1.5), r"decay_rate must be in \(0, 1\]"),
        (lambda: schedules.exponential(1.0, torch.tensor(0.0)), "decay_rate"),
        (lambda: schedules.exponential(1.0, 0.5, minimum=-1.0), "minimum"),
        (lambda: schedules.geometric(0.0, 1.0, 5), r"start must be in \(0, inf\)"),
        (lambda: schedules.geometric(1.0, -1.0, 5), "end must be in"),
        (lambda: schedules.geometric(1.0, 2.0, 0), "num_steps"),
        (lambda: schedules.logarithmic(0.0), "start must be in"),
        (lambda: schedules.polynomial(1.0, 0.0, 5, power=0.0), "power"),
        (lambda: schedules.piecewise([5, 5], [1.0, 2.0, 3.0]), "increase strictly"),
        (lambda: schedules.piecewise([5], [1.0]), "one more than boundaries"),
        (lambda: schedules.warm_up(0.1, 5), "function of the step"),
        (lambda: schedules.warm_up(schedules.constant(1.0), -1), "at least 0"),
        (lambda: schedules.join([schedules.constant(1.0)], [3]), "one more than boundaries"),
        (lambda: schedules.temperature(-1.0), "maximum"),
        (lambda: schedules.temperature(1.0, threshold=1.0), "threshold"),
        (lambda: schedules.temperature(1.0, start=1.0, end=0.0), "end must be at least start"),
    ],
)
def test_bad_arguments_say_what_must_hold(make, words):
    with pytest.raises(ValueError, match=words):
        make()
