"""Well-known networks that we do not build, by a name that their weights have; an error says whose they are and why not."""

import re
from collections.abc import Iterable

STRANGERS = {
    r"bert\.encoder\.layer\.\d+\.attention\.ln\.": "MegatronBert is Pre-Norm without a norm of the embedding",
    r"(xlm_)?roberta\.": "RoBERTa and its kin count positions from 2",
    r"electra\.|generator_predictions\.": "ELECTRA's generator has embeddings of another width and another head",
    r"distilbert\.": "DistilBERT has no segments and other names",
    r"transformer\.h\.\d+\.attn\.attention\.q_proj": "GPT-Neo does not scale its scores, and every second layer sees a window",
    r"transformer\.h\.\d+\.attn\.q_proj": "GPT-J's head has a bias, which that of transformer_lm has not",
    r"model\.decoder\.layers\.\d+\.self_attn\.": "these decoders have positions of their own, as OPT, which counts them from 2",
    r"model\.layers\.\d+\.self_attn\.qkv_proj\.": "queries, keys and values are one matrix, as in Phi-3",
}


def reason(names: Iterable[str]) -> str | None:
    """Why weights with these names have no network here, where that is known."""
    names = list(names)
    return next((text for pattern, text in STRANGERS.items() if any(re.match(pattern, name) for name in names)), None)
