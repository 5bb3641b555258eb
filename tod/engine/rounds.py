"""A run whose labels come from people: one round a command.

A round takes labels → trains → evaluates → scores the pool → writes the next batch. The run's
folder says where it is: a saved state with labelled images is a round that has begun; without one,
the run waits for the labels of its last batch.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from losses import AuxiliaryLoss
from models import imagenet_weights
from tod.analysis import records
from tod.config import InputError
from tod.config.identity import Identity, Options
from tod.config.settings import counted, shortened
from tod.data import own_images
from tod.engine import device as devices
from tod.engine.data_parallel import DataParallel
from tod.engine.experiment import environment
from tod.engine.follower import begin
from tod.engine.loop import Loop
from tod.engine.trial import Experiment
from tod.people.label_store import LabelStore
from tod.people.requests import batch_folder
from tod.people.round import Round
from tod.people.trial import PeopleTrial
from tod.runs.checkpoints import Progress
from tod.runs.folder import RunFolder
from tod.runs.log import RunLog
from tod.runs.monitor import Monitor
from tod.runs.ranks import Ranks, ranks_from_environment
from tod.runs.signals import Interruption
from tod.strategies.pool import Pool, Query

log = logging.getLogger("tod")


def run_round(
    identity: Identity,
    sampling: Callable[[Pool], Query],
    auxiliary: type[AuxiliaryLoss],
    options: Options,
    *,
    labels: Sequence[Path] = (),
    relabel: bool = False,
    partial: bool = False,
    group: DataParallel | None = None,
) -> None:
    """Takes labels, and goes on as far as they reach: to the next batch.

    Args:
        identity: the configuration, the seed, and what the strategy and the loss are called.
        sampling: chooses what to query.
        auxiliary: the loss beside the task loss.
        options: where and how it runs, and what it leaves.
        labels: files in which people give labels.
        relabel: whether these may change labels taken before.
        partial: go on without what is missing of the last batch, if it has an answer at least.
        group: the ranks that share the work, which this process leads; None: it is alone.

    Raises:
        InputError: something that the user must mend; what was saved before stays good.
        SystemExit: with status 130, 143 or 129, when interrupted by a signal.
    """
    config, ranks = identity.config, ranks_from_environment()
    if not ranks.is_main_process:
        return
    # They may not be had: people are not to be asked in vain.
    weights = imagenet_weights() if config.model.pretrained else None
    path = options.output_dir / identity.folder_name
    advice = (
        "have it as there, or name another place with --output-dir, and give it what people have "
        f"said, audits too, by --labels {path / 'labels.csv'} and the tables beside it"
    )
    folder = RunFolder(path, identity, trials=[1], chosen=[1], advice=advice)
    with devices.explain_out_of_memory(), RunLog(options.quiet, Ranks()) as run_log, folder:
        found = own_images.find(Path(config.data_dir))
        folder.claim(makes_it=True)  # two first commands would each find nothing there
        state = Progress(folder.path, 1).load()
        recorded = folder.begun()
        _refuse_other_classes(folder.path, recorded, found.class_names)
        record = LabelStore(folder.path, found)
        record.refuse_missing(state, folder.rows())
        record.take(labels, relabel)
        if recorded and record.has_news():
            run_log.write_to(folder.path / "log.txt")
            record.write_labels()
        has_begun = _has_begun(state, record)
        must_wait = record.waiting() and not (partial and record.has_answers())
        if must_wait and not has_begun:
            _say_what_it_waits_for(record, partial)
            return

        on = devices.select_device(options.device, ranks.local_rank)
        asked = folder.precision(options.precision)
        work = devices.work_of_a_step(config)
        precision = devices.select_precision(asked, on, work)
        own_work = work // (group.world_size if group is not None else 1)
        threads = devices.select_threads(on, own_work, recorded)
        devices.prepare(on, precision, identity.deterministic, threads)
        read = own_images.read(record.found, config.images)
        dataset = record.dataset(read, config.images, recorded)
        this_round = Round(config, identity.seed, folder, record, read.digests, dataset)
        if not has_begun and this_round.has_nothing_to_do(state):
            this_round.say_that_all_is_labelled()
            return
        fingerprint = recorded.get("data") or own_images.fingerprint(record.found)
        found_here = environment(dataset, on, precision, fingerprint, group)
        folder.open({**found_here, "settings": [*identity.settings]})
        run_log.write_to(folder.path / "log.txt")
        records.write_unreadable(folder.path, dataset.unreadable)
        record.write_labels()
        record.say_what_changed()
        if not has_begun and this_round.has_too_few_labels():
            this_round.ask_at_random()
            return
        devices.say_why(asked, precision, on, work)
        interruption = Interruption("the same command again continues where it stopped")
        if group is not None:
            rows = own_images.fingerprint_of_rows(record.found, read)
            group.begin(begin(dataset, rows, on, precision), on)
        experiment = Experiment(
            config,
            identity.seed,
            auxiliary,
            dataset,
            on,
            precision,
            interruption,
            weights,
            cuda_graphs=options.cuda_graphs,
            ranks=group,
        )
        trial = PeopleTrial(experiment, read.digests, this_round.is_in_pool)
        events = folder.path / "tensorboard" if options.tensorboard else None
        cycle = state["learner"]["cycle"] if state else 1
        num_labeled = len(state["labeled"] if has_begun else this_round.for_training)
        planned = [0] * (cycle - 1) + [num_labeled]
        with interruption, Monitor(config, 1, planned, options.quiet, True, events) as monitor:
            loop = Loop(trial, sampling, folder, monitor, options)
            loop.continue_where_it_stopped()
            with loop.explain_divergence():
                if not has_begun:
                    this_round.begin(loop)
                batch_was_there = this_round.train_and_ask(loop)
                if batch_was_there and must_wait:
                    _say_what_it_waits_for(record, partial)
                elif batch_was_there:
                    this_round.begin(loop)
                    this_round.train_and_ask(loop)


def _has_begun(state: Mapping[str, Any] | None, record: LabelStore) -> bool:
    """Whether a cycle has begun, and there are still enough of its labelled images to go on."""
    labeled = record.labels.keys() & record.found.files
    return state is not None and len(labeled.intersection(state["labeled"])) >= 2


def _refuse_other_classes(path: Path, recorded: Mapping[str, Any], class_names: list[str]) -> None:
    before = recorded.get("class_names", class_names)
    if before != class_names:
        new, gone = {*class_names} - {*before}, {*before} - {*class_names}
        how = "in another order"
        if new or gone:
            how = f"{shortened(min(new or gone))} is {'new' if new else 'gone'}"
        raise InputError(
            f"{path}: its network knows other classes ({how}); have the same as before, or begin a "
            f"run in another --output-dir with --labels {path / 'labels.csv'}"
        )


def _say_what_it_waits_for(record: LabelStore, partial: bool) -> None:
    number, rows = len(record.batches) - 1, record.batches[-1]
    count = f"{len(record.waiting())} of {counted(len(rows), 'image')}"
    gone = record.gone()
    left_out = ""
    if gone:
        left_out = f" ({len(gone)} gone or changed, as {shortened(gone[0].file)})"
    log.info(
        f"{batch_folder(record.run_folder, number)}: waits for the labels of {count}{left_out}; "
        "give them by --labels FILE, or go on without "
        + ("once there is one (--partial needs an answer at least)" if partial else "by --partial")
    )
