"""What is computed over trials, against values by hand, and the tables that show it."""

import csv
import io
import math

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from tests.analysis.conftest import TWO_TRIALS
from tests.support.harness import write_run
from tod.analysis import results, tables


def by_trial(values):
    """Values by seed and number of the trial, as of one number of labels."""
    return pd.Series(values).to_frame(100)


def test_the_area_is_the_mean_accuracy_over_the_budget():
    # By hand: 50 labels at (80 + 90) / 2 and 100 at (90 + 94) / 2, over a range of 150.
    accuracies = pd.DataFrame({100: [80, 60, 60], 150: [90, 60, 60], 250: [94, 60, math.nan]})
    areas = tables.area_under_budget_curve(accuracies)
    expected = [(50 * 85 + 100 * 92) / 150, 60, math.nan]
    assert areas.tolist() == pytest.approx(expected, nan_ok=True)


def test_a_paired_interval_is_that_of_the_paired_t_test():
    random = np.random.default_rng(0)
    a, b = random.normal(90, 1, 8), random.normal(89, 1, 8)
    places = [(seed, trial) for seed in (0, 1) for trial in (1, 2, 3, 4)]
    values, reference = (by_trial(dict(zip(places, of, strict=True))) for of in (a, b))
    ((*_, low, high),) = tables.paired_differences(values, reference).itertuples()
    assert (low, high) == pytest.approx(stats.ttest_rel(a, b).confidence_interval(0.95))


def test_one_pair_has_no_interval_and_no_pair_no_difference():
    one = tables.paired_differences(by_trial({(0, 1): 3.0}), by_trial({(0, 1): 1.0}))
    assert (one["pairs"].item(), one["difference"].item()) == (1, 2.0)
    assert one[["difference_low", "difference_high"]].isna().all(axis=None)
    assert tables.paired_differences(by_trial({(0, 1): 3.0}), by_trial({(1, 1): 1.0})).empty


@pytest.mark.parametrize("differences", [(2, 2, 2), (0, 0, 0), (0.2777, 0.2778, 0.2778)])
def test_equal_differences_have_no_interval(curves_of, differences):
    # A test image of 360 is 0.2777… points, which are written with four digits.
    reference = by_trial({(0, 1): 50.0, (0, 2): 60.0, (0, 3): 70.1})
    values = reference + np.array(differences)[:, None]
    found = tables.paired_differences(values, reference)
    assert found["difference"].item() == pytest.approx(np.mean(differences))
    assert found[["difference_low", "difference_high"]].isna().all(axis=None)
    random = {"accuracies": [[80]] * 3, "sampling": "RANDOM"}
    curves = curves_of(random, {"accuracies": [[80 + d] for d in differences]})
    _, (_, (_, (_, cell, *_))) = tables.accuracy_tables(curves)
    assert cell == f"{np.mean(differences):+.2f} (3)"


def test_a_difference_that_rounds_to_nothing_has_no_minus(curves_of):
    random = {"accuracies": [[80.1, 80.3, 80.2]], "sampling": "RANDOM"}
    curves = curves_of(random, {"accuracies": [[80.1, 80.2999, 80.2]]})
    _, (_, (_, (_, *cells))) = tables.accuracy_tables(curves)
    assert cells == ["+0.00 (1)"] * 4


@pytest.mark.parametrize(("mean", "end"), [(0.998, "-0.00"), (1.002, "+0.00")])
def test_the_sign_of_an_intervals_end_says_whether_it_holds_0(curves_of, mean, end):
    spread = 1 / 12.7062  # t(0.975; 1): the interval reaches 1 to both sides
    values = [[80 + mean - spread], [80 + mean + spread]]
    random = {"accuracies": [[80], [80]], "sampling": "RANDOM"}
    _, (_, (_, (_, cell, *_))) = tables.accuracy_tables(curves_of(random, {"accuracies": values}))
    assert cell.startswith(f"+1.00 [{end}, ")


def test_pairs_are_matched_by_seed_and_trial(curves_of):
    curves = curves_of(
        {"accuracies": [[80] * 3], "sampling": "RANDOM"},
        {"accuracies": [[60] * 3, [1] * 3], "sampling": "RANDOM", "seed": 1},
        {"accuracies": [[62] * 3], "seed": 1},
        {"accuracies": [[84] * 3, [2] * 3]},
    )
    _, (_, (header, row)) = tables.accuracy_tables(curves)
    assert header[0] == "digits, seeds 0, 1: difference to RANDOM sampling (points)"
    # 84 − 80 and 62 − 60; t(0.975; 1) = 12.7062.
    assert row == ["TOD sampling", *["+3.00 [-9.71, +15.71] (2)"] * 4]


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"seed": 1}, "no trial of the same seed and number"),
        ({"cycles": 4}, "another active_learning.cycles"),
        ({"data": "y"}, "other images"),
    ],
)
def test_runs_that_cannot_be_paired_are_not(curves_of, other, why):
    curves = curves_of({"sampling": "RANDOM"}, other)
    assert len(tables.accuracy_tables(curves)) == 1  # none of differences
    note = f"{curves[1].name}: not paired with the first run ({why})"
    assert tables.unpaired_notes(curves) == [note]


