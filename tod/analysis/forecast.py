"""How many labels an accuracy takes: a power law through a learning curve, and how sure it is.

The law is `a − b·n^(−c)` of n labels (Cortes et al., NIPS 1993), with b ≥ 0 and a ≤ 100 %.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tod.analysis.results import ACCURACY, AUDIT, FEW_IMAGES, Curve

LEVEL = 0.9
"""How often an interval should hold what comes."""
EARLIEST = 4
"""The law has three parameters: so many points are the fewest that can contradict it."""
HORIZON = 10
"""Nothing is forecast beyond so many times the labels that there are."""
DRIFT = 0.1
"""How far a curve strays from its law, in units of √(p(1 − p)), where labels grow e-fold: so much
less the early points say of what comes, and so much wider the interval grows. Chosen on the runs of
docs/results.md: with half of it, the intervals of random queries held 81 %."""
DRAWS = 400
EXPONENTS = np.geomspace(0.05, 4, 60)
USUAL_EXPONENT, SPREAD = 0.5, 0.7
"""What is believed of the exponent beforehand: log-normal, the spread that of its logarithm. Few
points alone tell a slow law from one that nears its asymptote so badly that half of the forecasts
would say that nothing comes."""
LARGEST_TEST_SET = 10_000
"""Accuracies have four digits, which tell no larger ones apart."""


class NoForecastError(Exception):
    """Why there is no forecast."""


@dataclass(frozen=True, eq=False)
class Points:
    """A learning curve of K points, in the order of their labels.

    Attributes:
        labels: their numbers, (K,).
        accuracies: in %, (K,).
        images: on how many independent test images a measurement would be as sure, (K,).
        are_shared: whether a point is measured on the images of the earlier ones and on new ones,
            as audits are; else, what the points have in common is not of interest.
    """

    labels: np.ndarray
    accuracies: np.ndarray
    images: np.ndarray
    are_shared: bool

    def __len__(self) -> int:
        return len(self.labels)

    def until(self, count: int) -> "Points":
        """The first so many points."""
        parts = (each[:count] for each in (self.labels, self.accuracies, self.images))
        return replace(self, **dict(zip(("labels", "accuracies", "images"), parts, strict=True)))

    @property
    def variances(self) -> np.ndarray:
        """p(1 − p) of each point in %², (K,), after Agresti and Coull: not 0 at 100 %."""
        shares = (self.accuracies / 100 * self.images + 2) / (self.images + 4)
        return 1e4 * shares * (1 - shares)


def points_of(curve: Curve) -> Points:
    """The mean accuracies over trials, with what is known of their standard errors.

    With several trials, their spread tells it; else the number of audited images, or of test
    images. Runs do not record the latter: it is the smallest with which the accuracies are shares.
    """
    by_trial = curve.values(ACCURACY)
    accuracies = by_trial.mean()
    images = np.full(len(accuracies), float(_size_of_test_set(by_trial.to_numpy())))
    if curve.is_audited:
        audited = curve.values(AUDIT[0]).mean().reindex(accuracies.index)
        images = audited.fillna(images[0] if len(images) else 0).to_numpy(np.float64)
    shares = accuracies / 100
    spread = (by_trial.var() / 1e4 / (shares * (1 - shares))).replace(np.inf, np.nan).mean()
    if spread > 0:
        images = by_trial.count().to_numpy() / spread
    labels = accuracies.index.to_numpy(np.float64)
    return Points(labels, accuracies.to_numpy(), images, curve.is_audited)


def _size_of_test_set(accuracies: np.ndarray) -> int:
    """The fewest images of which all accuracies in %, written with four digits, are shares."""
    sizes = np.arange(1, LARGEST_TEST_SET + 1)
    different = np.unique(accuracies[np.isfinite(accuracies)])
    correct = different[:, None] / 100 * sizes
    fits = (np.abs(correct - correct.round()) <= 6e-7 * sizes).all(axis=0)
    return int(sizes[fits.argmax()]) if fits.any() else LARGEST_TEST_SET


@dataclass(frozen=True, eq=False)
class Forecast:
    """Resampled laws, each with its own drift beyond the last point, (R, 1) each."""

    first: float  # label size
    last: float
    asymptotes: np.ndarray
    factors: np.ndarray
    exponents: np.ndarray
    drifts: np.ndarray

    @property
    def horizon(self) -> float:
        """The most labels about which it says anything."""
        return HORIZON * self.last

    def _draws(self, labels: np.ndarray) -> np.ndarray:
        """Accuracies in % at M numbers of labels, (R, M)."""
        grown = labels / self.last
        law = self.asymptotes - self.factors * grown**-self.exponents
        shares = np.clip(law / 100, 0, 1)
        scale = 100 * np.sqrt(shares * (1 - shares)) * np.log(np.maximum(grown, 1))
        return np.minimum(law + self.drifts * scale, 100)

    def accuracies(self, labels: np.ndarray) -> np.ndarray:
        """Lower end, middle and upper end in % at M numbers of labels, (3, M)."""
        return np.quantile(self._draws(labels), _ENDS, axis=0)

    def labels_for(self, target: float) -> tuple[float, float, float]:
        """Lower end, middle and upper end of the labels that an accuracy in % takes.

        It is the first number that reaches it, not less than the first point's; infinite beyond
        the horizon.
        """
        labels = np.geomspace(self.first, self.horizon, 500)
        reaches = self._draws(labels) >= target
        first = np.where(reaches.any(axis=1), labels[reaches.argmax(axis=1)], np.inf)
        return tuple(np.quantile(first, _ENDS, method="inverted_cdf").tolist())

    def in_words(self, target: float) -> str:
        """As in `95 % at about 620 labels (430 to 1,100)`."""
        low, middle, high = self.labels_for(target)
        if middle == np.inf:
            earliest = f" ({_rounded(max(low, self.last))} at the earliest)" if low < np.inf else ""
            return f"{target:g} % not in sight below {self.horizon:,.0f} labels{earliest}"
        labels = f"about {_rounded(middle)} labels ({_rounded(low)} "
        labels += "or more)" if high == np.inf else f"to {_rounded(high)})"
        if middle <= self.last:
            return f"{target:g} % since {labels}, by the curve"
        return f"{target:g} % at {labels}"


_ENDS = ((1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2)


def _rounded(labels: float) -> str:
    """To two digits: no forecast is more exact."""
    return f"{float(f'{labels:.2g}'):,.0f}"


def forecast(points: Points) -> Forecast:
    """The forecast from a curve.

    NoForecastError: there are too few points or audited images, or the curve follows no such law:
    less than half of what came was within the intervals of the forecasts from its earlier points.
    """
    if len(points) < EARLIEST:
        words = f"{len(points)} of {EARLIEST} label sizes with an accuracy"
        raise NoForecastError(f"too early to forecast: {words}")
    if points.are_shared and points.images[-1] < FEW_IMAGES:
        words = f"{points.images[-1]:.0f} of {FEW_IMAGES} audited images"
        raise NoForecastError(f"too early to forecast: {words}")
    held: list[bool] = []
    for count in range(EARLIEST, len(points)):
        low, _, high = _resampled(points.until(count)).accuracies(points.labels[count:])
        came = points.accuracies[count:]
        held += ((low <= came) & (came <= high)).tolist()
    if held and np.mean(held) < 0.5:
        raise NoForecastError(
            f"no forecast: the curve follows no power law (of what came, earlier ones held "
            f"{sum(held)} of {len(held)})"
        )
    return _resampled(points)


def in_words(curve: Curve, target: float) -> str:
    """The forecast of the labels that an accuracy in % takes, or why there is none."""
    try:
        made = forecast(points_of(curve))
    except NoForecastError as error:
        return str(error)
    words, images = made.in_words(target), curve.training_images
    # People may add images.
    far = min(made.labels_for(target)[1], made.horizon)
    if images and not curve.facts.from_people and images < far:
        words += f"; there are only {images:,} images"
    return words


def _resampled(points: Points) -> Forecast:
    """Laws fitted to curves that are drawn about the law of this one.

    A point's error is that of its measurement, and how far the curve strays from the law between
    it and the last one. Both grow by what the fit shows beyond them.
    """
    last = points.labels[-1]
    grown = points.labels / last
    measured = np.sqrt(points.variances / points.images)
    strayed = DRIFT * np.sqrt(points.variances) * np.log(1 / grown)
    weights = 1 / (measured**2 + strayed**2)
    usual = np.full((1, 1), np.log(USUAL_EXPONENT))
    law, squares = _fitted(grown, points.accuracies[None], weights, usual)
    excess = np.sqrt(max(squares.item() / max(len(points) - 3, 1), 1))
    # The same curve has the same forecast; `utils.random_generator` would import torch for it.
    random = np.random.default_rng(len(points))
    asymptote, factor, exponent = law
    errors = measured * _errors(points, random) + strayed * random.normal(size=(DRAWS, len(points)))
    drawn = asymptote - factor * grown**-exponent + excess * errors
    laws, _ = _fitted(grown, drawn, weights, usual + SPREAD * random.normal(size=(DRAWS, 1)))
    drifts = DRIFT * excess * random.normal(size=(DRAWS, 1))
    return Forecast(points.labels[0], last, *laws, drifts)


def _errors(points: Points, random: np.random.Generator) -> np.ndarray:
    """Errors of measurement in standard deviations, (R, K).

    The means of m and of n ≥ m images, m of which are the same, correlate by √(m/n).
    """
    if not points.are_shared:
        return random.normal(size=(DRAWS, len(points)))
    m, n = points.images[:, None], points.images[None]
    correlation = np.sqrt(np.minimum(m, n) / np.maximum(m, n))
    return random.multivariate_normal(np.zeros(len(points)), correlation, DRAWS, method="eigh")


def _fitted(
    grown: np.ndarray, accuracies: np.ndarray, weights: np.ndarray, log_exponents: np.ndarray
) -> tuple[Sequence[np.ndarray], np.ndarray]:
    """The laws through R curves by weighted least squares: a, b and c, and the squares, (R, 1).

    Given c, a and b have a closed form, so that c alone is searched for (Golub & Pereyra, SIAM J.
    Numer. Anal. 1973), on a grid: it needs no start, and cannot diverge. Labels (K,) are those of
    the last point times `grown`; `log_exponents` (R, 1) are what log c is drawn to.
    """
    powers = grown ** -EXPONENTS[:, None]  # u = n^(−c), (G, K)
    w, wu, wuu = weights.sum(), powers @ weights, powers**2 @ weights
    weighted = accuracies * weights
    wy, wyu = weighted.sum(axis=1, keepdims=True), weighted @ powers.T
    b = (wy * wu / w - wyu) / (wuu - wu**2 / w)
    b = np.maximum(b, 0)
    a = (wy + b * wu) / w
    is_over = a > 100
    b = np.where(is_over, np.maximum((100 * wu - wyu) / wuu, 0), b)
    a = np.where(is_over, 100, a)
    wyy = (weighted * accuracies).sum(axis=1, keepdims=True)
    squares = wyy + a**2 * w + b**2 * wuu + 2 * (b * wyu - a * wy - a * b * wu)
    beliefs = ((np.log(EXPONENTS) - log_exponents) / SPREAD) ** 2
    best = (squares + beliefs).argmin(axis=1)[:, None]
    found = (np.take_along_axis(each, best, axis=1) for each in (a, b, np.maximum(squares, 0)))
    a, b, squares = found
    return (a, b, EXPONENTS[best]), squares
