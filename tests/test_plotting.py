"""Pictures: what is on the axes, not only that there are some."""

import math
import sys

import numpy as np
import pytest
import torch

from funcebm import plotting, random

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def bowl(params, x):
    return params * ((x - torch.tensor([1.0, 0.0])) ** 2).sum()


def pixels(ax):
    ax.figure.canvas.draw()
    return np.asarray(ax.figure.canvas.buffer_rgba())[..., :3].astype(int)


def color_at(ax, x, y):
    image = pixels(ax)
    column, row = ax.transData.transform((x, y))
    return image[image.shape[0] - 1 - round(row), round(column)]


def test_landscape_levels_cover_the_energy_and_crowd_at_the_minimum():
    ax = plotting.energy_landscape(bowl, torch.tensor(2.0), x_range=(-1, 2), y_range=(-1, 1), levels=10, resolution=61)
    filled, lines = ax.collections
    levels = np.asarray(filled.levels)
    assert len(levels) == 11
    assert np.allclose(levels, 10.0 * (np.arange(11) / 10) ** 2, atol=1e-5)  # 2 (4 + 1) is the largest energy
    assert np.array_equal(lines.levels, levels)
    assert ax.get_xlim() == (-1, 2)
    assert ax.get_ylim() == (-1, 1)
    assert ax.get_aspect() == 1
    assert len(ax.figure.axes) == 2, "the picture and its scale"


def test_landscape_is_dark_where_the_energy_is_low_and_right_way_round():
    ax = plotting.energy_landscape(bowl, torch.tensor(1.0), colorbar=False)
    assert len(ax.figure.axes) == 1
    low, left, high = (color_at(ax, *at).sum() for at in ((1.02, 0.02), (-1.0, 0.0), (-2.9, 2.9)))
    assert low < left < high


def test_landscape_of_a_wall_is_white_beyond_it():
    ax = plotting.energy_landscape(
        lambda params, x: torch.where((x.abs() < 2).all(), (x * x).sum(), math.inf), (), colorbar=False
    )
    assert color_at(ax, 2.5, 0.1).tolist() == [255, 255, 255]
    assert color_at(ax, 0.1, 0.1).sum() < 400
    assert max(ax.collections[0].levels) < 8.01


def test_max_energy_bounds_the_scale():
    ax = plotting.energy_landscape(bowl, torch.tensor(1.0), max_energy=2.0)
    assert max(ax.collections[0].levels) == 2.0
    assert color_at(ax, -2.9, 2.9).sum() > 600, "above the bound has the last colour, it is not empty"
    assert color_at(ax, -2.9, 2.9).tolist() != [255, 255, 255]


def test_landscape_takes_the_dtype_of_the_params_and_calls_one_particle():
    seen = []

    def energy(params, x):
        seen.append((tuple(x.shape), x.dtype))
        return (params["k"] * x * x).sum()

    plotting.energy_landscape(energy, {"k": torch.ones(2, dtype=torch.float64)}, resolution=5)
    assert seen == [((2,), torch.float64)]


def test_a_flat_energy_has_a_picture():
    ax = plotting.energy_landscape(lambda params, x: 0.0 * x.sum() + 3.0, ())
    assert min(ax.collections[0].levels) < 3 < max(ax.collections[0].levels)


def test_landscape_refuses_what_it_cannot_draw():
    with pytest.raises(ValueError, match="energy must return a scalar"):
        plotting.energy_landscape(lambda params, x: x, ())
    with pytest.raises(ValueError, match="finite somewhere"):
        plotting.energy_landscape(lambda params, x: x.sum() * math.nan, ())
    with pytest.raises(ValueError, match="x_range must go up"):
        plotting.energy_landscape(bowl, torch.tensor(1.0), x_range=(1, 1))
    with pytest.raises(ValueError, match="max_energy"):
        plotting.energy_landscape(bowl, torch.tensor(1.0), max_energy=-1.0)
    with pytest.raises(ZeroDivisionError):  # an error of the user's own function arrives as it is
        plotting.energy_landscape(lambda params, x: 1 / 0, ())


