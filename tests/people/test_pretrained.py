"""People's runs that need pretrained weights, which they may not have."""

from unittest.mock import Mock
from urllib.error import URLError

import pytest
import torch
from huggingface_hub import constants

import models
from tests.support.formats import write_imagenet_weights
from tests.support.loading import refused

SETTINGS = ("model.name=imagenet_resnet", "model.pretrained=true", "model.width=64")
PRETRAINED = [f"--set={setting}" for setting in SETTINGS]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Where torch.hub keeps weights, empty; nothing can be downloaded."""

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    offline = Mock(side_effect=URLError("no network"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.mark.parametrize(
    ("is_damaged", "says"),
    [
        (False, ("could not be had ", "no network", " model.pretrained=false")),
        (True, ("is no readable checkpoint; remove it",)),
    ],
)
def test_weights_that_will_not_do_are_refused_at_first(people, cache, is_damaged, says):
    if is_damaged:
        path = cache / models.IMAGENET_FILES[1]
        write_imagenet_weights(path)
        path.write_bytes(path.read_bytes()[:-1000])
    before = sorted(people.place.rglob("*"))
    line = refused(people.round, *PRETRAINED)
    assert all(words in line for words in says)
    assert sorted(people.place.rglob("*")) == before


def test_weights_in_the_cache_are_read_once(people, cache, monkeypatch):
    write_imagenet_weights(cache / models.IMAGENET_FILES[1])
    load = Mock(wraps=torch.load)
    monkeypatch.setattr(torch, "load", load)
    people.round(*PRETRAINED)
    assert len(people.batch(0)) == 10
    load.assert_called_once()


@pytest.mark.parametrize(
    ("extractor", "says"),
    [
        ("resnet10t.c3_in1k", ("could not be had ", "timm/resnet10t.c3_in1k", "model.safetensors")),
        ("resnet10t.nobody", ("resnet10t.nobody is no network", "timm.list_pretrained()")),
    ],
)
def test_an_extractor_that_cannot_be_had_is_refused_at_first(
    people, tmp_path, monkeypatch, extractor, says
):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    before = set(people.place.rglob("*"))
    settings = ("model.name=linear", f"model.extractor={extractor}")
    line = refused(people.round, *(f"--set={setting}" for setting in settings))
    assert all(words in line for words in says)
    new = {path.name for path in set(people.place.rglob("*")) - before}
    assert new <= {".digests_of_images", ".lock"}  # what reading the images leaves
