"""A run: all its trials, with labels from a dataset or from people."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from losses import AuxiliaryLoss
from tod.config import InputError
from tod.config.identity import Identity, Options
from tod.engine import device as devices
from tod.engine.loop import Loop, Oracle
from tod.engine.ranks import DataParallel, LostRankError
from tod.engine.trial import Experiment
from tod.runs.folder import RunFolder
from tod.runs.log import RunLog
from tod.runs.monitor import Monitor
from tod.runs.ranks import main_process_first, ranks_from_environment
from tod.runs.signals import Interruption, handled_by
from tod.strategies.pool import Pool, Query
from tod.system.versions import versions

log = logging.getLogger("tod")


def run_experiment(
    identity: Identity,
    sampling: Callable[[Pool], Query],
    auxiliary: type[AuxiliaryLoss],
    options: Options,
    oracle: Oracle,
    ranks: DataParallel | None = None,
) -> None:
    """Runs the oracle's trials, or continues them where an earlier command stopped.

    The `ranks` share each trial; without them, this process runs its trials alone.

    Raises:
        InputError: the user must mend something; saved results stay valid.
        SystemExit: with status 130, 143 or 129, when interrupted by a signal.
    """
    config, ranks, processes = identity.config, ranks or DataParallel(), oracle.processes
    folder = oracle.folder(options.output_dir / identity.folder_name)
    interruption = Interruption(oracle.advice, leaves=ranks.is_main)
    with (
        nullcontext() if ranks.is_main else _led_by_rank_0(interruption),
        devices.explain_out_of_memory(),
        RunLog(options.quiet or not ranks.is_main, processes) as run_log,
        folder,
    ):
        if not ranks.is_main:
            log.setLevel(logging.ERROR)
        with main_process_first(processes):
            # Ranks that share a trial all continue with the state that rank 0 has found.
            oracle = ranks.from_main(lambda: oracle.prepare(folder, run_log) or oracle)
            experiment, has_ended = None, False
            if oracle.trials:
                parts = (oracle, ranks, folder, run_log, interruption)
                experiment = _opened(identity, auxiliary, options, *parts)
        if experiment is not None:
            writes_events = options.tensorboard and ranks.is_main
            monitor = Monitor(
                config,
                len(oracle.trials),
                oracle.num_labeled,
                options.quiet,
                ranks.is_main and processes.is_main_process,
                folder.path / "tensorboard" if writes_events else None,
            )
            with handled_by(interruption.note) if ranks.is_main else nullcontext(), monitor:
                for number in oracle.trials:
                    trial = oracle.trial(experiment, number)
                    has_ended = Loop(trial, oracle, sampling, folder, monitor, options).run()
        if ranks.is_main:
            oracle.conclude(folder, has_ended)


def _opened(
    identity: Identity,
    auxiliary: type[AuxiliaryLoss],
    options: Options,
    oracle: Oracle,
    ranks: DataParallel,
    folder: RunFolder,
    run_log: RunLog,
    interruption: Interruption,
) -> Experiment | None:
    """Sets up the device, loads the images and opens the folder; None if there is no training."""
    config = identity.config
    device = devices.select_device(options.device, ranks_from_environment().local_rank)
    ranks.use(device)
    asked, work = options.precision, devices.work_of_a_step(config)
    if asked == "auto":
        asked = oracle.recorded.get("precision", asked)
    precision, threads = ranks.from_main(
        lambda: (
            devices.select_precision(asked, device, work),
            devices.select_threads(device, work // ranks.world_size, oracle.recorded),
        )
    )
    devices.prepare(device, precision, identity.deterministic, threads)
    dataset = ranks.each(oracle.load)
    if oracle.content != ranks.from_main(lambda: oracle.content):
        raise InputError(
            f"{config.data_dir}: holds other images here than for rank 0; all ranks "
            "must see the same, and none may come while they read them"
        )
    experiment = Experiment(
        config,
        identity.seed,
        auxiliary,
        dataset,
        device,
        precision,
        interruption,
        oracle.imagenet_weights,
        oracle.given_features,
        options.cuda_graphs,
        ranks,
    )
    found = environment(experiment, oracle.fingerprint)
    if not ranks.from_main(lambda: oracle.open(folder, experiment, found, run_log)):
        return None
    ranks.each(lambda: experiment.load_features(oracle.features_to_train_on))
    if oracle.processes.is_main_process:
        devices.say_why(asked, precision, device, work)
    return experiment


@contextmanager
def _led_by_rank_0(interruption: Interruption) -> Iterator[None]:
    """Notes signals but leaves the answer to rank 0, since the others wait for every rank."""
    with handled_by(interruption.note):
        try:
            yield
        except (LostRankError, SystemExit):
            if interruption.requested:  # so was rank 0, which reports it
                raise SystemExit(128 + interruption.requested) from None
            raise


def environment(experiment: Experiment, fingerprint: str) -> dict[str, Any]:
    """What the run records in `config.yaml` of its data, device and versions."""
    dataset, device = experiment.dataset, experiment.device
    return {
        "class_names": list(dataset.class_names),
        "mean": [round(value, 6) for value in dataset.mean.tolist()],
        "std": [round(value, 6) for value in dataset.std.tolist()],
        "data": fingerprint,
        "training_images": len(dataset.train),
        "device": devices.device_name(device),
        "precision": experiment.precision,
        **({"threads": torch.get_num_threads()} if device.type == "cpu" else {}),
        "ranks": experiment.ranks.world_size,
        "torch": str(torch.__version__),
        **versions(),
    }
