"""plot.py, as users run it."""

import subprocess
import sys

import pytest
from PIL import Image

import plot
import report
from tests.support.harness import PROJECT_DIR, run_script, write_run
from tod.analysis import results

TWO_TRIALS = [[80, 90, 94], [82, 90, 98]]


def test_the_script_draws_and_writes_its_table_in_markdown_and_csv(tmp_path, pair):
    process = run_script("plot.py", *pair, "--output", tmp_path / "curves.png")
    assert (process.returncode, process.stderr) == (0, "")
    with Image.open(tmp_path / "curves.png") as image:
        assert image.size == (840, 576)
    lines = process.stdout.splitlines()
    assert lines[0] == (
        "| test accuracy (%) | 100 labels (7.0 %) | 150 labels (10.4 %) | 200 labels (13.9 %) "
        "| area under the budget curve |"
    )
    assert "| 80.00 ± 1.00 (3) | 87.00 ± 1.00 (3) | 91.00 ± 1.00 (3) |" in lines[2]
    # Half of the interval: t(0.975; 2) / √3 = 2.4841.
    assert "| +2.00 [-0.48, +4.48] (3) |" in process.stdout
    assert lines[-1] == f"{tmp_path / 'curves.png'}, {tmp_path / 'curves.csv'}"
    assert (tmp_path / "curves.csv").read_text(encoding="utf-8").count("\n") == 1 + 2 * (3 + 1)


def test_the_script_draws_diagnostics_in_any_format(tmp_path, capsys):
    folder = write_run(tmp_path, TWO_TRIALS, diagnostics=results.DIAGNOSTICS)
    plot.main([str(folder), "--diagnostics", f"--output={tmp_path / 'd.pdf'}"])
    assert (tmp_path / "d.pdf").read_bytes().startswith(b"%PDF")
    assert "queried_class_entropy" in (tmp_path / "d.csv").read_text()
    assert capsys.readouterr().out.startswith("| score_loss_spearman | 100 labels")


@pytest.mark.parametrize("script", [plot, report])
def test_what_lies_among_runs_is_left_out_but_a_wrong_name_is_refused(
    tmp_path, caplog, refusal, script
):
    write_run(tmp_path, TWO_TRIALS)
    (tmp_path / "reproduce").mkdir()
    (tmp_path / "report_digits.html").touch()
    everything = [str(path) for path in sorted(tmp_path.iterdir())]
    message = refusal(script.main, *everything, str(tmp_path / "nowhere"))
    assert "nowhere/results.csv: cannot be read (No such file or directory); name" in message
    caplog.clear()
    ending = "html" if script is report else "png"
    script.main([*everything, f"--output={tmp_path / 'shown'}.{ending}"])
    assert [message.split(": ")[1] for message in caplog.messages] == [
        "is no run's folder, and is left out"
    ] * 2


def test_the_script_says_which_runs_are_not_paired(tmp_path, capsys):
    folders = [write_run(tmp_path, TWO_TRIALS), write_run(tmp_path, TWO_TRIALS, config="svhn")]
    plot.main([*map(str, folders), f"--output={tmp_path / 'curves.svg'}"])
    assert "not paired with the first run (another " in capsys.readouterr().out


@pytest.mark.parametrize("script", [plot, report])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["begun"], "begun/results.csv: cannot be read (No such file or directory); name"),
        (["file"], "file/results.csv: cannot be read (Not a directory); name the folder"),
        (["half"], "half/results.csv: cannot be read (could not convert string to float"),
        (["run", "--output=file/a.FORMAT"], "file/a.FORMAT: cannot be written ("),
        (["run", "--output=folder.FORMAT"], "folder.FORMAT: cannot be written (Is a directory)"),
    ],
)
def test_bad_paths_give_one_line(tmp_path, monkeypatch, refusal, script, arguments, message):
    kind = "png" if script is plot else "html"
    *arguments, message = (text.replace("FORMAT", kind) for text in (*arguments, message))
    write_run(tmp_path, TWO_TRIALS).rename(tmp_path / "run")
    half = write_run(tmp_path, TWO_TRIALS).rename(tmp_path / "half")
    (half / "results.csv").write_text("trial,cycle,num_labeled,test_accuracy\n1,1,10")
    begun = write_run(tmp_path, TWO_TRIALS).rename(tmp_path / "begun")
    (begun / "results.csv").unlink()
    (tmp_path / "file").touch()
    (tmp_path / f"folder.{kind}").mkdir()
    monkeypatch.chdir(tmp_path)
    assert message in refusal(script.main, *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output=curves"], "curves does not end in .png, .pdf or .svg"),
        (["--output=curves.csv"], "curves.csv does not end in .png, .pdf or .svg"),
        (["--paper", "--diagnostics"], "not allowed with argument"),
        (["--paper"], "--paper: the paper has no curves for digits"),
        (["--diagnostics"], "--diagnostics finds no score_loss_spearman"),
    ],
)
def test_plots_that_cannot_be_are_refused(tmp_path, monkeypatch, refusal, arguments, message):
    folder = write_run(tmp_path, TWO_TRIALS)
    monkeypatch.chdir(tmp_path)
    assert message in refusal(plot.main, folder, *arguments)
    assert list(tmp_path.iterdir()) == [folder]


def test_a_table_never_replaces_a_runs_results(tmp_path, refusal):
    folder = write_run(tmp_path, TWO_TRIALS)
    before = (folder / "results.csv").read_bytes()
    refused = refusal(plot.main, folder, "--output", folder / "results.png")
    assert "would replace the run's own" in refused
    assert (folder / "results.csv").read_bytes() == before
    plot.main([str(folder), "--output", str(tmp_path / "results.png")])


def test_what_nobody_reads_and_what_cannot_be_encoded_is_no_error(tmp_path):
    folder = write_run(tmp_path, TWO_TRIALS)
    shown = run_script("plot.py", folder, cwd=tmp_path, PYTHONIOENCODING="ascii")
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
        assert (process.returncode, process.stdout) == (2, "")
        assert said == [
            "nowhere/results.csv: cannot be read (No such file or directory); "
            "name the folder of a run that has ended a cycle"
        ]
    else:
        assert (process.returncode, said) == (0, [])


def test_all_labels_at_once_are_left_out_of_the_diagnostics(tmp_path, monkeypatch, refusal, capsys):
    monkeypatch.chdir(tmp_path)
    queries = write_run(tmp_path, TWO_TRIALS, diagnostics=results.DIAGNOSTICS)
    full = write_run(tmp_path, [[98]], sampling="FULL", cycles=1)
    path = full / "config.yaml"
    path.write_text(path.read_text().replace("initial_labels: 100", "initial_labels: null"))
    plot.main([str(full), str(queries), "--diagnostics"])
    assert (tmp_path / "diagnostics.png").exists()
    assert "FULL" not in (tmp_path / "diagnostics.csv").read_text()
    capsys.readouterr()
    assert "has queried nothing" in refusal(plot.main, full, "--diagnostics")
    assert "compares methods; name runs of two" in refusal(plot.main, full, queries, "--matrix")
