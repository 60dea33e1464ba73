"""Data sets of images."""

import os
import tempfile
from pathlib import Path

import torch

from resnorm.data.dataset import DataSet, stratified_split
from resnorm.data.root import DataError, data_root
from resnorm.extras import needed_for

SEED = 0
BUNDLED = "The data set 'digits' is bundled and needs no download."


def digits(validation: int = 180, test: int = 360, seed: int = SEED) -> DataSet:
    """The 1,797 handwritten digits that scikit-learn carries: (examples, 1, 8, 8), ten classes, no download.

    ``validation`` and ``test`` are numbers of examples; ``seed`` chooses them, every class in its share.
    Raises ValueError where no example is left for training.
    """
    with needed_for("the handwritten digits"):
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
    train_part, test_part = _cifar10_parts(folder, download)
    images, targets = _tensors(train_part)
    chosen, rest = stratified_split(targets, validation, SEED)
    if not 1 <= (len(rest) if subset is None else subset) <= len(rest):
        raise ValueError(
            f"subset={subset} with validation={validation}: "
            f"{len(rest)} of {len(targets)} images are left to train on, and at least one is needed"
        )
    if subset is not None:
        rest = rest[stratified_split(targets[rest], subset, SEED)[0]]
    splits = [(images[index], targets[index]) for index in (rest, chosen)]
    return DataSet("cifar10", "images", *splits, _tensors(test_part), spec=dict(inputs=3, size=32, classes=10))


def _tensors(part) -> tuple[torch.Tensor, torch.Tensor]:
    # torchvision shows the files' (examples, 3, 32, 32) as (examples, 32, 32, 3): turned back, nothing is copied.
    return torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets)


def _cifar10_parts(root: Path, download: bool):
    with needed_for("the images of CIFAR-10"):
        from torchvision.datasets import CIFAR10

    folder = root / CIFAR10.base_folder
    try:
        return CIFAR10(root, train=True), CIFAR10(root, train=False)
    except RuntimeError as error:
        if folder.exists():
            raise DataError(
                f"CIFAR-10 in {folder} is incomplete or damaged: its md5 sums differ. Delete that folder and run again "
                f"to download it anew, or name another root. {BUNDLED}"
            ) from error
    if not download:
        raise DataError(
            f"CIFAR-10 is not in {root}. Set RESNORM_DATA or root= to the folder that holds "
            f"{CIFAR10.base_folder}, or allow download=True. {BUNDLED}"
        )
    try:
        _download(CIFAR10.url, CIFAR10.tgz_md5, CIFAR10.base_folder, root)
    except (OSError, ValueError) as error:  # no network or no room, or another checksum
        raise DataError(
            f"CIFAR-10 could not be downloaded from {CIFAR10.url} to {root} ({error}). Check the network and run "
            f"again, or unpack that archive into {root} by hand, or point RESNORM_DATA at a folder that has it. "
            f"{BUNDLED}"
        ) from error
    return CIFAR10(root, train=True), CIFAR10(root, train=False)


def _download(url: str, md5: str, name: str, root: Path) -> None:
    """Fetch an archive, check it and put the folder ``name`` that it holds into ``root``."""
    with needed_for("downloads", instead=BUNDLED):
        import pooch

    root.mkdir(parents=True, exist_ok=True)
    # Unpacked beside its place and moved there whole: neither a kill nor a second process leaves half a data set.
    with tempfile.TemporaryDirectory(dir=root, prefix=".partial-") as partial:
        pooch.retrieve(url, f"md5:{md5}", path=partial, processor=pooch.Untar(extract_dir="."))
        try:
            os.rename(Path(partial) / name, root / name)
        except OSError:
            # Another process was faster; what it put there is checked like any other.
            if not (root / name).exists():
                raise
