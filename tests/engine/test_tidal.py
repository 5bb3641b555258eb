"""TiDAL, held against a plain transcription of its training and its score."""

from collections.abc import Sequence
from copy import deepcopy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import samplers
from losses import Step, TrainingDynamics
from models.lossnet import DynamicsNet
from tests.engine.test_fast_paths import all_networks, batch, learner_on, stand_in_graphs
from tests.support.harness import checkpoint, tiny_run
from tests.support.pools import pool_of, positions
from tests.support.soak import differences, results
from tod.data.batches import ImageBatches
from tod.engine.cuda_graph import WARM_UP_STEPS, GraphedGradients
from tod.engine.learner import Learner

__all__ = ["stand_in_graphs"]
EPOCHS, MILESTONE = 4, 3


def tidal(output_dir, *arguments: str):
    settings = (f"--set=training.epochs={EPOCHS}", f"--set=training.milestones=[{MILESTONE}]")
    return tiny_run(output_dir, "main_TOD.py", "TIDAL", "TIDAL", *settings, *arguments)


def test_a_cycle_trains_as_a_plain_transcription(tmp_path, monkeypatch):
    augmented = ImageBatches.augmented
    monkeypatch.setattr(ImageBatches, "augmented", lambda *views: augmented(*views).double())
    with tidal(tmp_path).loop() as loop:
        trial, learner = loop.trial, loop.trial.learner
        for network in all_networks(learner):
            network.double()
        images, labels = trial.experiment.train_images, trial.experiment.train_labels
        backbone, module = map(deepcopy, (trial.backbone, trial.auxiliary.module))
        networks = torch.nn.ModuleList([backbone.train(), module.train()])
        sgd = torch.optim.SGD(networks.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
        means = {}
        for epoch in range(EPOCHS):
            learner.epoch = epoch
            sgd.param_groups[0]["lr"] = 0.1 if epoch < MILESTONE else 0.01
            for views, count in learner._batches(images, trial.labeled, trial.unlabeled):
                assert len(views) == count  # without unlabelled images
                logits, _, _, feature_maps = backbone(images.augmented(views))
                loss = F.cross_entropy(logits, labels[views[:, 0]])
                predicted = module(feature_maps).softmax(dim=1)
                for i, index in enumerate(views[:, 0].tolist()):
                    before = means.get(index, torch.zeros(10).double())
                    means[index] = (before * epoch + logits[i].detach().softmax(0)) / (epoch + 1)
                    ratio = (means[index] / predicted[i]).log()
                    loss = loss + (means[index] * ratio).sum() / count
                sgd.zero_grad()
                loss.backward()
                sgd.step()
        learner.restart_epoch()
        learner.epoch = 0
        trial.train()
        assert set(learner.epoch_losses) == {"loss", "task", "dynamics"}
        trained = (trial.backbone, trial.auxiliary.module)
        for network, plain in zip(trained, networks, strict=True):
            pairs = zip(network.parameters(), plain.parameters(), strict=True)
            for found, expected in pairs:
                torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
        memory = trial.auxiliary.memory.mean_predictions
        assert len(means) == len(trial.labeled)
        for index, expected in means.items():
            torch.testing.assert_close(memory[index], expected, rtol=1e-9, atol=1e-12)


def test_it_queries_where_the_module_is_least_sure():
    pool = pool_of(features=torch.randn(6, 2), query_size=2)
    pool.modules["module"] = module = DynamicsNet((2, 2, 2, 2), num_classes=3)
    query = samplers.query_by_dynamics(pool)
    with torch.no_grad():
        p = module([pool.features[:, :, None, None]] * 4).softmax(dim=1).numpy()
    expected = [-(row * np.log(row)).sum() for row in p]
    np.testing.assert_allclose(query.scores, expected, rtol=1e-5)
    assert set(positions(query)) == set(np.argsort(expected)[-2:])


def test_a_run_goes_on_bit_for_bit(tmp_path, no_pictures):
    whole, stopped = (tidal(tmp_path / name) for name in ("whole", "stopped"))
    whole.start()
    for steps in (4, 15):
        stopped.stop_after(steps)
    stopped.start()
    assert list(checkpoint(whole.folder, 2)) == [
        *("cycle", "state_dict_backbone", "state_dict_module")
    ]
    assert not differences(results(whole.folder), results(stopped.folder))


def with_memory(size: int) -> Learner:
    learner = learner_on("cpu", TrainingDynamics, "fp32")
    memory = learner.auxiliary.memory
    memory.mean_predictions = torch.zeros(size, 10)
    return learner


@pytest.mark.usefixtures("stand_in_graphs")
def test_a_graph_s_warm_up_sees_and_leaves_the_memory_as_it_was(monkeypatch):
    learner, seen = with_memory(40), []
    memory = learner.auxiliary.memory.mean_predictions
    memory += 0.1
    losses = TrainingDynamics.losses

    def noted(loss: TrainingDynamics, step: Step) -> Sequence[Tensor]:
        seen.append(memory.clone())
        return losses(loss, step)

    monkeypatch.setattr(TrainingDynamics, "losses", noted)
    learner.graphs = GraphedGradients(all_networks(learner))
    learner.epoch = 2
    images, labels, none = batch("cpu", (16, 0), 0)
    learner._step(images, labels, none, torch.arange(16))
    assert learner.graphs.works and len(seen) == WARM_UP_STEPS + 1
    # On a CPU a replay does nothing: all that has run were the warm-up and the capture.
    for each in (*seen, memory):
        torch.testing.assert_close(each, torch.full((40, 10), 0.1))
