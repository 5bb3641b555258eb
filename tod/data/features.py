"""Features of the training images that somebody else's network has made."""

from pathlib import Path

import numpy as np

from tod.config import InputError
from tod.data.dataset import Dataset
from tod.system.files import reason


def load_features(path: Path, dataset: Dataset) -> np.ndarray:
    """The features (N, F) float32 of the N training images, from a `.npy` file in their order.

    Where the seed decides which images are for training (Caltech-101, `images.test_share`, a long
    tail), the file has a row for each image that it draws from, and so is the same for all seeds.
    """

    def refused(words: str) -> InputError:
        return InputError(f"--features {path}: {words}")

    try:
        found = np.load(path, allow_pickle=False)
    # A damaged file can raise anything at all, with advice that is none.
    except Exception as error:
        why = reason(error) if isinstance(error, OSError) else "it is no .npy file of numbers"
        raise refused(f"cannot be read ({why}); write it by numpy.save") from None
    is_array = isinstance(found, np.ndarray)
    if not is_array or found.ndim != 2 or not np.issubdtype(found.dtype, np.floating):
        what = f"{found.dtype} of shape {found.shape}" if is_array else "several arrays"
        raise refused(f"holds {what}; it should be one float array (N, F)")
    size = dataset.draw.size if dataset.draw else len(dataset.train)
    if len(found) != size or found.shape[1] == 0:
        which = "images that the seed draws from" if dataset.draw else "training images"
        raise refused(
            f"has the shape {found.shape}, and there are {size:,} {which}; it "
            "needs a row for each, in their order (docs/configuration.md says which)"
        )
    if dataset.draw:
        found = found[dataset.draw.places]
    with np.errstate(over="ignore"):
        found = found.astype(np.float32)
    odd = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if len(odd):
        raise refused(f"row {odd[0]} is not finite ({len(odd):,} such); compute it anew")
    return found
