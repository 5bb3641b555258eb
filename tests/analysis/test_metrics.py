"""The metrics of the test set, beside plain ones."""

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve

from tests.support.formats import write_image_folder
from tests.support.harness import table, write_run
from tests.support.loading import load, refused
from tod.analysis import confusion, metrics, records, results, tables
from tod.analysis.results import METRICS, read_runs


def calibration_error(confidences: np.ndarray, correct: np.ndarray) -> float:
    accuracy, confidence = calibration_curve(correct, confidences, n_bins=15)
    counts = np.histogram(confidences, 15, (0, 1))[0]
    return np.average(np.abs(accuracy - confidence), weights=counts[counts > 0])


def plainly(logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    rows = [[math.exp(value) for value in row] for row in logits.tolist()]
    probabilities = [[value / sum(row) for value in row] for row in rows]
    predicted = [row.index(max(row)) for row in probabilities]
    true = labels.tolist()
    recalls, f1s = [], []
    for c in sorted({*true}):
        both = sum(p == t == c for p, t in zip(predicted, true, strict=True))
        recalls.append(both / true.count(c))
        f1s.append(2 * both / (true.count(c) + predicted.count(c)))
    correct = np.array(predicted) == true
    likelihoods = [-math.log(row[t]) for row, t in zip(probabilities, true, strict=True)]
    return {
        "test_accuracy": 100 * correct.mean(),
        "balanced_accuracy": 100 * sum(recalls) / len(recalls),
        "macro_f1": 100 * sum(f1s) / len(f1s),
        "nll": sum(likelihoods) / len(true),
        "ece": 100 * calibration_error(np.array([*map(max, probabilities)]), correct),
    }


def test_the_metrics_are_those_of_their_formulas():
    random = np.random.default_rng(0)
    labels = random.choice(4, 500, p=[0.6, 0.2, 0.15, 0.05])
    logits = random.normal(size=(500, 4)) * 2
    logits[np.arange(500), labels] += 1.0
    case = torch.tensor(logits), torch.from_numpy(labels)
    found, expected = metrics.metrics_of_test_set(*case), plainly(*case)
    assert list(found) == list(expected)
    assert [*map(float, found.values())] == pytest.approx([*expected.values()], abs=1e-4)
    assert metrics.calibration_error(np.ones(3), np.array([True, True, True])) == 0


def test_a_class_without_test_images_is_left_out_of_the_balanced_accuracy():
    labels = torch.tensor([0, 0, 1, 1])
    logits = torch.tensor([[9.0, 0, 0], [9.0, 0, 0], [0, 9.0, 0], [0, 0, 9.0]])
    assert float(metrics.metrics_of_test_set(logits, labels)["balanced_accuracy"]) == 75
    empty = metrics.metrics_of_test_set(torch.empty(0, 3), torch.empty(0, dtype=torch.int64))
    assert empty == {"test_accuracy": "nan", **dict.fromkeys(METRICS, "")}


def test_a_run_writes_metrics_confusion_and_the_probabilities_that_they_are_of(finished):
    rows = table(finished / "results.csv")
    for row in rows:
        kept = np.load(finished / "predictions" / f"trial{row['trial']}_cycle{row['cycle']}.npz")
        probabilities, labels = kept["probabilities"], kept["labels"]
        assert probabilities.shape == (360, 10) and probabilities.dtype == np.float32
        expected = plainly(torch.from_numpy(probabilities).double().log(), torch.from_numpy(labels))
        assert {name: float(row[name]) for name in expected} == pytest.approx(expected, abs=2e-3)
    # Of the last cycle.
    (curve,) = read_runs([finished])
    (matrix,) = confusion.read(curve)
    assert matrix.sum(axis=1).tolist() == np.bincount(labels).tolist()
    assert 100 * np.trace(matrix) / 360 == pytest.approx(float(rows[-1]["test_accuracy"]), abs=1e-3)
    ((_, (header, *by_class)),) = confusion.class_tables([curve])
    assert header == ["accuracy in each class (%)", curve.name]
    assert [digit for digit, _ in by_class] == [*"0123456789"]
    shown = np.mean([float(cell.split()[0]) for _, cell in by_class])
    assert shown == pytest.approx(float(rows[-1]["balanced_accuracy"]), abs=0.01)
    ((_, (_, cells)),) = tables.metrics_tables([curve])
    shown = [f"{float(rows[-1][name]):.2f} (1)" for name in ("test_accuracy", *METRICS)]
    shown[3] = f"{float(rows[-1]['nll']):.4f} (1)"
    assert cells[2:] == shown


def write_confusions(folder: Path, **texts: str) -> None:
    (folder / "confusion").mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / f"confusion/{name}.csv").write_text(text, encoding="utf-8")


def test_confusions_of_all_trials_and_seeds_are_read_together_and_odd_class_names_stay(tmp_path):
    names = ["class", 'a,"b"', "1"]
    folders = [write_run(tmp_path, [[80], [81]], seed=s, class_names=names) for s in (0, 1)]
    for seed, folder in enumerate(folders):
        text = confusion.as_text(np.array([0, 1, 2, seed]), np.array([0, 1, 2, 2]), names)
        write_confusions(folder, trial1_cycle1=text, trial2_cycle1=text)
    (curve,) = read_runs(folders)
    matrices = confusion.read(curve)
    assert matrices.shape == (4, 3, 3)
    assert matrices.sum(axis=0)[2].tolist() == [2, 2, 4]
    ((_, (_, *by_class)),) = confusion.class_tables([curve])
    assert [name for name, _ in by_class] == names
    assert by_class[2][1] == "50.00 ± 0.00 (4)"
    # A trial that is not as far yet is left out.
    ahead = folders[0] / "results.csv"
    ahead.write_text(ahead.read_text() + "3,1,100,80\n3,2,150,90\n")
    write_confusions(folders[0], trial3_cycle1="damaged", trial3_cycle2=text)
    assert len(confusion.read(*read_runs(folders))) == 1
    assert confusion.class_tables(read_runs([write_run(tmp_path / "old", [[80]])])) == []


def test_the_last_cycle_is_that_of_the_highest_number_whatever_its_labels(tmp_path):
    folder = write_run(tmp_path, [[80, 81, 82]], diagnostics=METRICS, cycles=4)
    rows = (folder / "results.csv").read_text(encoding="utf-8")
    # People have relabelled an image, then removed fifty.
    for third in ("1,3,150,", "1,3,100,"):
        (folder / "results.csv").write_text(rows.replace("1,3,200,", third), encoding="utf-8")
        ((_, (_, cells)),) = tables.metrics_tables(read_runs([folder]))
        assert cells[1:3] == [third.split(",")[2], "82.00 (1)"]


def test_kept_predictions_name_the_files_that_they_are_of(tmp_path):
    write_image_folder(tmp_path)
    dataset = load("image_folder", tmp_path, "images.size=8")
    logits = torch.randn(len(dataset.test), len(dataset.class_names))
    records.write_predictions(tmp_path / "kept.npz", logits, dataset)
    assert np.load(tmp_path / "kept.npz")["files"].tolist() == list(dataset.test.names)


def test_a_thousand_classes_are_read_without_a_warning(tmp_path):
    names = [f"class {number}" for number in range(1100)]
    folder = write_run(tmp_path, [[80]], cycles=1, class_names=names)
    classes = np.arange(len(names))
    write_confusions(folder, trial1_cycle1=confusion.as_text(classes, classes, names))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (matrix,) = confusion.read(*read_runs([folder]))
    assert (matrix == np.eye(len(names))).all()


def test_a_damaged_confusion_is_one_line(tmp_path):
    folder = write_run(tmp_path, [[80]], class_names=["a", "b"])
    for text in ("", "class,a\na,1\n", "class,a,b\na,1,x\nb,1,1\n"):
        write_confusions(folder, trial1_cycle1=text)
        line = refused(confusion.read, *read_runs([folder]))
        assert "trial1_cycle1.csv: cannot be read" in line


TEN_CLASSES = torch.arange(360) % 10
TWO_CLASSES = torch.tensor([0] * 60 + [1] * 40)


@pytest.mark.parametrize(
    ("accuracies", "labels", "says"),
    [
        ([11.0], TEN_CLASSES, "is not shown to be better than chance, 10.0 %"),
        ([5.0], TEN_CLASSES, "is not shown to be better than chance, 10.0 %"),
        ([66.0], TWO_CLASSES, "(95 % interval: 56.3 to 74.5 %) is not shown to be better than"),
        ([70.0], TWO_CLASSES, ""),
        ([30.0, 30.0, 30.0], TEN_CLASSES, ""),
        ([30.0, 28.0, 30.0, 29.0], TEN_CLASSES, "not risen for 3 cycles: 30.0 % before, 30.0 % at"),
        ([40.0, 30.0, 28.0, 30.0, 29.0], TEN_CLASSES, "40.0 % before, 30.0 % at most since then"),
        ([30.0, 28.0, 31.0, 29.0], TEN_CLASSES, ""),
        ([99.0, 98.9, 99.0, 99.0], TEN_CLASSES, ""),
        ([93.0, 92.0, 93.0, 93.0], TEN_CLASSES, ""),  # which may well be 95 %
        ([50.0], TWO_CLASSES[:29], ""),  # too few to tell
        ([float("nan")], TWO_CLASSES[:0], ""),
    ],
)
def test_a_cycle_says_when_nothing_seems_learnt(accuracies, labels, says):
    found = metrics.why_nothing_seems_learnt(accuracies, labels)
    assert says in found
    assert bool(found) == bool(says)


def test_the_interval_of_an_accuracy_is_wilsons():
    # Brown, Cai and DasGupta (2001), equation 4.
    count, share, z = 360, 0.25, 1.959964
    middle = (share * count + z**2 / 2) / (count + z**2)
    half = z * (count * share * (1 - share) + z**2 / 4) ** 0.5 / (count + z**2)
    expected = (100 * (middle - half), 100 * (middle + half))
    assert results.accuracy_interval(25.0, count) == pytest.approx(expected)
