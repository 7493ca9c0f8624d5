"""Point clouds: their supports, their moments, their keys; the digits."""

import math
import sys

import pytest
import torch

from funcebm import datasets, random

CLOUDS = [
    datasets.two_moons,
    datasets.eight_gaussians,
    datasets.gaussian_mixture,
    datasets.swiss_roll,
    datasets.rings,
    datasets.checkerboard,
    datasets.pinwheel,
    datasets.grid,
    datasets.spirals,
]
NOISY = [cloud for cloud in CLOUDS if cloud is not datasets.checkerboard]
WITH_NOISE = [cloud for cloud in NOISY if cloud not in (datasets.eight_gaussians, datasets.gaussian_mixture)]


def assert_shares(which, num_kinds):
    """Independent labels of equal probability: each count is binomial, within 5 standard errors."""
    counts = torch.bincount(which, minlength=num_kinds).double()
    p, n = 1 / num_kinds, len(which)
    assert counts.shape == (num_kinds,)
    assert bool(((counts - n * p).abs() < 5 * math.sqrt(n * p * (1 - p))).all())
    assert bool((counts != counts[0]).any()), "drawn, not dealt out in turn"


@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_cloud_is_a_function_of_its_key(cloud):
    points = cloud(random.key(0), 101)
    assert points.shape == (101, 2)
    assert points.dtype == torch.float32
    assert bool(points.isfinite().all())
    assert torch.equal(points, cloud(random.key(0), 101))
    assert not torch.equal(points, cloud(random.key(1), 101))
    assert cloud(random.key(0), 1).shape == (1, 2)
    assert cloud(random.key(0), 10, dtype=torch.float64).dtype == torch.float64


@pytest.mark.parametrize("cloud", CLOUDS)
def test_clouds_leave_the_global_generator_alone_and_vmap_over_keys(cloud):
    before = torch.random.get_rng_state()
    keys = random.split(random.key(3), 4)
    together = torch.func.vmap(lambda key: cloud(key, 20))(keys)
    assert torch.equal(together, torch.stack([cloud(key, 20) for key in keys]))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("cloud", CLOUDS)
def test_rows_are_exchangeable(cloud):
    """The first and the second half of the rows have one distribution (a sorted or dealt-out cloud fails)."""
    points = cloud(random.key(5), 20_000).double()
    first, second = points[:10_000], points[10_000:]
    error = ((first.var(0) + second.var(0)) / 10_000).sqrt()
    assert bool(((first.mean(0) - second.mean(0)).abs() < 5 * error).all())
    neighbours = (points[1:] - points.mean(0)) * (points[:-1] - points.mean(0)) / points.var(0)
    assert bool((neighbours.mean(0).abs() < 5 / math.sqrt(20_000)).all())


