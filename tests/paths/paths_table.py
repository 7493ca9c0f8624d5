"""The paths that the tests sweep."""

from funcebm import paths

AFFINE = {
    "linear": paths.linear(),
    "trigonometric": paths.trigonometric(),
    "variance_preserving": paths.variance_preserving(),
    "linear_variance_preserving": paths.linear_variance_preserving(),
    "sub_variance_preserving": paths.sub_variance_preserving(),
    "variance_exploding": paths.variance_exploding(0.05, 8.0),
    "polynomial": paths.polynomial(2.0),
    "lipman": paths.lipman(0.01),
    "own": paths.path(lambda t: t**1.5, lambda t: (1 - t) ** 2),
}
LATENT = {"brownian_bridge": paths.brownian_bridge(0.7), "encoder_decoder": paths.encoder_decoder()}
ALL = {**AFFINE, **LATENT}

EXACT_ENDS = ("linear", "trigonometric", "linear_variance_preserving", "polynomial", "own", *LATENT)
"""Those that begin with noise alone, and end with data alone."""

REGULAR = ("linear", "trigonometric", "variance_preserving", "linear_variance_preserving", "lipman")
"""Those of which data and noise follow from the velocity in all of [0, 1]; others have no velocity at an end."""
