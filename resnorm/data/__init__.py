"""Data sets, one function each: bundled defaults and real ones side by side."""

from resnorm.data.dataset import DataSet
from resnorm.data.images import cifar10, digits
from resnorm.data.own import image_folder, tensors, text_file, text_pairs
from resnorm.data.root import DataError, data_root
from resnorm.data.sequences import characters, masked_characters, masked_shakespeare, number_pairs, number_words, tiny_shakespeare
from resnorm.data.tables import table_losses
from resnorm.data.translation import en_vi, iwslt15_en_vi, multi30k, wmt14_en_de

DATA_SETS = {
    function.__name__: function
    for function in (
        digits,
        cifar10,
        number_words,
        characters,
        tiny_shakespeare,
        masked_characters,
        masked_shakespeare,
        number_pairs,
        en_vi,
        multi30k,
        iwslt15_en_vi,
        wmt14_en_de,
    )
}


def load(name: str, **options) -> DataSet:
    """The data set of that name; options go to its function.

    Raises ValueError for an unknown name or an option that the data set does not have.
    """
    import inspect

    if name not in DATA_SETS:
        raise ValueError(f"unknown data set {name!r}: there are {', '.join(DATA_SETS)}")
    allowed = list(inspect.signature(DATA_SETS[name]).parameters)
    unknown = [option for option in options if option not in allowed]
    if unknown:
        raise ValueError(f"data set {name!r} has no option {', '.join(unknown)}: it has {', '.join(allowed)}")
    return DATA_SETS[name](**options)


__all__ = [
    "DATA_SETS",
    "DataError",
    "DataSet",
    "characters",
    "cifar10",
    "data_root",
    "digits",
    "en_vi",
    "image_folder",
    "iwslt15_en_vi",
    "load",
    "masked_characters",
    "masked_shakespeare",
    "multi30k",
    "number_pairs",
    "number_words",
    "table_losses",
    "tensors",
    "text_file",
    "text_pairs",
    "tiny_shakespeare",
    "wmt14_en_de",
]
