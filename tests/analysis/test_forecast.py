"""The forecast of how many labels an accuracy takes."""

import re
import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

import plot
import report
from tests.support.harness import write_run
from tod.analysis.forecast import EARLIEST, NoForecastError, Points, forecast, in_words, points_of
from tod.analysis.results import AUDIT, read_run, read_runs

LABELS = np.arange(1, 8) * 100.0
LAWS = [(98, 600, 0.8), (92, 300, 0.5), (99, 300, 1.0)]
"""Asymptote, factor and exponent."""


@pytest.fixture(autouse=True)
def warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def law(asymptote: float, factor: float, exponent: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda labels: asymptote - factor * labels**-exponent


def points(accuracies: np.ndarray, images: float = 1000, labels: np.ndarray = LABELS) -> Points:
    accuracies = np.asarray(accuracies, np.float64)
    return Points(labels[: len(accuracies)], accuracies, np.full(len(accuracies), images), False)


def share_that_held(curves: list[Points], truth: tuple[float, float, float]) -> float:
    """Of the accuracy that comes with twice the labels: how often its interval held the labels."""
    wanted = 2 * curves[0].labels[-1]
    held = []
    for curve in curves:
        try:
            low, _, high = forecast(curve).labels_for(law(*truth)(wanted))
            held.append(low <= wanted <= high)
        except NoForecastError:
            pass
    assert len(held) >= 0.85 * len(curves)
    return np.mean(held)


@pytest.mark.parametrize("truth", LAWS)
@pytest.mark.parametrize(("count", "images"), [(4, 500), (7, 2000)])
def test_an_interval_of_90_percent_holds_a_known_law_as_often(truth, count, images):
    random, shares = np.random.default_rng(0), law(*truth)(LABELS[:count]) / 100
    noisy = [100 * random.binomial(images, shares) / images for _ in range(200)]
    assert share_that_held([points(each, images) for each in noisy], truth) >= 0.9 - 0.04


@pytest.mark.parametrize("truth", LAWS)
def test_audits_of_the_same_images_in_each_round_are_no_independent_measurements(truth):
    random, labels, audited = (
        np.random.default_rng(0),
        np.arange(1, 11) * 90.0,
        np.arange(1, 11) * 10,
    )
    curves = []
    for _ in range(200):
        difficulties = random.random(audited[-1])  # right once the network is good enough
        is_right = difficulties < law(*truth)(labels)[:, None] / 100
        accuracies = [100 * right[:n].mean() for right, n in zip(is_right, audited, strict=True)]
        curves.append(Points(labels, np.array(accuracies), audited.astype(float), True))
    assert share_that_held(curves, truth) >= 0.9 - 0.04


def test_with_exact_accuracies_the_forecast_is_the_law():
    made = forecast(points(law(98, 600, 0.8)(LABELS), 1e9))
    low, middle, high = made.accuracies(np.array([1400.0]))[:, 0]
    assert low < middle < high < low + 5
    assert middle == pytest.approx(law(98, 600, 0.8)(1400), abs=0.3)
    low, middle, high = made.labels_for(law(98, 600, 0.8)(1400.0))
    assert 700 < low < 1400 < high
    assert middle == pytest.approx(1400, rel=0.1)


def test_the_interval_is_narrower_with_more_test_images_and_wider_farther_away():
    widths = []
    for images in (100, 10_000):
        made = forecast(points(law(98, 600, 0.8)(LABELS), images))
        low, _, high = made.accuracies(np.array([700.0, 1400.0, 7000.0]))
        assert [*(high - low)] == sorted(high - low)
        widths.append((high - low)[0])
    assert widths[0] > 3 * widths[1]


@pytest.mark.parametrize(
    ("accuracies", "target", "says"),
    [
        (law(98, 600, 0.8)(LABELS), 96, r"96 % at about 1,\d00 labels \(\d\d0 or more\)"),
        (
            law(98, 600, 0.8)(LABELS),
            90,
            r"90 % since about 2\d0 labels \(1\d0 to 2\d0\), by the curve",
        ),
        (law(80, 600, 0.8)(LABELS), 95, r"95 % not in sight below 7,000 labels.*"),
        (np.full(7, 60.0), 75, r"75 % not in sight below 7,000 labels.*"),
        (np.full(7, 100.0), 99, r"99 % since about 100 labels \(100 .*\), by the curve"),
        (np.linspace(80, 60, 7), 90, r"90 % not in sight below 7,000 labels.*"),
        (np.zeros(7), 80, "80 % not in sight below 7,000 labels"),
    ],
)
def test_the_words_of_curves_that_rise_are_flat_or_fall(accuracies, target, says):
    assert re.fullmatch(says, forecast(points(accuracies, 5000)).in_words(target))


def test_a_curve_that_bends_upwards_has_no_forecast():
    with pytest.raises(NoForecastError, match=r"no power law \(of what came, .* held 0 of 1\)"):
        forecast(points([60, 60.2, 60.1, 60.3, 80], 5000))


@pytest.mark.parametrize("accuracies", [[], [50], [50, 60, 70]])
def test_before_the_fourth_accuracy_it_is_too_early(tmp_path, accuracies):
    folder = write_run(tmp_path, [[*accuracies, float("nan")]], cycles=9)
    curve = read_run(folder)
    said = f"too early to forecast: {len(accuracies)} of {EARLIEST} label sizes with an accuracy"
    assert in_words(curve, 95) == said


def test_a_points_error_comes_from_audits_from_trials_or_from_the_steps_of_the_accuracies(tmp_path):
    folder = write_run(tmp_path / "a", [[80, 85.8333, 90]])
    assert points_of(read_run(folder)).images.tolist() == [120, 120, 120]
    two = write_run(tmp_path / "b", [[80, 90, 94], [84, 90, 96]])
    spread = np.mean([8 / (82 * 18), 0, 2 / (95 * 5)])
    assert points_of(read_run(two)).images == pytest.approx([2 / spread] * 3)
    path = folder / "results.csv"
    header, *rows = path.read_text().splitlines()
    audits = [f"{row},{10 * n},0,100" for n, row in enumerate(rows, start=1)]
    path.write_text("\n".join([",".join([header, *AUDIT]), *audits]) + "\n")
    found = points_of(read_run(folder))
    assert (found.images.tolist(), found.are_shared) == ([10, 20, 30], True)


def test_on_few_audited_images_it_is_too_early():
    on = {size: points([70, 80, 85, 88], size) for size in (10, 29, 30)}
    shared = {size: replace(each, are_shared=True) for size, each in on.items()}
    for size in (10, 29):
        with pytest.raises(NoForecastError, match=f"too early to forecast: {size} of 30 audited"):
            forecast(shared[size])
        assert forecast(on[size])  # of a test set
    assert forecast(shared[30])


@pytest.fixture
def seeds(tmp_path):
    """Three runs of seven cycles that differ in the seed, from a law and noise of half a point."""
    random, truth = np.random.default_rng(0), law(98, 600, 0.8)(50 + 50 * np.arange(1, 8))
    return [
        write_run(tmp_path, [(truth + random.normal(0, 0.5, 7)).round(4)], seed=seed, cycles=7)
        for seed in range(3)
    ]


def test_plot_and_report_draw_and_say_the_forecast_of_the_mean_over_seeds(tmp_path, seeds, capsys):
    curves, page = tmp_path / "curves.png", tmp_path / "report.html"
    plot.main([*map(str, seeds), "--output", str(curves)])
    plain, _ = curves.read_bytes(), capsys.readouterr()
    plot.main([*map(str, seeds), "--output", str(curves), "--target", "95"])
    (curve,) = read_runs(seeds)
    said = f"{curve.name}: {in_words(curve, 95)}"
    assert re.search(r"seeds 0, 1, 2: 95 % at about \d\d0 labels \(", said)
    assert said in capsys.readouterr().out.splitlines()
    assert curves.read_bytes() != plain
    for target in ([], ["--target=95"]):
        report.main([*map(str, seeds), "--output", str(page), *target])
        assert (said in page.read_text()) == ("the forecast" in page.read_text()) == bool(target)


def test_more_labels_than_there_are_images_are_named_as_such(seeds):
    (curve,) = read_runs(seeds)
    assert re.fullmatch(r"97.5 % at .*; there are only 1,437 images", in_words(curve, 97.5))
    for images in (50_000, 3_000):
        words = in_words(replace(curve, runs={0: {**curve.run, "training_images": images}}), 100)
        assert words.startswith("100 % not in sight below 4,000 labels")
        assert ("; there are only" in words) == (images == 3_000)


def test_a_target_that_is_no_percentage_or_has_no_curves_is_refused(tmp_path, seeds, refusal):
    assert "0.95 is not an accuracy in %" in refusal(plot.main, seeds[0], "--target=0.95")
    assert "not allowed with argument --matrix" in refusal(
        plot.main, *seeds, "--target=95", "--matrix"
    )