def test_checkerboard_fills_exactly_the_dark_cells():
    points = datasets.checkerboard(random.key(0), 1_000_000)
    cells = points.floor().long()
    assert bool((cells.sum(1) % 2 == 1).all())
    assert bool((points.abs() < 4).all())
    row, column = cells[:, 1] + 4, cells[:, 0] + 4
    assert_shares(row * 4 + column // 2, 32)
    inside = (points - points.floor()).double()
    assert bool(((inside.mean(0) - 0.5).abs() < 5 * math.sqrt(1 / 12 / 1e6)).all())
    assert bool(((inside.square().mean(0) - 1 / 3).abs() < 5 * math.sqrt(4 / 45 / 1e6)).all())


def test_checkerboard_of_another_size():
    points = datasets.checkerboard(random.key(0), 10_000, extent=1.0, num_cells=2)
    assert bool((points[:, 0] * points[:, 1] < 0).all())
    assert bool((points.abs() < 1).all())


def test_checkerboard_keeps_the_largest_uniform_inside_its_cell(monkeypatch):
    largest = 1 - 2**-24
    monkeypatch.setattr(datasets.random, "uniform", lambda key, shape, dtype=None: torch.full(shape, largest))
    assert bool((datasets.checkerboard(random.key(0), 1000).floor().sum(1) % 2 == 1).all())
    monkeypatch.setattr(datasets.random, "uniform", lambda key, shape, dtype=None: torch.zeros(shape))
    assert bool((datasets.checkerboard(random.key(0), 1000).floor().sum(1) % 2 == 1).all())


def test_two_moons_lie_on_two_half_circles():
    points = datasets.two_moons(random.key(0), 4000, noise=0.0, dtype=torch.float64)
    upper = (points.norm(dim=1) - 1).abs() < 1e-12
    lower = ((points - torch.tensor([1.0, 0.5])).norm(dim=1) - 1).abs() < 1e-12
    assert bool((upper | lower).all())
    assert bool((points[upper & ~lower, 1] >= 0).all())
    assert bool((points[lower & ~upper, 1] <= 0.5).all())
    assert_shares(lower.long(), 2)
    noisy = datasets.two_moons(random.key(0), 4000, noise=0.1, dtype=torch.float64)
    assert abs(float((noisy - points).std()) - 0.1) < 5 * 0.1 / math.sqrt(2 * 8000)


@pytest.mark.parametrize("cloud", NOISY)
def test_noise_is_a_standard_deviation_in_units_of_the_points(cloud):
    name = "noise" if cloud in WITH_NOISE else "std"
    clean, noisy = (cloud(random.key(1), 5000, dtype=torch.float64, **{name: value}) for value in (0.0, 0.3))
    assert abs(float((noisy - clean).std()) - 0.3) < 5 * 0.3 / math.sqrt(2 * 10_000)


@pytest.mark.parametrize("num_components", [1, 5, 8])
def test_gaussian_mixture_has_its_centres_and_spread(num_components):
    points = datasets.gaussian_mixture(
        random.key(2), 20_000, num_components=num_components, radius=3.0, std=0.1
    ).double()
    angle = torch.atan2(points[:, 1], points[:, 0]) * num_components / (2 * math.pi)
    which = angle.round().long() % num_components
    if num_components > 1:
        assert_shares(which, num_components)
    centre = 3 * torch.stack(
        [torch.cos(2 * math.pi * which / num_components), torch.sin(2 * math.pi * which / num_components)], -1
    )
    rest = points - centre
    assert bool((rest.mean(0).abs() < 5 * 0.1 / math.sqrt(20_000)).all())
    assert abs(float(rest.std()) - 0.1) < 5 * 0.1 / math.sqrt(2 * 40_000)


def test_eight_gaussians_is_a_mixture_of_eight_on_radius_two():
    expected = datasets.gaussian_mixture(random.key(0), 50, num_components=8, std=0.02, radius=2.0)
    assert torch.equal(datasets.eight_gaussians(random.key(0), 50), expected)


@pytest.mark.parametrize("arclength", [1.0, 2.3, 3.0])
def test_swiss_roll_has_mean_zero_and_variance_one_quarter(arclength):
    n = 100_000
    points = datasets.swiss_roll(random.key(0), n, noise=0.0, arclength=arclength, dtype=torch.float64)
    assert bool((points.mean(0).abs() < 5 * points.std(0) / math.sqrt(n)).all())
    total = points.square().sum(1)
    assert abs(float(total.mean()) - 0.5) < 5 * float(total.std()) / math.sqrt(n)


def test_rings_lie_on_their_radii_at_uniform_angles():
    points = datasets.rings(random.key(0), 9000, radii=(0.5, 1.0, 4.0), noise=0.0, dtype=torch.float64)
    radius = points.norm(dim=1)
    distance, which = (radius[:, None] - torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64)).abs().min(1)
    assert float(distance.max()) < 1e-12
    assert_shares(which, 3)
    assert bool(((points / radius[:, None]).mean(0).abs() < 5 * math.sqrt(0.5 / 9000)).all())


