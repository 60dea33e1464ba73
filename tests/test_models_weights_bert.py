"""Hugging Face's BERT in `bert`: the same logits, or a refusal that names the reason; nothing between."""

import random
import re

import pytest
import torch

from resnorm import bert, load_weights

transformers = pytest.importorskip("transformers")

SIZES = dict(
    vocab_size=101, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, max_position_embeddings=16
)
TOKENS = torch.randint(101, (2, 12), generator=torch.Generator().manual_seed(1))


def theirs(name="BertForMaskedLM", **options):
    torch.manual_seed(0)
    kind = re.split("For|Model", name)[0]
    model = getattr(transformers, name)(getattr(transformers, f"{kind}Config")(**SIZES | options))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


def ours(**options):
    torch.manual_seed(1)
    return bert(**dict(vocabulary=101, context=16, depth=2, width=32, heads=4, expansion=48 / 32) | options).eval()


def same(mine, other, tokens=TOKENS):
    segments, mask = torch.arange(12).ge(5).long().repeat(2, 1), torch.ones(2, 12)
    mask[1, 7:] = 0
    with torch.no_grad():
        its = other(tokens, token_type_ids=segments, attention_mask=mask)
        its = getattr(its, "logits", getattr(its, "prediction_logits", None))
        seen = mask.bool()
        torch.testing.assert_close(mine(tokens, segments, mask)[seen], its[seen], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [dict(), dict(hidden_act="relu", layer_norm_eps=1e-3), dict(hidden_act="gelu_new", type_vocab_size=3, intermediate_size=128)],
)
def test_the_call_of_the_error_loads_the_weights_and_gives_the_same_logits(options, tmp_path):
    other = theirs(**options)
    with pytest.raises(ValueError, match=r"the nearest network here is bert\(") as refusal:
        load_weights(bert(vocabulary=3, depth=1, width=8, heads=2), other.state_dict(), config=other.config)
    made = lambda: eval(re.search(r"bert\(.*\)", str(refusal.value))[0], dict(bert=bert)).eval()  # noqa: E731
    names = list(other.state_dict())
    random.Random(0).shuffle(names)
    other.save_pretrained(tmp_path)
    same(load_weights(made(), other.state_dict(), config=other.config), other)
    same(load_weights(made(), {name: other.state_dict()[name] for name in names}), other)
    same(load_weights(made(), tmp_path), other)
    same(load_weights(made(), tmp_path / "model.safetensors"), other)
    same(load_weights(made(), other), other)


def test_the_pretraining_network_and_old_files_are_the_same_weights():
    other = theirs("BertForPreTraining")
    assert {"bert.pooler.dense.weight", "cls.seq_relationship.weight"} <= set(other.state_dict())
    same(load_weights(ours(), other.state_dict(), config=other.config), other)
    old = {
        re.sub("LayerNorm.bias$", "LayerNorm.beta", re.sub("LayerNorm.weight$", "LayerNorm.gamma", name)): value
        for name, value in other.state_dict().items()
        if name != "cls.predictions.decoder.bias"
    } | {"bert.embeddings.position_ids": torch.arange(16)[None]}
    assert any(name.endswith("gamma") for name in old)
    for prefix in ("", "module.", "_orig_mod."):
        same(load_weights(ours(), {f"{prefix}{name}": value for name, value in old.items()}), other)


TRAPS = [
    (dict(hidden_act="relu"), "hidden_act='relu' in the configuration, and 'gelu' in this model"),
    (dict(hidden_act="silu"), "hidden_act='silu' in the configuration"),
    (dict(layer_norm_eps=1e-5), "layer_norm_eps=1e-05 in the configuration, and 1e-12 in this model"),
    (dict(num_attention_heads=2), "num_attention_heads=2 in the configuration, and 4 in this model"),
    (dict(is_decoder=True), "is_decoder=True in the configuration, and False in this model"),
    (dict(position_embedding_type="relative_key"), "position_embedding_type='relative_key' in the configuration, and 'absolute'"),
    (dict(embedding_scale=2.0), "embedding_scale=2.0 in the configuration, a field that is unknown here"),
]


