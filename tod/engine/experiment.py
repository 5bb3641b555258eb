"""A run of trials × cycles, and what its folder holds."""

import logging
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from losses import AuxiliaryLoss
from models import imagenet_weights
from tod import data
from tod.analysis import records, tables
from tod.config.identity import Identity, Options
from tod.data.features import load_features
from tod.engine import device as devices
from tod.engine.data_parallel import DataParallel
from tod.engine.follower import begin
from tod.engine.loop import Loop, finish_trial
from tod.engine.trial import Experiment, Trial
from tod.runs.folder import RunFolder
from tod.runs.log import RunLog
from tod.runs.monitor import Monitor
from tod.runs.ranks import Ranks, main_process_first, ranks_from_environment
from tod.runs.signals import Interruption
from tod.strategies.pool import Pool, Query

log = logging.getLogger("tod")


def run_experiment(
    identity: Identity,
    sampling: Callable[[Pool], Query],
    auxiliary: type[AuxiliaryLoss],
    options: Options,
    *,
    trials: Sequence[int],
    overwrite: bool = False,
    features: Path | None = None,
    group: DataParallel | None = None,
) -> None:
    """Runs the chosen trials, or what an earlier run of the same command has left of them.

    Args:
        identity: the configuration, the seed, and what the strategy and the loss are called.
        sampling: chooses what to query.
        auxiliary: the loss beside the task loss.
        options: where and how it runs, and what it leaves.
        trials: those to run, from 1.
        overwrite: start afresh.
        features: a file of features of the training images, for strategies that take them.
        group: the ranks that share each trial, which this process leads; None: it is alone, or
            the ranks share out the trials.

    Raises:
        InputError: something that the user must mend; what was saved before stays good.
        SystemExit: with status 130, 143 or 129, when interrupted by a signal.
    """
    config, ranks = identity.config, ranks_from_environment()
    local_rank = ranks.local_rank
    if group is not None:
        ranks = Ranks()  # as if alone
    folder = RunFolder(
        options.output_dir / identity.folder_name,
        identity,
        trials=ranks.share(trials),
        chosen=trials,
        overwrite=overwrite and ranks.is_main_process,  # what rank 0 has emptied, the others fill
    )
    without = " without --overwrite" if overwrite else ""
    interruption = Interruption(f"the same command again{without} continues where it stopped")
    with devices.explain_out_of_memory(), RunLog(options.quiet, ranks) as run_log, folder:
        with main_process_first(ranks):
            folder.claim()
            unfinished = folder.unfinished_trials()
            is_finished = not unfinished and folder.is_finished()
            if unfinished:
                on = devices.select_device(options.device, local_rank)
                asked = folder.precision(options.precision)
                work = devices.work_of_a_step(config)
                precision = devices.select_precision(asked, on, work)
                own_work = work // (group.world_size if group is not None else 1)
                threads = devices.select_threads(on, own_work, folder.begun())
                devices.prepare(on, precision, identity.deterministic, threads)
                dataset = data.load(config, identity.seed)
                fingerprint = dataset.fingerprint()
                if group is not None:
                    group.begin(begin(dataset, fingerprint, on, precision), on)
                experiment = Experiment(
                    config,
                    identity.seed,
                    auxiliary,
                    dataset,
                    on,
                    precision,
                    interruption,
                    imagenet_weights() if config.model.pretrained else None,
                    load_features(features, dataset) if identity.features else None,
                    options.cuda_graphs,
                    group,
                )
                folder.open(environment(dataset, on, precision, fingerprint, group))
                records.write_unreadable(folder.path, dataset.unreadable, folder.mark)
                if features and not identity.features:
                    log.warning(f"--features {features}: {identity.sampling} has no use for it")
                run_log.write_to(folder.path / "log.txt")
                if ranks.is_main_process:
                    devices.say_why(asked, precision, on, work)
            elif folder.trials and folder.recorded().get("data_dir") != config.data_dir:
                folder.refuse_other_images(data.load(config, identity.seed).fingerprint())
        for number in set(folder.trials) - set(unfinished):
            finish_trial(folder, number)
        ended = False
        if unfinished:
            events = folder.path / "tensorboard" if options.tensorboard else None
            planned = config.active_learning.labels_of_cycles(len(dataset.train))
            shows_bar = ranks.is_main_process
            monitor = Monitor(config, len(unfinished), planned, options.quiet, shows_bar, events)
            with interruption, monitor:
                for number in unfinished:
                    trial = Trial(experiment, number)
                    ended = Loop(trial, sampling, folder, monitor, options).run()
        # Of several ranks, one shows the table.
        shows = ranks.world_size == 1 or (ranks.is_main_process and is_finished)
        if shows and is_finished:
            log.info(f"{folder.path}: is finished; --overwrite starts it afresh")
        elif shows and not unfinished:
            log.info(f"{folder.path}: the trials of --trials are finished, others are not")
        if shows or ended:
            for line in tables.accuracy_lines(folder.rows()):
                log.info(line)


def environment(
    dataset: data.Dataset,
    device: torch.device,
    precision: str,
    fingerprint: str | None = None,
    group: DataParallel | None = None,
) -> dict[str, Any]:
    """What the run has found, for its `config.yaml`.

    `fingerprint` identifies images that come and go; None: the dataset's own. `group` are the
    ranks that share each trial, if several do.
    """
    return {
        "class_names": list(dataset.class_names),
        "mean": [round(value, 6) for value in dataset.mean.tolist()],
        "std": [round(value, 6) for value in dataset.std.tolist()],
        "data": fingerprint or dataset.fingerprint(),
        "training_images": len(dataset.train),
        "device": devices.device_name(device),
        "precision": precision,
        **({"threads": torch.get_num_threads()} if device.type == "cpu" else {}),
        "ranks": group.world_size if group is not None else 1,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }
