"""plot.py, as users run it."""

import re
import subprocess
import sys

import pytest
from PIL import Image

import plot
import report
from tests.analysis.conftest import TWO_TRIALS, write_full_run
from tests.support.harness import PROJECT_DIR, run_script, write_run
from tod.analysis import results


def test_the_script_draws_and_writes_its_table_in_markdown_and_csv(tmp_path, pair):
    process = run_script("plot.py", *pair, "--output", tmp_path / "curves.png")
    assert (process.returncode, process.stderr) == (0, "")
    with Image.open(tmp_path / "curves.png") as image:
        assert image.size == (840, 576)
    lines = process.stdout.splitlines()
    assert lines[0] == (
        "| digits, seed 0: test accuracy (%) | 100 labels (7.0 %) | 150 labels (10.4 %) "
        "| 200 labels (13.9 %) | area under the budget curve |"
    )
    assert "| 80.00 ± 1.00 (3) | 87.00 ± 1.00 (3) | 91.00 ± 1.00 (3) |" in lines[2]
    # Half of the interval: t(0.975; 2) / √3 = 2.4841.
    assert "| +2.00 [-0.48, +4.48] (3) |" in process.stdout
    assert lines[-1] == f"{tmp_path / 'curves.png'}, {tmp_path / 'curves.csv'}"
    assert (tmp_path / "curves.csv").read_text(encoding="utf-8").count("\n") == 1 + 2 * (3 + 1)


def test_the_script_draws_diagnostics_of_runs_that_query(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = write_run(tmp_path, TWO_TRIALS, diagnostics=results.DIAGNOSTICS)
    plot.main([str(write_full_run(tmp_path)), str(folder), "--diagnostics"])
    assert (tmp_path / "diagnostics.png").exists()
    shown = (tmp_path / "diagnostics.csv").read_text()
    assert "queried_class_entropy" in shown and "FULL" not in shown
    printed = capsys.readouterr().out
    assert [*re.findall(r"^\| (\w+) \| 100 labels", printed, re.M)] == [*results.DIAGNOSTICS]
    assert printed.count("| 1.15 ± 0.07 (2) | 2.15 ± 0.07 (2) |") == len(results.DIAGNOSTICS)


@pytest.mark.parametrize("script", [plot, report])
def test_what_lies_among_runs_is_left_out_but_a_wrong_name_is_refused(
    tmp_path, caplog, refusal, script
):
    write_run(tmp_path, TWO_TRIALS)
    write_run(tmp_path / "archive", TWO_TRIALS)
    (tmp_path / "reproduce").mkdir()
    (tmp_path / "report_digits.html").touch()
    everything = [*map(str, sorted(tmp_path.iterdir()))]
    message = refusal(script.main, *everything, tmp_path / "nowhere")
    assert "nowhere/results.csv: cannot be read (No such file or directory); name" in message
    caplog.clear()
    ending = "html" if script is report else "png"
    script.main([*everything, f"--output={tmp_path / 'shown'}.{ending}"])
    assert [message.split(": ")[1] for message in caplog.messages] == [
        f"is left out; it is no run's folder; name those in it, as {tmp_path}/archive/* does",
        *["is left out; it is no run's folder"] * 2,
    ]


@pytest.mark.parametrize(("ending", "begins"), [("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_the_script_draws_in_any_format_and_says_which_runs_are_not_paired(
    tmp_path, capsys, ending, begins
):
    folders = [write_run(tmp_path, TWO_TRIALS), write_run(tmp_path, TWO_TRIALS, config="svhn")]
    plot.main([*map(str, folders), f"--output={tmp_path / 'curves'}.{ending}"])
    assert (tmp_path / f"curves.{ending}").read_bytes().startswith(begins)
    assert "not paired with the first run (another " in capsys.readouterr().out


@pytest.mark.parametrize("script", [plot, report])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("begun", "begun/results.csv: cannot be read (No such file or directory); name"),
        ("file", "file/results.csv: cannot be read (Not a directory); name the folder"),
        ("huge", "huge/results.csv: cannot be read (a number of cycle is too large)"),
        ("half", "half/results.csv: cannot be read (could not convert string to float"),
        ("run --output=file/a.FORMAT", "file/a.FORMAT: cannot be written ("),
        ("run --output=folder.FORMAT", "folder.FORMAT: cannot be written (Is a directory)"),
        ("run --output=page.FORMAT.x", "page.FORMAT.x does not end in ."),
    ],
)
def test_bad_paths_give_one_line(tmp_path, monkeypatch, refusal, script, arguments, message):
    kind = "png" if script is plot else "html"
    for name in ("run", "half", "huge", "begun"):
        write_run(tmp_path, TWO_TRIALS).rename(tmp_path / name)
    columns = "trial,cycle,num_labeled,test_accuracy"
    (tmp_path / "half/results.csv").write_text(f"{columns}\n1,1,10")
    (tmp_path / "huge/results.csv").write_text(f"{columns}\n1,{10**20},10,50\n")
    (tmp_path / "begun/results.csv").unlink()
    (tmp_path / "file").touch()
    (tmp_path / f"folder.{kind}").mkdir()
    monkeypatch.chdir(tmp_path)
    said = refusal(script.main, *arguments.replace("FORMAT", kind).split())
    assert message.replace("FORMAT", kind) in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run --output=curves", "curves does not end in .png, .pdf or .svg"),
        ("run --output=.PNG", ".PNG does not end in .png"),
        ("run --output=curves.csv", "curves.csv does not end in .png, .pdf or .svg"),
        ("run --output=run/results.png", "results.csv: is the run's own place"),
        ("run --output=run/learning_curve.png", "curve.png: is the run's own place"),
        ("run --output=run/labels.png", "labels.csv: is the run's own place"),
        ("run --output=run/trials/trial1.png", "trial1.png: is the run's own place"),
        ("run --paper --diagnostics", "not allowed with argument"),
        ("run --paper", "--paper: the paper has no curves for digits, only for"),
        ("svhn run --paper", "--paper: name runs of one dataset, not of svhn and digits"),
        ("run --diagnostics", "--diagnostics finds no score_loss_spearman there"),
        ("begun --diagnostics", "--diagnostics finds no score_loss_spearman there"),
        ("full --diagnostics", "has queried nothing"),
        ("full run --matrix", "compares methods; name runs of two"),
    ],
)
def test_plots_that_cannot_be_are_refused(tmp_path, monkeypatch, refusal, arguments, message):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path, TWO_TRIALS).rename("run")
    write_run(tmp_path, TWO_TRIALS, config="svhn").rename("svhn")
    write_run(tmp_path, [[80]], cycles=1, diagnostics=results.DIAGNOSTICS).rename("begun")
    write_full_run(tmp_path).rename("full")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    assert message in refusal(plot.main, *arguments.split())
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


def test_what_nobody_reads_and_what_cannot_be_encoded_is_no_error(tmp_path):
    folder = write_run(tmp_path, TWO_TRIALS)
    arguments = (folder, "--output=results.png")  # which is no run's own table
    shown = run_script("plot.py", *arguments, cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "81.00 ? 1.41 (2)" in shown.stdout
    command = [sys.executable, PROJECT_DIR / "plot.py", folder]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.parametrize("script", ["plot.py", "report.py"])
@pytest.mark.parametrize("argument", ["--help", "nowhere"])
def test_help_and_a_refusal_in_one_line_wait_for_no_slow_import(tmp_path, script, argument):
    process = run_script(script, argument, cwd=tmp_path, PYTHONPROFILEIMPORTTIME="1")
    lines = process.stderr.splitlines()
    imported = {line.rpartition("|")[2].strip() for line in lines}
    assert "pandas" in imported
    assert imported.isdisjoint({"torch", "scipy.stats", "sklearn", "matplotlib"})
    said = [line for line in lines if not line.startswith("import time:")]
    if argument == "nowhere":
        (line,) = said
        assert line.startswith("nowhere/results.csv: cannot be read (No such file or directory); ")
        assert (process.returncode, process.stdout) == (2, "")
    else:
        assert (process.returncode, said) == (0, [])
