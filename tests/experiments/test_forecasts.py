"""Forecasts beside what came."""

import pytest

from experiments import forecasts
from tests.analysis.conftest import TWO_TRIALS
from tests.support.harness import write_run
from tod.config import InputError


def test_each_forecast_is_held_against_all_that_came_after_it(tmp_path, capsys):
    law = [round(98 - 600 * (50 + 50 * cycle) ** -0.8, 4) for cycle in range(1, 8)]
    folders = [write_run(tmp_path, [law], cycles=7, seed=seed) for seed in range(2)]
    folders.append(write_run(tmp_path, [law[:4]], cycles=4, sampling="RANDOM"))  # too short
    forecasts.main([*map(str, folders)])
    alone, means = (part.splitlines() for part in capsys.readouterr().out.split("Mean over trials"))
    # After the fourth, fifth and sixth of seven cycles: 3 + 2 + 1 accuracies came.
    for lines, runs in ((alone, 2), (means, 1)):
        cells = [each.strip() for each in lines[4].split("|")[1:-1]]
        assert cells[0] == "digits, TOD sampling"
        counts = [str(runs * number) for number in (3, 0, 6, 6, 0)]
        assert [cells[i] for i in (1, 2, 3, 6, 8)] == counts
        assert float(cells[4]) < 0.5 and float(cells[7]) < 1.3
        assert cells[5] == cells[9] == "100"
        assert not any("RANDOM" in line for line in lines)


def test_runs_that_are_too_short_are_refused(tmp_path):
    with pytest.raises(InputError, match="no run has 5 label sizes"):
        forecasts.main([str(write_run(tmp_path, TWO_TRIALS))])
