"""What the paper's bound is measured with."""

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from experiments import theory
from models.linear import Linear
from models.resnet import ResNet18
from tod.system.versions import versions


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return ResNet18(3, width=2).eval()


@pytest.mark.parametrize("of_logits", [False, True])
def test_norms_and_steps_are_those_of_each_image_alone(network, of_logits):
    images, truths, rate = torch.randn(5, 3, 8, 8), torch.eye(3)[[0, 2, 1, 1, 0]], 0.01
    found = theory.seen(network, images, truths, of_logits, rate)
    for i in range(5):
        twin = ResNet18(3, width=2).eval()
        twin.load_state_dict(network.state_dict())
        weights = [each for name, each in twin.named_parameters() if "linear1" not in name]

        def output(network: nn.Module = twin, image: torch.Tensor = images[i : i + 1]):
            logits = network(image)[0][0]
            return logits if of_logits else logits.softmax(dim=0)

        before = output()
        gradients = [torch.autograd.grad(f, weights, retain_graph=True) for f in before]
        norm = sum(each.square().sum() for of_output in gradients for each in of_output)
        assert found.norms[i] == pytest.approx(norm.item(), rel=1e-4)
        loss = 0.5 * (truths[i] - before).square().sum()
        assert found.losses[i] == pytest.approx(loss.item(), rel=1e-5)
        loss.backward()
        torch.optim.SGD(weights, lr=rate).step()
        assert found.moves[i] == pytest.approx((output() - before).norm().item(), rel=1e-2)


def test_small_steps_keep_the_bound(network):
    images, truths = torch.randn(8, 3, 8, 8), torch.eye(3)[[0] * 8]
    found = theory.seen(network, images, truths, False, rate=1e-4)
    bounds = found.rate * (2 * found.losses).sqrt() * found.norms
    assert (found.moves <= bounds * 1.01).all()
    assert (found.moves > 0).all()


def test_the_logits_gradient_of_a_linear_head_has_the_same_norm_for_all_features_of_length_1():
    features = torch.nn.functional.normalize(torch.randn(8, 6))
    found = theory.seen(Linear(3, 6), features, torch.eye(3)[[0] * 8], True, rate=1e-4)
    # Of each output, the weights' gradient is the features and the bias' is 1.
    assert found.norms.numpy() == pytest.approx(2 * 3)


def test_the_bounds_are_the_papers():
    shapes = {"steps": 2, "changes": (2, 3), "rates": (2, 4)}
    random = {name: torch.rand(shapes.get(name, (2, 4, 3))) for name in theory.Measured._fields}
    found = theory.Measured(**random | {"steps": torch.tensor([5, 6])})
    for c, i in np.ndindex(2, 3):
        losses, norms, rates = found.losses[c, :, i], found.norms[c, :, i], found.rates[c]
        for e in range(4):
            bound = rates[e] * (2 * losses[e]) ** 0.5 * norms[e]
            assert found.bounds_of_steps()[c, e, i] == pytest.approx(bound.item())
        taken, summed = 4 * found.steps[c], found.steps[c] * losses.sum()
        bound = (2 * taken) ** 0.5 * rates.max() * norms.max() * summed**0.5
        assert found.bounds_of_cycles()[c, i] == pytest.approx(bound.item())


@pytest.mark.parametrize(
    ("network", "precision"), [("model.width=4", "bf16"), ("model.name=linear", "fp32")]
)
def test_it_prints_a_row_for_each_cycle_and_draws(tmp_path, call_script, network, precision):
    tiny = [
        network,
        "model.extractor_size=32",
        "active_learning.cycles=2",
        "training.epochs=1",
        "training.milestones=[]",
    ]
    arguments = [f"--set={each}" for each in tiny]
    path = tmp_path / "theory.png"
    arguments += [f"--data-dir={tmp_path}", "--images=3", f"--output={path}"]
    arguments.append(f"--precision={precision}")
    done = call_script("experiments/theory.py", *arguments)
    assert done.returncode == 0, done.stderr
    rows = [line.split("|")[1].strip() for line in done.stdout.splitlines() if line[:1] == "|"]
    assert rows == ["cycle", "---", "1", "2"]
    picture = path.read_bytes()
    assert picture.startswith(b"\x89PNG")
    with np.load(path.with_suffix(".npz")) as file:
        made_by = yaml.safe_load(file["made_by"].item())
    assert made_by["active_learning"]["cycles"] == 2
    assert made_by["run"].items() >= {"precision": precision, "images": 3, **versions()}.items()
    path.unlink()
    again = call_script(
        "experiments/theory.py", f"--from={path}".replace("png", "npz"), f"--output={path}"
    )
    assert (again.stdout, path.read_bytes()) == (done.stdout, picture)


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04", b"text"])
def test_what_was_measured_elsewhere_is_refused_in_one_line(tmp_path, refusal, content):
    path = tmp_path / "theory.npz"
    if content is not None:
        path.write_bytes(content)
    why = "No such file or directory" if content is None else "it holds no such measurements"
    assert f"{path}: cannot be read ({why}); name" in refusal(theory.main, f"--from={path}")


def test_a_figure_that_cannot_be_written_is_refused_before_the_training(tmp_path, refusal):
    told = refusal(theory.main, "--config=no_such", f"--output={tmp_path / 'theory.npz'}")
    assert "theory.npz does not end in .png" in told
    folder = tmp_path / "theory.png"
    folder.mkdir()
    told = refusal(theory.main, "--config=no_such", f"--output={folder}")
    assert f"{folder}: cannot be written (Is a directory)" in told


@pytest.mark.parametrize(
    "settings",
    [["model.name=linear", "model.extractor=null"], ["active_learning.initial=typical"]],
)
def test_what_needs_a_file_of_features_is_refused(refusal, settings):
    said = refusal(theory.main, *(f"--set={each}" for each in settings))
    assert f"{settings[-1]}: needs a file of features" in said


def test_a_configuration_for_people_is_refused(tmp_path, refusal):
    told = "--config own_images: its labels come from people; name another one"
    assert told in refusal(theory.main, "--config=own_images", f"--data-dir={tmp_path}")