def test_samples_are_all_there_and_keep_the_limits_of_the_landscape():
    draws = random.normal(random.key(0), (4, 50, 2))
    ax = plotting.energy_landscape(bowl, torch.tensor(1.0))
    before = ax.get_xlim(), ax.get_ylim()
    assert plotting.samples(draws * 10, ax=ax, label="chains") is ax
    assert (ax.get_xlim(), ax.get_ylim()) == before
    offsets = np.asarray(ax.collections[-1].get_offsets())
    assert np.allclose(offsets, 10 * draws.reshape(-1, 2).numpy())
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["chains"]


def test_samples_alone_and_thinned():
    ax = plotting.samples(torch.arange(2000.0).reshape(1000, 2), max_points=300)
    offsets = np.asarray(ax.collections[0].get_offsets())
    assert len(offsets) == 250
    assert offsets[1].tolist() == [8.0, 9.0]
    assert ax.get_legend() is None
    with pytest.raises(ValueError, match=r"\(\.\.\., 2\)"):
        plotting.samples(torch.zeros(10, 3))


def test_traces_draw_a_line_a_chain():
    draws = random.normal(random.key(1), (3, 40))
    ax = plotting.traces(draws, name="x[0]")
    assert len(ax.lines) == 3
    for line, chain in zip(ax.lines, draws, strict=True):
        assert np.allclose(line.get_ydata(), chain.numpy())
    assert len({line.get_color() for line in ax.lines}) == 3
    assert ax.get_ylabel() == "x[0]"
    many = plotting.traces(torch.zeros(100, 5), max_chains=4)
    assert len(many.lines) == 4
    assert many.get_title(loc="left") == "4 of 100 chains"
    with pytest.raises(ValueError, match=r"shape \(C, N\)"):
        plotting.traces(torch.zeros(3, 4, 2))


def test_image_grid_places_each_image_whole_and_in_order():
    images = torch.arange(5 * 2 * 3.0).reshape(5, 2, 3)
    ax = plotting.image_grid(images, num_columns=2, title="data", value_range=(0, 29))
    sheet = np.ma.filled(ax.images[0].get_array(), np.nan)
    assert sheet.shape == (3 * 3 + 1, 2 * 4 + 1)
    for index, image in enumerate(images):
        row, column = divmod(index, 2)
        part = sheet[3 * row + 1 : 3 * row + 3, 4 * column + 1 : 4 * column + 4]
        assert np.allclose(part * 29, image.numpy())
    assert np.isnan(sheet[0]).all()
    assert np.isnan(sheet[7:, 5:]).all(), "the place of the sixth image is empty"
    assert ax.get_title(loc="left") == "data"
    assert not ax.axison


def test_image_grid_of_colours_and_of_one_value():
    colours = torch.rand(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    array = plotting.image_grid(colours, value_range=(0, 1)).images[0].get_array()
    assert array.shape == (13, 13, 3)
    assert np.allclose(array[1:6, 1:6], colours[0].movedim(0, -1).numpy())
    assert np.ma.filled(plotting.image_grid(torch.full((1, 1, 4, 4), 7.0)).images[0].get_array(), 9).min() == 0
    with pytest.raises(ValueError, match="images must have the shape"):
        plotting.image_grid(torch.zeros(8, 8))
    with pytest.raises(ValueError, match="value_range must go up"):
        plotting.image_grid(torch.zeros(2, 8, 8), value_range=(1, 0))
    with pytest.raises(ValueError, match="num_columns"):
        plotting.image_grid(torch.zeros(2, 8, 8), num_columns=0)


def test_energy_histogram_has_common_bins_of_area_one():
    sets = {"data": random.normal(random.key(2), (500,)), "corrupted": random.normal(random.key(3), (10, 30)) + 6}
    ax = plotting.energy_histogram(sets, num_bins=20)
    assert len(ax.patches) == 4, "an area and a line each"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["data", "corrupted"]
    low, high = ax.get_xlim()
    together = torch.cat([each.flatten() for each in sets.values()])
    assert math.isclose(low, float(together.min()), rel_tol=1e-6)
    assert math.isclose(high, float(together.max()), rel_tol=1e-6)
    for patch in ax.patches:
        x, y = patch.get_xy().T
        area = 0.5 * abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)))
        assert math.isclose(area, 1, rel_tol=1e-6)


