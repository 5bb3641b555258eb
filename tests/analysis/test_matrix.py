"""The pairwise penalty matrix, against values by hand and scipy's t-test."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy import stats

import plot
import report
from tests.support.harness import table, write_run
from tod.analysis import figures
from tod.analysis.matrix import holm, matrix_table, paired_p, penalty_matrix
from tod.analysis.results import read_run, read_runs

LOW = [[80, 80, 80], [81, 81, 81], [79, 79, 79], [82, 82, 82], [78, 78, 78]]
STEPS = [0, 0.1, -0.1, 0.1, -0.1]
BETTER = [[low, low + 9 + s, low + 10 + s] for (low, *_), s in zip(LOW, STEPS, strict=True)]
"""Above LOW by 0; by 9, more or less; and by 10, more or less."""
WORSE = [[80, 70, 90], [81, 71.1, 80], [79, 68.9, 70], [82, 72, 95], [78, 68, 65]]
"""Below LOW by 10, more or less, and then by nothing sure."""


def matrix_of(folders):
    return penalty_matrix(read_runs(folders))


def three_methods(tmp_path):
    return [
        write_run(tmp_path, LOW, sampling="RANDOM"),
        write_run(tmp_path, BETTER),
        write_run(tmp_path, WORSE, sampling="BADGE"),
    ]


def test_an_entry_is_the_share_of_label_sizes_at_which_the_row_beats_the_column(tmp_path):
    matrix = matrix_of(three_methods(tmp_path))
    shares = matrix.shares
    assert list(shares.index) == ["RANDOM sampling", "TOD sampling", "BADGE sampling"]
    # At 100 labels random and TOD do not differ: there is nothing to test. TOD is above BADGE by
    # 19 at 150 labels; at 200 the differences are nothing sure.
    expected = [[np.nan, 0, 1 / 2], [1, np.nan, 1 / 2], [0, 0, np.nan]]
    np.testing.assert_array_equal(shares, expected)
    assert not (matrix.corrected > shares).any(axis=None)
    assert (matrix.tests["p_holm"] >= matrix.tests["p"]).all()
    assert len(matrix.tests) == 3 * 2
    # The table ends with how often each method is beaten.
    header, random, tod, _, beaten = matrix_table(matrix).rows
    assert header[1:] == list(shares.index)
    assert random[1] == "–" and tod[1].startswith("1.00 (")
    assert [cell.split()[0] for cell in beaten[1:]] == ["0.50", "0.00", "0.50"]


def test_p_is_that_of_the_paired_t_test():
    random = np.random.default_rng(0)
    a, b = random.normal(90, 1, 6), random.normal(89.5, 1, 6)
    assert paired_p(a - b) == pytest.approx(stats.ttest_rel(a, b).pvalue)


def test_holms_correction_worked_by_hand():
    # 4 · 0.01, then 3 · 0.02, then 2 · 0.03 (no less than before), then 0.5.
    assert holm(np.array([0.03, 0.01, 0.5, 0.02])) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm(np.array([0.9, 0.8])) == pytest.approx([1, 1])


def test_each_setting_counts_the_same(tmp_path):
    folders = [
        write_run(tmp_path, WORSE, sampling="RANDOM"),
        write_run(tmp_path, BETTER),
        write_run(tmp_path, [t[:1] for t in LOW], config="svhn", sampling="RANDOM", cycles=1),
        write_run(tmp_path, [t[1:2] for t in BETTER], config="svhn", cycles=1),
    ]
    matrix = matrix_of(folders)
    # One of two label sizes in one setting, the only one in the other.
    assert matrix.shares.loc["TOD sampling", "RANDOM sampling"] == (1 / 2 + 1) / 2
    assert any("2 settings" in note for note in matrix.notes)


def test_methods_without_common_seeds_are_not_compared_with_a_word(tmp_path):
    folders = [
        write_run(tmp_path, LOW, sampling="RANDOM"),
        write_run(tmp_path, BETTER, seed=1),
        write_run(tmp_path, BETTER[:4], sampling="BADGE"),
    ]
    matrix = matrix_of(folders)
    assert matrix.shares.isna().all(axis=None)
    words = " ".join(matrix.notes)
    assert "not compared (no trial of the same seed and number)" in words
    assert "not compared (fewer than 5 pairs" in words


@pytest.mark.parametrize("image", [2.0, 100 / 360])
def test_equal_differences_are_no_proof(tmp_path, image):
    # A test image more in each trial; of 360, it is written as 0.2777 or as 0.2778.
    accuracies = [[round(count * image, 4) for count in (30, 31)] for _ in LOW]
    better = [[round(count * image, 4) for count in (30, 32)] for _ in LOW]
    differences = np.array([b[1] - a[1] for a, b in zip(accuracies, better, strict=True)])
    assert paired_p(differences) == 1
    assert paired_p(differences + np.array([0, 1e-4, 0, 1e-4, 0])) == 1
    folders = [write_run(tmp_path, accuracies, sampling="RANDOM"), write_run(tmp_path, better)]
    assert (matrix_of(folders).shares.fillna(0) == 0).all(axis=None)


@pytest.mark.parametrize("pairs", [3, 4, 5, 10])
@pytest.mark.parametrize(("images", "accuracy"), [(50, 0.98), (360, 0.99), (10_000, 0.9)])
def test_equal_methods_hardly_ever_beat_each_other_after_holms_correction(pairs, images, accuracy):
    random, experiments = np.random.default_rng(0), 150
    errors = 0
    for _ in range(experiments):
        # Four methods at seven label sizes.
        found = random.binomial(images, accuracy, (7, 4, pairs)) / images
        percents = np.round(100 * found, 4)
        pairs_of_methods = [pair for size in percents for pair in itertools.combinations(size, 2)]
        differences = [a - b for a, b in pairs_of_methods if (a != b).any()]
        errors += (holm(np.array([*map(paired_p, differences)])) < 0.05).any()
    # 5 %, and three standard deviations of as many draws.
    assert errors / experiments <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / experiments)


def test_the_order_of_the_runs_changes_nothing(tmp_path):
    plain = read_run(write_run(tmp_path, LOW, sampling="RANDOM"))
    light = read_run(write_run(tmp_path, BETTER, auxiliary="TOD"))
    heavy = read_run(write_run(tmp_path, WORSE, sampling="ENTROPY", auxiliary="TOD"))
    heavy = replace(heavy, config={**heavy.config, "cod": {**heavy.config["cod"], "weight": 2}})
    bf16 = read_run(write_run(tmp_path / "bf16", WORSE, auxiliary="TOD", precision="bf16"))
    methods = sorted({curve.method for curve in (plain, light, heavy)})
    found = [penalty_matrix(order) for order in itertools.permutations([plain, light, heavy, bf16])]
    for matrix in found:
        # Those with a loss are compared with the one without, and not with each other.
        pairs = {frozenset(pair) for pair in matrix.tests[["method", "other"]].to_numpy()}
        assert pairs == {frozenset((plain.method, c.method)) for c in (light, heavy)}
        assert any("another cod.weight" in note for note in matrix.notes)
        assert any("2 settings" in note for note in matrix.notes)
        for name in ("shares", "corrected"):
            ours, first = (getattr(m, name).loc[methods, methods] for m in (matrix, found[0]))
            np.testing.assert_allclose(ours, first)


def test_no_method_beats_itself(tmp_path):
    runs = [
        write_run(tmp_path, LOW, precision="fp32"),
        write_run(tmp_path / "bf16", BETTER, precision="bf16"),
        write_run(tmp_path, WORSE, sampling="RANDOM", precision="fp32"),
        write_run(tmp_path / "again", BETTER, precision="fp32"),
    ]
    matrix = matrix_of(runs)
    assert np.isnan(np.diag(matrix.shares)).all()
    assert any("of one method" in note for note in matrix.notes)
    # Both of its runs beat random queries at 150 labels, and one of them perhaps at 200.
    assert matrix.shares.loc["TOD sampling", "RANDOM sampling"] >= 1 / 2


def test_plot_draws_the_matrix_and_writes_every_test(tmp_path, capsys):
    folders = three_methods(tmp_path)
    plot.main([*map(str, folders), "--matrix", f"--output={tmp_path / 'm.png'}"])
    with Image.open(tmp_path / "m.png") as image:
        assert image.width > image.height
    assert [row["pairs"] for row in table(tmp_path / "m.csv")] == ["5"] * 6
    assert "| is beaten, on average |" in capsys.readouterr().out


def test_the_report_has_the_matrix_where_there_are_two_methods(tmp_path, monkeypatch):
    folders = three_methods(tmp_path)
    few = [write_run(tmp_path / "few", LOW[:3], sampling=s) for s in ("RANDOM", "TOD")]
    monkeypatch.setattr(figures, "rendered", lambda figure: b"")
    written = tmp_path / "report.html"
    for chosen, expected in ((folders, True), (folders[:1], False), (few, False)):
        report.main([*map(str, chosen), f"--output={written}"])
        assert ("Pairwise penalty matrix" in written.read_text(encoding="utf-8")) == expected
