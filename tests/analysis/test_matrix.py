"""The pairwise penalty matrix, against values by hand and scipy's t-test."""

import csv

import numpy as np
import pytest
from PIL import Image
from scipy import stats

import plot
import report
from tests.support.harness import write_run
from tod.analysis.matrix import holm, matrix_table, paired_p, penalty_matrix
from tod.analysis.results import read_runs

LOW = [[80, 80, 80], [81, 81, 81], [79, 79, 79]]
BETTER = [[80, 89, 90], [81, 90, 91.1], [79, 88, 88.9]]
"""Above LOW by 0; by 9, always; and by 10, 10.1 and 9.9."""


def matrix_of(folders):
    return penalty_matrix(read_runs(folders))


def three_methods(tmp_path):
    return [
        write_run(tmp_path, LOW, sampling="RANDOM"),
        write_run(tmp_path, BETTER),
        write_run(tmp_path, [[80, 70, 90], [81, 71, 80], [79, 69, 70]], sampling="BADGE"),
    ]


def test_an_entry_is_the_share_of_label_sizes_at_which_the_row_beats_the_column(tmp_path):
    shares = matrix_of(three_methods(tmp_path)).shares
    tod, random, badge = "TOD sampling", "RANDOM sampling", "BADGE sampling"
    assert list(shares.index) == [random, tod, badge]
    # At 100 labels nothing differs: there is nothing to test.
    assert shares.loc[tod, random] == 1
    assert shares.loc[random, tod] == 0
    # By 19 at 150 labels; at 200 the differences 0, 11.1 and 18.9 are nothing sure.
    assert shares.loc[tod, badge] == 1 / 2
    assert shares.loc[random, badge] == 1 / 2
    assert np.isnan(np.diag(shares)).all()


def test_p_is_that_of_the_paired_t_test():
    random = np.random.default_rng(0)
    a, b = random.normal(90, 1, 6), random.normal(89.5, 1, 6)
    assert paired_p(a - b) == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert paired_p(np.array([2.0, 2.0])) == 0
    assert paired_p(np.array([0.0, 0.0])) == 1


def test_holms_correction_worked_by_hand():
    # 4 · 0.01, then 3 · 0.02, then 2 · 0.03 (no less than before), then 0.5.
    assert holm(np.array([0.03, 0.01, 0.5, 0.02])) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm(np.array([0.9, 0.8])) == pytest.approx([1, 1])


def test_corrected_shares_are_never_larger(tmp_path):
    matrix = matrix_of(three_methods(tmp_path))
    assert not (matrix.corrected > matrix.shares).any(axis=None)
    assert (matrix.tests["p_holm"] >= matrix.tests["p"]).all()
    assert len(matrix.tests) == 3 * 2


def test_each_setting_counts_the_same(tmp_path):
    folders = [
        write_run(tmp_path, [[80, 70, 90], [81, 71, 80], [79, 69, 70]], sampling="RANDOM"),
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
        write_run(tmp_path, BETTER[:1], sampling="BADGE"),
    ]
    matrix = matrix_of(folders)
    assert matrix.shares.isna().all(axis=None)
    words = " ".join(matrix.notes)
    assert "not compared (no trial of the same seed and number)" in words
    assert "not compared (fewer than three pairs" in words


def test_the_table_ends_with_how_often_each_method_is_beaten(tmp_path):
    header, random, tod, _, beaten = matrix_table(matrix_of(three_methods(tmp_path)))
    assert header[1:] == ["RANDOM sampling", "TOD sampling", "BADGE sampling"]
    assert random[1] == "–"
    assert tod[1].startswith("1.00 (")
    assert [cell.split()[0] for cell in beaten[1:]] == ["0.50", "0.00", "0.50"]


def test_two_equal_differences_are_no_proof(tmp_path):
    folders = [write_run(tmp_path, LOW[:2], sampling="RANDOM"), write_run(tmp_path, BETTER[:2])]
    matrix = matrix_of(folders)
    assert matrix.shares.isna().all(axis=None)
    assert "fewer than three pairs" in matrix.notes[0]


def test_plot_draws_the_matrix_and_writes_every_test(tmp_path, capsys):
    folders = three_methods(tmp_path)
    plot.main([*map(str, folders), "--matrix", f"--output={tmp_path / 'm.png'}"])
    with Image.open(tmp_path / "m.png") as image:
        assert image.width > image.height
    rows = list(csv.DictReader((tmp_path / "m.csv").open()))
    assert len(rows) == 6
    assert {row["pairs"] for row in rows} == {"3"}
    assert "| is beaten, on average |" in capsys.readouterr().out


def test_the_report_has_the_matrix_where_there_are_two_methods(tmp_path):
    folders = three_methods(tmp_path)
    for chosen, expected in ((folders, True), (folders[:1], False)):
        report.main([*map(str, chosen), f"--output={tmp_path / 'report.html'}"])
        page = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert ("Pairwise penalty matrix" in page) == expected