@pytest.mark.parametrize(("options", "message"), TRAPS)
def test_what_the_configuration_says_and_no_tensor_is_refused(options, message):
    other, mine = theirs(**options), ours()
    before = {name: value.clone() for name, value in mine.state_dict().items()}
    for config in (other.config, other.config.to_dict()):
        with pytest.raises(ValueError, match=message):
            load_weights(mine, other.state_dict(), config=config)
    with pytest.raises(ValueError, match=message):
        load_weights(mine, other)
    assert all(torch.equal(value, before[name]) for name, value in mine.state_dict().items())


def test_an_untied_decoder_is_refused_from_the_tensors():
    with pytest.raises(ValueError, match="'cls.predictions.decoder.weight' is not 'bert.embeddings.word_embeddings.weight'"):
        load_weights(ours(), theirs(tie_word_embeddings=False).state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(variant="pre"), "no tensor of the weights fills 'stack.last.weight'"),
        (dict(variant="deepnorm"), "this model adds by '.*α.*, and the weights by"),
        (dict(variant="xskip_norm"), "this model adds by '.*λ.*, and the weights by"),
        (dict(variant="encoder_b2t"), "the word 'Aan Mabn', and the weights 'Aan Man'"),
        (dict(norm="batch(dim=-1,eps=1e-12,track_running_stats=False)"), "is BatchNorm, and in the weights LayerNorm"),
        (dict(segments=3), r"has shape \(2, 32\), and 'embedding.segment.weight' of this model \(3, 32\)"),
    ],
)
def test_another_network_of_ours_is_refused_from_the_tensors(options, message):
    with pytest.raises(ValueError, match=message):
        load_weights(ours(**options), theirs().state_dict())


def test_megatrons_pre_norm_is_refused_from_the_tensors():
    for options in (dict(), dict(variant="pre")):
        with pytest.raises(ValueError, match="MegatronBert is Pre-Norm"):
            load_weights(ours(**options), theirs("MegatronBertForMaskedLM").state_dict())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("RobertaForMaskedLM", "RoBERTa and its kin count positions from 2"),
        ("ElectraForMaskedLM", "ELECTRA's generator has"),
        ("DistilBertForMaskedLM", "DistilBERT has no segments"),
        ("MPNetForMaskedLM", "have the names of no network that is known here"),
        ("DebertaForMaskedLM", "have the names of no network that is known here"),
    ],
)
def test_other_encoders_are_refused_by_their_names(name, message):
    sizes = dict(dim=32, n_layers=2, n_heads=4, hidden_dim=48) if name.startswith("Distil") else {}
    with pytest.raises(ValueError, match=message):
        load_weights(ours(), theirs(name, **sizes).state_dict())


@pytest.mark.parametrize("name", ["BertModel", "BertForSequenceClassification", "BertForQuestionAnswering"])
def test_a_network_without_the_head_loads_with_head_skip(name):
    other = theirs(name)
    with pytest.raises(ValueError, match="no tensor of the weights fills 'head.bias' .* head=\"skip\""):
        load_weights(ours(), other.state_dict())
    mine = ours()
    head = {name: value.clone() for name, value in mine.head.state_dict().items()}
    load_weights(mine, other, head="skip")
    load_weights(mine, other.state_dict(), head="skip", config=other.config)
    assert all(torch.equal(value, head[name]) for name, value in mine.head.state_dict().items())
    with torch.no_grad():
        h = mine.stack(mine.embedding(TOKENS))
        torch.testing.assert_close(h, other.base_model(TOKENS).last_hidden_state, rtol=1e-5, atol=1e-5)


def test_the_encoder_of_roberta_has_the_names_of_bert_and_is_refused():
    other = theirs("RobertaModel", type_vocab_size=1)
    for options in (dict(), dict(config=other.config)):
        with pytest.raises(ValueError, match="positions start at 2"):
            load_weights(ours(segments=1), other.state_dict(), head="skip", **options)