@pytest.mark.parametrize(
    ("section", "name", "paired"),
    [
        ("ll4al", "margin", True),
        ("cod", "weight", True),  # which the other run does without
        ("new", "weight", True),
        ("training", "lr", False),
        ("unknown", "weight", False),  # a section that says nothing is used by all
    ],
)
def test_settings_that_the_method_of_one_run_does_not_use_are_no_difference(
    tmp_path, monkeypatch, section, name, paired
):
    monkeypatch.setitem(results.USED_BY, "new", {"--auxiliary TOD"})
    first = write_run(tmp_path, TWO_TRIALS, sampling="RANDOM")
    other = write_run(tmp_path, TWO_TRIALS, auxiliary="TOD")
    path = other / "config.yaml"
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    settings.setdefault(section, {})[name] = 0.5
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    notes = tables.unpaired_notes(results.read_runs([first, other]))
    assert (notes == []) == paired
    again = write_run(tmp_path / "again", TWO_TRIALS, auxiliary="TOD", seed=1)
    assert len(results.read_runs([other, again])) == (1 if section == "ll4al" else 2)


def test_the_share_is_of_the_images_that_the_run_had(curves_of):
    curves = curves_of({"config": "cifar10", "training_images": 400}, {"config": "svhn"})
    # Where the shares differ, no column can show both.
    for shown, expected in ((curves[:1], "100 labels (25.0 %)"), (curves, "100 labels")):
        ((_, (header, *_)),) = tables.accuracy_tables(shown)
        assert header[1] == expected


def test_what_a_run_has_not_reached_is_a_dash(curves_of):
    curves = curves_of({}, {"accuracies": [[80]], "sampling": "RANDOM"})
    (_, (_, first, second)), (_, (_, differences)) = tables.accuracy_tables(curves)
    cells = ["81.00 ± 1.41", "90.00 ± 0.00", "96.00 ± 2.83", "89.25 ± 1.06"]
    assert first[1:] == [f"{cell} (2)" for cell in cells]
    assert second[1:] == ["80.00 (1)", "–", "–", "–"]
    assert differences[1:] == ["+0.00 (1)", "–", "–", "–"]


def test_the_tidy_csv_has_a_line_for_each_quantity(pair):
    text = tables.tidy_csv(results.read_runs(pair))
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert text.splitlines()[0] == (
        "run,quantity,num_labeled,labeled_percent,trials,mean,std,"
        "pairs,difference,difference_low,difference_high"
    )
    assert "\r" not in text
    assert len(rows) == 2 * (3 + 1)
    (row,) = [r for r in rows if r["difference"] and r["num_labeled"] == "150"]
    run, quantity, *cells = row.values()
    assert (run, quantity) == ("digits, TOD sampling, seed 0", "test_accuracy")
    # Differences 1, 2, 3: mean 2, standard deviation 1, t(0.975; 2) = 4.30265.
    half = 4.30265 / math.sqrt(3)
    expected = [150, 100 * 150 / 1437, 3, 89, 0, 3, 2, 2 - half, 2 + half]
    assert [*map(float, cells)] == pytest.approx(expected, rel=1e-5)
    area = [r for r in rows if r["quantity"] == "area_under_budget_curve"]
    assert [r["num_labeled"] for r in area] == ["", ""]
    assert float(area[1]["mean"]) == pytest.approx((84.5 + 91.5) / 2)
    # The first run is compared with nothing.
    assert {row[column] for row in rows[:4] for column in ("pairs", "difference")} == {""}


def test_the_log_ends_with_the_accuracies_by_number_of_labels(tmp_path):
    path = write_run(tmp_path, [[80, 90, 94], [82, 91]]) / "results.csv"
    assert tables.accuracy_lines(results.read_rows(path)) == [
        "labels  test accuracy in % (mean ± standard deviation over trials)",
        "   100  81.00 ± 1.41 (2)",
        "   150  90.50 ± 0.71 (2)",
        "   200  94.00 (1)",
    ]


def test_a_pipe_in_a_name_parts_no_cells_of_a_markdown_table():
    table = [["title", "100 labels"], ["a|b", "80.00 (1)"]]
    expected = "| title | 100 labels |\n| --- | --: |\n| a\\|b | 80.00 (1) |\n"
    assert tables.markdown(table) == expected
