"""Features of the training images that somebody else's network has made."""

from pathlib import Path

import numpy as np

from tod.config import InputError
from tod.data.dataset import Dataset
from tod.files import reason


def load_features(path: Path, dataset: Dataset) -> np.ndarray:
    """The features (N, F) float32 of the N training images, from a `.npy` file in their order.

    Where a long tail was drawn from the training set, the file may have a row for each image that
    there was before.

    Raises:
        InputError: the file cannot be read, or does not fit the images.
    """
    try:
        found = np.load(path, allow_pickle=False)
    # A damaged file can raise anything at all.
    except Exception as error:
        raise InputError(
            f"--features {path}: cannot be read ({reason(error)}); write it by numpy.save"
        ) from None
    is_array = isinstance(found, np.ndarray)
    if not is_array or found.ndim != 2 or not np.issubdtype(found.dtype, np.floating):
        what = f"{found.dtype} of shape {found.shape}" if is_array else "several arrays"
        raise InputError(f"--features {path}: holds {what}; it should be one float array (N, F)")
    if dataset.kept is not None and len(found) == len(dataset.kept):
        found = found[dataset.kept]
    if len(found) != len(dataset.train) or found.shape[1] == 0:
        raise InputError(
            f"--features {path}: has the shape {found.shape}, and there are {len(dataset.train):,} "
            "training images; it needs a row for each, in the order of their `index` in queries/"
        )
    with np.errstate(over="ignore"):
        found = found.astype(np.float32)
    odd = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if len(odd):
        raise InputError(
            f"--features {path}: row {odd[0]} is not finite ({len(odd):,} such); compute it anew"
        )
    return found