def test_energy_histogram_of_one_tensor_and_of_bad_ones():
    assert plotting.energy_histogram(torch.arange(10.0)).get_legend() is None
    assert len(plotting.energy_histogram(torch.ones(5)).patches) == 2
    assert plotting.energy_histogram(torch.arange(10.0), value_range=(2.0, 4.0)).get_xlim() == (2, 4)
    with pytest.raises(ValueError, match="none in 'corrupted'"):
        plotting.energy_histogram({"corrupted": torch.tensor([math.inf])})
    with pytest.raises(ValueError, match="at least one set"):
        plotting.energy_histogram({})
    with pytest.raises(ValueError, match="value_range must go up"):
        plotting.energy_histogram(torch.ones(3), value_range=(1.0, 1.0))


def test_every_picture_draws_on_the_axes_it_is_given():
    figure, axes = plt.subplots(1, 5)
    assert plotting.energy_landscape(bowl, torch.tensor(1.0), ax=axes[0], colorbar=False) is axes[0]
    assert plotting.samples(torch.zeros(3, 2), ax=axes[1]) is axes[1]
    assert plotting.traces(torch.zeros(3, 4), ax=axes[2]) is axes[2]
    assert plotting.image_grid(torch.zeros(3, 4, 4), ax=axes[3]) is axes[3]
    assert plotting.energy_histogram(torch.arange(3.0), ax=axes[4]) is axes[4]
    assert plt.get_fignums() == [figure.number]


def test_without_matplotlib_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"pip install 'funcebm\[notebooks\]'"):
        plotting.traces(torch.zeros(3, 4))


def test_one_style_for_notebooks():
    import matplotlib

    with matplotlib.rc_context():
        plotting.style()
        assert matplotlib.rcParams["axes.prop_cycle"].by_key()["color"][0] == plotting.COLOURS[0]
        assert not matplotlib.rcParams["axes.spines.top"]
    with pytest.raises(ValueError, match=r'form must be a kind of picture. Got .*jpg.*Write "svg"'):
        plotting.style("jpg")


def test_sharp_pictures_have_twice_the_pixels_and_few_colours():
    import io

    from PIL import Image

    from funcebm.plotting.style import _sharp_png

    ax = plotting.traces(random.normal(random.key(0), (3, 40)))
    drawn = []
    for density in (1, 2):
        content = io.BytesIO()
        ax.figure.savefig(content, dpi=density * ax.figure.dpi, bbox_inches="tight", facecolor="white")
        drawn.append(Image.open(content))
    content, size = _sharp_png(ax.figure)
    sharp = Image.open(io.BytesIO(content))
    assert sharp.mode == "P" and len(sharp.getcolors()) <= 256
    assert sharp.size == drawn[1].size
    assert all(abs(size[name] - number) <= 2 for name, number in zip(("width", "height"), drawn[0].size, strict=True))
    pixels = [np.asarray(image.convert("RGB"), dtype=float) for image in (sharp, drawn[1])]
    assert np.abs(pixels[0] - pixels[1]).mean() < 1  # of 255


def test_lines_of_a_calibration_stay_in_the_band_or_leave_it():
    from funcebm import diagnostics

    for shift, is_inside in ((0.0, True), (0.6, False)):
        posterior = lambda key, y: y / 2 + shift + 0.5**0.5 * random.normal(key, (19,))  # noqa: B023, E731
        simulate = lambda key, mean: mean + random.normal(key)  # noqa: E731
        found = diagnostics.simulation_based_calibration(
            random.key(0), random.normal, simulate, posterior, num_simulations=200
        )
        ax = plotting.calibration(found)
        height = ax.lines[0].get_ydata()
        width = ax.patches[0].get_bbox().y1
        assert (abs(height).max() < width) == is_inside
        assert shift == 0 or height.max() > width  # draws that are too high: it arches up
    with pytest.raises(ValueError, match="level must be between 0 and 1"):
        plotting.calibration(found, level=1.5)
