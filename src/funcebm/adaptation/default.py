"""The adaptation that suits a sampler, for those who do not want to choose."""

from __future__ import annotations

from .. import checks, metrics
from ..samplers._clusters import ClusterTuning
from ..samplers.discrete_langevin import DiscreteLangevinTuning
from ..samplers.elliptical_slice import EllipticalSliceTuning
from ..samplers.gibbs import GibbsTuning
from ..samplers.gibbs_with_gradients import GibbsWithGradientsTuning
from ..samplers.locally_balanced import LocallyBalancedTuning
from ..samplers.mixed_hmc import MixedHMCTuning
from ..samplers.nuts import NUTSTuning
from ..samplers.path_auxiliary import PathAuxiliaryTuning
from ..samplers.single_site import SingleSiteTuning
from ..types import Adaptation, Sampler
from .chees import chees
from .mclmc import adjusted_mclmc_adaptation, mclmc_adaptation
from .meads import meads
from .parts import is_on_part, of_parts
from .unchanged import UnchangedMemory, unchanged
from .window import window_adaptation

__all__ = ["UnchangedMemory", "default", "unchanged"]


_NOTHING_TO_TUNE = (
    ClusterTuning,
    EllipticalSliceTuning,
    GibbsTuning,
    GibbsWithGradientsTuning,
    LocallyBalancedTuning,
    PathAuxiliaryTuning,
    SingleSiteTuning,
)


def default(sampler: Sampler, num_chains: int) -> Adaptation:
    """The adaptation that suits a sampler.

    =====================================================  ==========================================
    the tuning has                                         what comes back
    =====================================================  ==========================================
    ``decoherence_length`` (MCLMC)                         :func:`mclmc_adaptation`
    ``trajectory_length`` and ``temperature`` (dynamic     :func:`chees` with 2 chains or more
    HMC)
    ``trajectory_length`` (adjusted MCLMC)                 :func:`adjusted_mclmc_adaptation`
    ``alpha`` and ``delta`` (GHMC)                         :func:`meads` with a multiple of 4 chains, 8 or more
    ``step_size`` (HMC, NUTS, MALA, Barker, random walk,   :func:`window_adaptation`; dense where the metric is dense, and
    Langevin, and those above with fewer chains)           for NUTS with the harmonic mean of the acceptance rates
    a tuple of tunings (``cycle``, ``mix``), or what       :func:`of_parts`: to each part its own step size and metric
    :func:`~funcebm.samplers.on` runs on leaves
    nothing, a prior (elliptical slice), a kernel of       :func:`unchanged`
    discrete states without a test or a step size
    =====================================================  ==========================================

    Args:
        sampler: to be warmed up.
        num_chains: how many chains there are.

    Returns:
        An :class:`~funcebm.types.Adaptation`.

    The rate of a NUTS step is a mean over its trajectory, in which one bad leaf is hardly seen, and so is one chain in the mean
    over the chains. So NUTS goes for 0.9 and not for the 0.8 at which it is cheapest, and by the harmonic mean. In 320,000 draws
    (20 runs of 4 chains, 1,000 steps of warm-up) eight schools (non-centred) diverged 2 times and a banana 8 times; 15 and 8
    times with the harmonic mean at 0.8; 254 and 957 times with the mean at 0.8. Against the harmonic mean at 0.8 this costs
    13 % of the effective samples a gradient on the schools, 4 % on the banana, 18 % on a 100-D Gaussian.
    ``window_adaptation(target=0.95, average="harmonic")`` is more careful still: 1 and 0 divergences.

    Samplers for minibatches have no acceptance rate and no gradient of the whole energy: their step size is set by hand.
    Parallel tempering has no tuning of its own: warm up its local sampler.

    Raises:
        ValueError: a sampler that none of them knows.

    >>> from funcebm import samplers
    >>> default(samplers.hmc(lambda params, x: (x**2).sum() / 2), 4).windows(1000)
    (75, 25, 50, 100, 200, 500, 50)
    """
    checks.positive_int("num_chains", num_chains)
    tuning = sampler.tuning
    if sampler.parts and (type(tuning) is tuple or is_on_part(sampler)):
        return of_parts(sampler)
    fields = set(getattr(tuning, "_fields", ()))
    metric: str | None = "dense" if isinstance(getattr(tuning, "metric", None), metrics.Dense) else "diagonal"
    if isinstance(tuning, MixedHMCTuning):  # draws have discrete leaves too, which no metric is for
        metric = None
    if "decoherence_length" in fields:
        return mclmc_adaptation(metric=metric)
    if {"trajectory_length", "temperature"} <= fields and num_chains >= 2:
        return chees(metric=metric)
    if "trajectory_length" in fields and "temperature" not in fields:
        return adjusted_mclmc_adaptation(metric=metric)
    if {"alpha", "delta"} <= fields and num_chains >= 8 and num_chains % 4 == 0:
        return meads()
    is_unadjusted = isinstance(tuning, DiscreteLangevinTuning) and sampler.target_acceptance is None
    if "step_size" in fields and not is_unadjusted:
        return window_adaptation(metric=metric, average="harmonic" if isinstance(tuning, NUTSTuning) else "mean")
    checks.require(
        tuning == () or is_unadjusted or isinstance(tuning, _NOTHING_TO_TUNE),
        "a default adaptation needs a tuning that it knows, with a step_size",
        f"{type(tuning).__name__} {sorted(fields)}" if fields else type(tuning).__name__,
        "Choose one of funcebm.adaptation: window_adaptation, chees (dynamic_hmc), meads (ghmc), mclmc_adaptation, "
        "adjusted_mclmc_adaptation, or unchanged, which tunes nothing.",
    )
    return unchanged()
