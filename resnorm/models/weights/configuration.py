"""Configurations of Hugging Face, field by field: what our network must be for each, and what is unknown is refused."""

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from resnorm.models.weights.source import Source

# Fields that no output depends on: tokens with a meaning, drawing of weights, training, writing of text, bookkeeping.
NEUTRAL = frozenset(
    """
    _name_or_path name_or_path architectures transformers_version torch_dtype dtype use_bfloat16 torchscript tokenizer_class
    id2label label2id num_labels problem_type finetuning_task task_specific_params prefix return_dict use_cache
    output_attentions output_hidden_states output_scores return_dict_in_generate _attn_implementation attn_implementation
    _attn_implementation_autoset chunk_size_feed_forward gradient_checkpointing initializer_range pretraining_tp
    pad_token_id bos_token_id eos_token_id sep_token_id cls_token_id mask_token_id unk_token_id decoder_start_token_id
    forced_bos_token_id forced_eos_token_id max_length min_length max_new_tokens do_sample early_stopping num_beams
    num_beam_groups diversity_penalty temperature top_k top_p typical_p repetition_penalty length_penalty
    no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids num_return_sequences remove_invalid_values
    exponential_decay_length_penalty suppress_tokens begin_suppress_tokens tie_encoder_decoder
    attention_dropout attention_probs_dropout_prob hidden_dropout_prob classifier_dropout
    """.split()
)
# A field with one of these values switches nothing on.
OFF: tuple = (None, False, 0, "", {}, [])


@dataclass(frozen=True)
class Told:
    """A field whose value is a setting of our network: `fact`, a key of what `facts` gives; `default` where it is absent."""

    fact: str
    default: Any = None


@dataclass(frozen=True)
class Only:
    """A field with a single value for which our network is the same function, which is the default too."""

    value: Any


@dataclass(frozen=True)
class Configuration:
    """The configurations of one family: `types` are the values of `model_type`, `others` names like them with the reason
    why they are other functions.

    `fields`: for every field that changes the function a `Told` or an `Only`. `shaped`: fields that the shapes of the
    tensors tell. `neutral`: fields of this family on which no output depends. `facts(model)`: our network's settings; a
    tuple holds several names of one. `also(model, source)`: reasons that need more than one field, which are in `joint`.
    A field that is in none of these is refused unless it is off, or has the default of an installed transformers.
    `silent`: what all of them tell and no tensor does, as text.
    """

    types: tuple[str, ...]
    silent: str
    fields: Mapping[str, Told | Only]
    facts: Callable[[Any], Mapping[str, Any]]
    shaped: tuple[str, ...] = ()
    neutral: tuple[str, ...] = ()
    joint: tuple[str, ...] = ()
    also: Callable[[Any, Source], Iterator[str]] = lambda model, source: iter(())
    others: Mapping[str, str] = field(default_factory=dict)

    def differences(self, model: nn.Module, source: Source) -> Iterator[str]:
        """One reason for each field with which the other network is not ours; none without a configuration."""
        config = source.config
        if config is None:
            return
        kind, known = config.get("model_type"), f"these tensors are read as those of {', '.join(self.types)}"
        if kind not in self.types:
            yield f"model_type={kind!r} in the configuration, and {self.others.get(kind, known)}"
            return
        facts = self.facts(model)
        for name, rule in self.fields.items():
            if isinstance(rule, Only):
                theirs, ours = config.get(name, rule.value), rule.value
            else:
                theirs, ours = config.get(name), facts[rule.fact]
                theirs = rule.default if theirs is None else theirs
            allowed = ours if isinstance(ours, tuple) else (ours,)
            if theirs is not None and theirs not in allowed:
                yield f"{name}={theirs!r} in the configuration, and {allowed[0]!r} in this model"
        yield from self.also(model, source)
        read = {"model_type", *self.fields, *self.shaped, *self.neutral, *self.joint} | NEUTRAL
        defaults = _defaults(kind)
        for name, value in config.items():
            if name not in read and value not in OFF and not (name in defaults and defaults[name] == value):
                yield (
                    f"{name}={value!r} in the configuration, a field that is unknown here (if no output depends on it, give "
                    "the configuration as a dictionary without it)"
                )


def _defaults(kind: str) -> Mapping[str, Any]:
    """The defaults of an installed transformers, which a field that is new there has, where its configuration is in use."""
    transformers = sys.modules.get("transformers")
    return transformers.CONFIG_MAPPING[kind]().to_dict() if transformers and kind in transformers.CONFIG_MAPPING else {}
