"""What a run is called, and what makes two runs the same."""

from dataclasses import dataclass
from typing import Any

from tod.config import Config


@dataclass(frozen=True, kw_only=True)
class Identity:
    """All that makes two runs the same, but for the images themselves.

    `sampling`, `auxiliary` and `entry` are the names of the strategy, of the loss and of the entry
    script; `seed` decides everything random; `deterministic` asks for the same bytes on CUDA too;
    `features` is the SHA-256 of the file of `--features`, where it is used.
    """

    config: Config
    entry: str
    sampling: str
    auxiliary: str
    seed: int
    deterministic: bool = False
    features: str | None = None

    @property
    def title(self) -> str:
        """What the printed lines begin with."""
        return f"{self.config.name} auxiliary:{self.auxiliary} sampling:{self.sampling}"

    @property
    def folder_name(self) -> str:
        """What the folder of the run is called."""
        method = f"auxiliary_{self.auxiliary}_sampling_{self.sampling}"
        return f"{self.config.name}_{method}_seed{self.seed}"

    def as_dict(self) -> dict[str, Any]:
        """The configuration, and under `run` the rest, as `config.yaml` has them."""
        names = ("entry", "sampling", "auxiliary", "seed", "deterministic", "features")
        return {**self.config.as_dict(), "run": {name: getattr(self, name) for name in names}}