def test_grid_is_blurred_nodes():
    points = datasets.grid(random.key(0), 10_000, num_per_side=5, extent=2.0, noise=0.0)
    node = points + 2
    assert torch.equal(node, node.round())
    assert_shares((5 * node[:, 0] + node[:, 1]).long(), 25)


def test_spiral_arms_follow_their_equation():
    points = datasets.spirals(random.key(0), 3000, num_arms=3, turns=1.25, noise=0.0, dtype=torch.float64)
    t = points.norm(dim=1) / 2
    arm = 3 * (torch.atan2(points[:, 1], points[:, 0]) / (2 * math.pi) - 1.25 * t)
    assert float((arm - arm.round()).abs().max()) < 1e-9
    assert_shares(arm.round().long() % 3, 3)
    assert abs(float(t.square().mean()) - 0.5) < 5 * math.sqrt(1 / 12 / 3000)


def test_pinwheel_blades_follow_their_equation():
    options = {"num_classes": 4, "noise": 0.0, "radial_scale": 3.0, "spiral_scale": 2.0, "dtype": torch.float64}
    points = datasets.pinwheel(random.key(0), 4000, angular_scale=0.0, **options)
    t = points.norm(dim=1) / 3
    blade = 4 * (torch.atan2(points[:, 1], points[:, 0]) - 2 * t) / (2 * math.pi)
    assert float((blade - blade.round()).abs().max()) < 1e-9
    assert_shares(blade.round().long() % 4, 4)
    wide = datasets.pinwheel(random.key(0), 4000, angular_scale=0.1, **options)
    turn = torch.linalg.det(torch.stack([points, wide], -1)) / (9 * t * t)
    angle = torch.asin(turn.clamp(-1, 1))
    assert abs(float(angle.std()) - 0.1) < 5 * 0.1 / math.sqrt(2 * 4000)


@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize("num", [0, -1, 1.5, True])
def test_bad_counts_are_refused(cloud, num):
    with pytest.raises(ValueError, match="num must be an integer of at least 1"):
        cloud(random.key(0), num)


def test_bad_options_are_refused_in_words():
    key = random.key(0)
    with pytest.raises(ValueError, match="noise must be at least zero"):
        datasets.two_moons(key, 5, noise=-0.1)
    with pytest.raises(ValueError, match="std must be at least zero"):
        datasets.eight_gaussians(key, 5, std=math.nan)
    with pytest.raises(ValueError, match="scale must be positive"):
        datasets.eight_gaussians(key, 5, scale=0.0)
    with pytest.raises(ValueError, match="num_components"):
        datasets.gaussian_mixture(key, 5, num_components=0)
    with pytest.raises(ValueError, match="num_cells must be even"):
        datasets.checkerboard(key, 5, num_cells=3)
    with pytest.raises(ValueError, match="radii must be one or more numbers above zero"):
        datasets.rings(key, 5, radii=())
    with pytest.raises(ValueError, match="num_per_side"):
        datasets.grid(key, 5, num_per_side=1)
    with pytest.raises(ValueError, match="arclength must be positive"):
        datasets.swiss_roll(key, 5, arclength=-1.0)


def test_digits_are_those_of_scikit_learn_in_minus_one_to_one():
    from sklearn.datasets import load_digits

    images, labels = datasets.digits()
    raw = load_digits()
    assert images.shape == (1797, 8, 8)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert (float(images.min()), float(images.max())) == (-1.0, 1.0)
    assert torch.equal((images.double() + 1) * 8, torch.tensor(raw.images.tolist(), dtype=torch.float64))
    assert labels.tolist() == raw.target.tolist()
    assert datasets.digits(dtype=torch.float64).images.dtype == torch.float64


def test_without_scikit_learn_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'funcebm\[notebooks\]'.*scikit-learn"):
        datasets.digits()
