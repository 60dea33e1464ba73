"""Data sets of images."""

import os
import tempfile
from pathlib import Path

import numpy
import torch

from resnorm.data.dataset import DataSet, stratified_split
from resnorm.data.root import DataError, data_root

SEED = 0
BUNDLED = "The data set 'digits' is bundled and needs no download."


def digits(validation: int = 180, test: int = 360, seed: int = SEED) -> DataSet:
    """The 1,797 handwritten digits that scikit-learn carries: (examples, 1, 8, 8), ten classes, no download.

    ``validation`` and ``test`` are numbers of examples; ``seed`` chooses them, every class in its share.
    Raises ValueError where no example is left for training.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy((bunch.images * (255 / 16)).round().astype("uint8"))[:, None]
    targets = torch.from_numpy(bunch.target).long()
    if validation + test >= len(targets):
        raise ValueError(f"validation={validation} and test={test} leave nothing of {len(targets)} digits to train on")
    test_index, rest = stratified_split(targets, test, seed)
    chosen, train = stratified_split(targets[rest], validation, seed)
    splits = [(images[index], targets[index]) for index in (rest[train], rest[chosen], test_index)]
    return DataSet("digits", "images", *splits, spec=dict(inputs=1, size=8, classes=10))


def cifar10(
    root: str | os.PathLike | None = None, subset: int | None = None, validation: int = 5000, download: bool = True
) -> DataSet:
    """CIFAR-10 [krizhevsky2009learning]: 50,000 + 10,000 images (examples, 3, 32, 32), ten classes.

    ``validation`` images leave the training part by a fixed seed, as in He et al.'s 45,000 / 5,000 [he2016deep];
    ``subset`` keeps that many of the rest. Both hold every class alike. The 10,000 test images are never touched.
    Files are looked for in ``root`` (see `data_root`), checked against their md5 sums and downloaded where missing.

    Raises DataError where the files are missing, damaged or out of reach; ValueError for impossible sizes.
    """
    folder = data_root(root)
    train_set, test_set = _cifar10_parts(folder, download)
    images, targets = _tensors(train_set)
    chosen, rest = stratified_split(targets, validation, SEED)
    if len(rest) < max(1, subset or 0):
        raise ValueError(
            f"subset={subset} with validation={validation}: only {len(rest)} of {len(targets)} images are left to train on"
        )
    if subset is not None:
        rest = rest[stratified_split(targets[rest], subset, SEED)[0]]
    splits = [(images[index], targets[index]) for index in (rest, chosen)]
    return DataSet("cifar10", "images", *splits, _tensors(test_set), spec=dict(inputs=3, size=32, classes=10))


def _tensors(part) -> tuple[torch.Tensor, torch.Tensor]:
    # torchvision shows the files' (examples, 3, 32, 32) as (examples, 32, 32, 3): turned back, nothing is copied.
    return torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(numpy.array(part.targets))


def _cifar10_parts(root: Path, download: bool):
    from torchvision.datasets import CIFAR10

    folder = root / CIFAR10.base_folder
    try:
        return CIFAR10(root, train=True), CIFAR10(root, train=False)
    except RuntimeError as error:
        if folder.exists():
            raise DataError(
                f"CIFAR-10 in {folder} is damaged (its md5 sums differ). Delete that folder and run again to "
                f"download it anew, or name another root. {BUNDLED}"
            ) from error
    if not download:
        raise DataError(
            f"CIFAR-10 is not in {root}. Set RESNORM_DATA or root= to the folder that holds "
            f"{CIFAR10.base_folder}, or allow download=True. {BUNDLED}"
        )
    root.mkdir(parents=True, exist_ok=True)
    # Downloaded beside its place and moved there whole: neither a kill nor a second process leaves half a data set.
    with tempfile.TemporaryDirectory(dir=root, prefix=".cifar10-") as partial:
        try:
            CIFAR10(partial, download=True)
        except (OSError, RuntimeError) as error:
            raise DataError(
                f"CIFAR-10 could not be downloaded from {CIFAR10.url} ({error}). Check the network and run again, or "
                f"unpack that archive into {root} by hand, or point RESNORM_DATA at a folder that has it. {BUNDLED}"
            ) from error
        try:
            os.rename(Path(partial) / CIFAR10.base_folder, folder)
        except OSError:
            if not folder.exists():
                raise
    return CIFAR10(root, train=True), CIFAR10(root, train=False)
