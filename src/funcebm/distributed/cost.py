"""What ranks would cost: a model of time for runs on more devices than are at hand."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from .. import checks

__all__ = ["Cost", "Network", "lockstep", "simulate", "table"]


class Network(NamedTuple):
    r"""What a message costs: ``a(N) + 2 (N - 1) / N * bytes / bandwidth`` seconds, for a sum over N devices.

    The defaults are of GPUs with NVLink in nodes of eight, and InfiniBand between nodes: :math:`a = 12` microseconds in a node,
    :math:`6.8 + 2 \cdot 5 \log_2(\text{nodes}) + 10` between nodes (tables of NCCL). Measure your own: ``latency`` as the
    seconds of a sum of four bytes.

    Attributes:
        latency: seconds in a node, at ``per_node`` devices.
        hop: seconds for each doubling of the number of nodes.
        between: seconds that any message between nodes takes beside.
        bandwidth: bytes a second in a node.
        bandwidth_between: bytes a second between nodes.
        per_node: devices in a node.
    """

    latency: float = 12e-6
    hop: float = 10e-6
    between: float = 16.8e-6
    bandwidth: float = 450e9
    bandwidth_between: float = 360e9
    per_node: int = 8

    def seconds(self, num: int, num_bytes: float = 0.0) -> float:
        """Of one sum over ``num`` devices."""
        if num == 1:
            return 0.0
        nodes = math.ceil(num / self.per_node)
        wait = self.latency * math.log2(num) / math.log2(self.per_node) if nodes == 1 else 0.0
        wait = wait if nodes == 1 else self.between + self.hop * math.log2(nodes)
        bandwidth = self.bandwidth if nodes == 1 else self.bandwidth_between
        return wait + 2 * (num - 1) / num * num_bytes / bandwidth


class Cost(NamedTuple):
    """One number of devices: ``seconds`` of a step, its part that is ``waiting`` for messages, and the ``efficiency``."""

    num_devices: int
    seconds: float
    waiting: float
    efficiency: float


def simulate(
    what: str,
    num_devices: list[int] | tuple[int, ...] = (1, 8, 64, 256, 1024),
    *,
    compute: float,
    floor: float = 3e-6,
    num_bytes: float = 0.0,
    num_messages: int = 1,
    most_parts: int | None = None,
    every: int = 1,
    overlap: float = 0.0,
    is_weak: bool = False,
    network: Network | None = None,
) -> list[Cost]:
    r"""Seconds of a step on N devices, and where another one stops to help.

    .. math:: t(N) = \max\Big(\frac{t_1}{\min(N, m)}, f\Big)
        + (1 - o)\, \frac{k}{e} \Big(a(N) + \frac{2 (N - 1)}{N} \frac{S}{b}\Big)

    with the work :math:`t_1` of one device, :math:`m` parts at most, the floor :math:`f` of a kernel, :math:`k` messages of
    :math:`S` bytes in every :math:`e`-th step, of which the share :math:`o` is hidden behind work. The efficiency is
    :math:`t_1 / (N t(N))`, or :math:`t_1 / t(N)` where each device has as much to do as one had before (``is_weak``).

    ``what`` sets how many messages there are where it is not said: ``"chains"`` none, ``"adaptation"`` one a step,
    ``"tempering"`` one a scan, ``"training"`` one gradient, ``"nuts"`` none, but chains of a rank wait for its slowest: their
    work is longer by the factor of :func:`lockstep`, with ``most_parts`` chains.

    Args:
        what: one of the five.
        num_devices: N, each of them.
        compute: :math:`t_1`, seconds of a step on one device; measure it.
        floor: :math:`f`, seconds that the smallest step takes.
        num_bytes: :math:`S` of a message: 4 x params for a gradient, some hundreds for adaptation.
        num_messages: :math:`k`.
        most_parts: :math:`m`, such as the number of rungs or chains; None is no limit.
        every: :math:`e`; pooling every tenth step makes a tenth of the waiting.
        overlap: :math:`o` in [0, 1).
        is_weak: whether the work grows with N.
        network: what messages cost; by default GPUs with NVLink and InfiniBand.

    Returns:
        A :class:`Cost` for each N. Arithmetic, not a measurement.

    Raises:
        ValueError: another kind, or a number out of its range.

    >>> few, many = simulate("adaptation", (8, 1024), compute=40e-3, num_bytes=64_000)
    >>> few.efficiency > 0.95 > 0.5 > many.efficiency
    True
    """
    kinds = ("chains", "adaptation", "tempering", "training", "nuts")
    checks.require(what in kinds, f"what must be one of {kinds}", what, 'Write "training" for gradients.')
    checks.positive("compute", compute)
    checks.positive("floor", floor)
    checks.positive_int("num_messages", num_messages, minimum=0)
    checks.positive_int("every", every)
    checks.require(0 <= overlap < 1, "overlap must be in [0, 1)", overlap, "0 hides nothing.")
    network = Network() if network is None else network
    messages = 0 if what in ("chains", "nuts") else num_messages
    found = []
    for num in num_devices:
        checks.positive_int("num_devices", num)
        parts = num if most_parts is None else min(num, most_parts)
        work = compute if is_weak else max(compute / parts, min(floor, compute))
        if what == "nuts" and most_parts is not None:
            work = work * lockstep(1) / lockstep(max(1, most_parts // num))
        waiting = (1 - overlap) * messages / every * network.seconds(num, num_bytes)
        seconds = work + waiting
        found.append(Cost(num, seconds, waiting, compute / seconds / (1 if is_weak else num)))
    return found


_DEPTHS: dict[int, float] = {3: 0.05, 4: 0.25, 5: 0.5, 6: 0.15, 7: 0.05}


def lockstep(num_chains: int, depths: dict[int, float] | None = None) -> float:
    r"""How much of the work of NUTS chains in lock step is used: the mean length of a tree over the mean of the longest.

    With the distribution :math:`p` of depths :math:`j`, trees have :math:`2^j - 1` leapfrog steps, and the longest of n is at
    most of depth j with probability :math:`P(j)^n`.

    Args:
        num_chains: n.
        depths: depth to probability; by default those of a middling posterior.

    Returns:
        In (0, 1].

    >>> lockstep(1), lockstep(4) > lockstep(256)
    (1.0, True)
    """
    depths = _DEPTHS if depths is None else depths
    mean = sum((2**depth - 1) * share for depth, share in depths.items())
    longest, below, total = 0.0, 0.0, 0.0
    for depth in sorted(depths):
        total = min(total + depths[depth], 1.0)
        longest += (2**depth - 1) * (total**num_chains - below**num_chains)
        below = total
    return float(mean / longest) if num_chains > 1 else 1.0


def table(costs: list[Cost], unit: str = "us") -> str:
    """The costs as lines of text.

    Args:
        costs: from :func:`simulate`.
        unit: ``"s"``, ``"ms"`` or ``"us"``.

    Returns:
        A table.

    >>> print(table(simulate("chains", (1, 2), compute=2e-3), "ms"))
     devices    ms a step    waiting  efficiency
           1          2.0        0.0       100%
           2          1.0        0.0       100%
    """
    factor: Any = {"s": 1, "ms": 1e3, "us": 1e6}[unit]
    lines = [f"{'devices':>8} {unit + ' a step':>12} {'waiting':>10} {'efficiency':>11}"]
    for cost in costs:
        lines.append(
            f"{cost.num_devices:>8,} {cost.seconds * factor:>12,.1f} {cost.waiting * factor:>10,.1f} {cost.efficiency:>10.0%}"
        )
    return "\n".join(lines)
