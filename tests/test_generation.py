"""Greedy and beam search against loops over full passes and over all sequences; a language model that goes on."""

from itertools import product

import pytest
import torch

from resnorm.branches import Cache
from resnorm.models import generate, seq2seq, transformer_lm, translate
from resnorm.models.seq2seq import END, PADDING, START


def translator(vocabulary=11):
    """An untrained model whose likeliest tokens depend on the source and on the position: its weights are large."""
    torch.manual_seed(0)
    model = seq2seq(vocabulary=vocabulary, context=12, depth=2, width=16, heads=2, dropout=0.0, variant="pre")
    with torch.no_grad():
        for weight in (model.position.weight, *model.encoder.parameters(), *model.decoder.parameters()):
            if weight.dim() == 2:
                weight.mul_(3)
    return model


def sources(rows=6, width=7, vocabulary=11):
    tokens = torch.randint(END + 1, vocabulary, (rows, width), generator=torch.Generator().manual_seed(2))
    for row, length in enumerate(range(width - 1, 1, -1)):
        tokens[row % rows, length], tokens[row % rows, length + 1 :] = END, PADDING
    return tokens


def log_probability(model, source, tokens):
    """The log-probability of every row, of its tokens up to END, in one full pass."""
    before = torch.cat((torch.full_like(tokens[:, :1], START), tokens[:, :-1]), 1)
    with torch.no_grad():
        each = model.eval()(source, before).log_softmax(-1).gather(2, tokens[..., None])[..., 0]
    return (each * (tokens != PADDING)).sum(1)


def scores(model, source, tokens, length_penalty):
    length = (tokens != PADDING).sum(1)
    return log_probability(model, source, tokens) / ((5 + length) / 6) ** length_penalty


def test_greedy_is_the_likeliest_token_of_full_passes():
    model, source = translator(), sources()
    found, rows = translate(model, source), []
    for one in source:
        written = [START]
        while written[-1] != END:
            with torch.no_grad():
                logits = model.eval()(one[None], torch.tensor([written]))[0, -1]
            logits[[PADDING, START]] = -torch.inf
            written.append(END if len(written) == 12 else logits.argmax().item())
        rows.append(written[1:])
    assert [row[row != PADDING].tolist() for row in found] == rows
    assert len({len(row) for row in rows}) > 2 and len({tuple(row) for row in rows}) == len(rows)


@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 2.0])
def test_a_beam_as_wide_as_everything_finds_the_best_of_all_sequences(length_penalty):
    model, source = translator(vocabulary=6), sources(vocabulary=6)
    everything = [
        (*beginning, END, *[PADDING] * (2 - length))
        for length in range(3)
        for beginning in product(range(END + 1, 6), repeat=length)
    ]
    everything = torch.tensor(everything)
    found = translate(model, source, beam=len(everything), longest=3, length_penalty=length_penalty)
    best = [everything[scores(model, one.expand(len(everything), -1), everything, length_penalty).argmax()] for one in source]
    best = torch.stack(best)
    assert torch.equal(found, best[:, : found.shape[1]]) and not best[:, found.shape[1] :].any()
    greedy = translate(model, source, longest=3)
    assert not torch.equal(greedy, found), "an example on which greedy search is as good proves nothing"


def by_hand(model, source, beam, longest, length_penalty):
    """The beginnings that beam search keeps, as a list that is sorted anew after every token, each from a full pass."""
    kept = [((), 0.0)]
    for n in range(1, longest + 1):
        candidates = [one for one in kept if one[0][-1:] == (END,)]
        for tokens, score in kept:
            if tokens[-1:] != (END,):
                with torch.no_grad():
                    step = model.eval()(source[None], torch.tensor([[START, *tokens]]))[0, -1].log_softmax(-1).tolist()
                following = range(END, len(step)) if n < longest else [END]
                candidates += [((*tokens, token), score + step[token]) for token in following]
        kept = sorted(candidates, key=lambda one: one[1] / ((5 + len(one[0])) / 6) ** length_penalty)[-beam:]
    return list(kept[-1][0])


@pytest.mark.parametrize(("beam", "length_penalty"), [(2, 0.0), (2, 0.6), (3, 2.0), (5, 0.6), (5, 4.0)])
def test_beam_search_is_that_by_hand(beam, length_penalty):
    model, source = translator(), sources()
    found = translate(model, source, beam, longest=8, length_penalty=length_penalty)
    expected = [by_hand(model, one, beam, 8, length_penalty) for one in source]
    assert [row[row != PADDING].tolist() for row in found] == expected


class Chain(torch.nn.Module):
    """A translator whose next token depends on the last one only, by the given probabilities."""

    context = 12

    def __init__(self, probabilities):
        super().__init__()
        self.logits = torch.tensor(probabilities).clamp_min(1e-9).log()

    def encode(self, source):
        return source, source

    def decode(self, before, memory, mask, cache):
        return self.logits[before]


def test_a_translation_that_has_ended_takes_one_place_only():
    chain = Chain(
        [
            [0.0, 0.0, 0.0, 1.0, 0.0],
            [0.0, 0.0, 0.5, 0.4, 0.1],  # START: END with log-probability -0.69, 3 with -0.92
            [0.0, 0.0, 0.0, 1.0, 0.0],  # END, after which a second "END 3" would cost nothing
            [0.0, 0.0, 0.1, 0.0, 0.9],
            [0.0, 0.0, 0.9, 0.0, 0.1],
        ]
    )
    source = torch.tensor([[3, END]])
    # -0.69 for END, -1.13 / (8 / 6)^2 = -0.63 for 3 4 END
    assert translate(chain, source, beam=2, length_penalty=2.0).tolist() == [[3, 4, END]]
    assert translate(chain, source, beam=1, length_penalty=2.0).tolist() == [[END]]
    # equal where (8 / 6)^alpha = log(0.324) / log(0.5), at alpha = 1.69
    for alpha, best in ((1.68, [END, PADDING, PADDING]), (1.70, [3, 4, END])):
        assert translate(chain, source, beam=2, length_penalty=alpha).tolist() == [best]


def test_a_long_translation_costs_less_with_a_higher_penalty():
    model, source = translator(vocabulary=6), sources(vocabulary=6)
    lengths = [(translate(model, source, beam=6, length_penalty=alpha) != PADDING).sum().item() for alpha in (0.0, 1.0, 4.0)]
    assert lengths == sorted(lengths) and lengths[0] < lengths[2]


def test_a_wider_beam_finds_what_scores_higher():
    model, source = translator(), sources()
    greedy, found = translate(model, source), translate(model, source, beam=5)
    better = scores(model, source, found, 0.6) - scores(model, source, greedy, 0.6)
    assert (better > -1e-5).all() and (better > 1e-3).any()


@pytest.mark.parametrize("beam", [1, 4])
def test_rows_do_not_influence_each_other(beam):
    model, source = translator(), sources()
    found = translate(model, source, beam)
    for i, row in enumerate(source):
        alone = translate(model, row[row != PADDING][None], beam)[0]
        assert torch.equal(found[i, : len(alone)], alone) and not found[i, len(alone) :].any()


@pytest.mark.parametrize("beam", [1, 4])
def test_rows_end_once_and_are_filled(beam):
    found = translate(translator(), sources(), beam, longest=5)
    assert found.shape[1] <= 5
    for row in found.tolist():
        end = row.index(END)
        assert not set(row[:end]) & {PADDING, START} and not any(row[end + 1 :])


def test_a_translation_is_at_most_50_tokens_longer_than_its_source():
    torch.manual_seed(0)
    model = seq2seq(vocabulary=5, context=80, depth=1, width=16, heads=2)
    with torch.no_grad():  # a decoder whose every logit is 1 for token 4 and 0 for END: it never ends by itself
        last = list(model.decoder.blocks[0].children())[-1]
        model.token.weight.zero_()[4], last.weight[:], last.bias[:] = 1.0, 0.0, 1 / 16
    found = translate(model, torch.tensor([[3, 3, 4, END], [3, END, PADDING, PADDING]]))
    assert (found != PADDING).sum(1).tolist() == [54, 52]


LLAMA = dict(positions="rotary", theta=500, key_value_heads=2, head_width=6, norm="rms", activation="swiglu", bias=False, tie=True)


@pytest.mark.parametrize("options", [dict(), dict(positions="rotary"), LLAMA])
@pytest.mark.parametrize("variant", ["pre", "olmo2", "denseformer", "value_residual"])
def test_a_language_model_with_a_cache_gives_the_logits_of_the_full_pass(options, variant):
    torch.manual_seed(0)
    model = transformer_lm(vocabulary=11, context=9, depth=2, width=16, variant=variant, **options).eval()
    tokens, cache = torch.randint(11, (3, 9)), Cache()
    steps = [model(part, cache) for part in tokens.split([3, 1, 1, 4], 1)]
    torch.testing.assert_close(torch.cat(steps, 1), model(tokens), rtol=1e-5, atol=1e-5)


def test_rotary_positions_take_the_place_of_the_embedding():
    plain, rotary = (transformer_lm(vocabulary=11, width=16, **one) for one in ({}, dict(positions="rotary")))
    assert set(plain.state_dict()) - set(rotary.state_dict()) == {"position.weight"}
    tokens = torch.tensor([[1, 2, 3, 4], [2, 1, 3, 4]])
    logits = rotary.eval()(tokens)[:, -1]
    assert not torch.allclose(*logits, atol=1e-4), "the order of the tokens is lost"
    assert rotary.token.weight.std().item() == pytest.approx(1, rel=0.2)
    with pytest.raises(ValueError, match="got 129 tokens, but the model's context is 128"):
        rotary(torch.zeros(1, 129, dtype=torch.long))


@pytest.mark.parametrize("options", [dict(), LLAMA])
def test_the_likeliest_text_is_that_of_full_passes(options):
    torch.manual_seed(0)
    model = transformer_lm(vocabulary=11, context=9, depth=2, width=16, **options)
    tokens = torch.randint(11, (3, 4))
    written = generate(model, tokens, 6, temperature=0)
    for end in range(4, 10):
        with torch.no_grad():
            assert torch.equal(model.eval()(written[:, :end])[:, -1].argmax(-1), written[:, end])
    assert torch.equal(written[:, :4], tokens)
    with pytest.raises(ValueError, match="got 12 tokens, but the model's context is 9"):
        generate(model, tokens, 9)


def test_drawn_text_has_the_model_s_probabilities_at_its_temperature():
    torch.manual_seed(0)
    model = transformer_lm(vocabulary=5, context=9, depth=1, width=16, dropout=0.5).train()
    tokens = torch.tensor([[1, 2]]).repeat(4000, 1)
    drawn = generate(model, tokens, 1, temperature=0.5)[:, -1]
    assert model.training
    with torch.no_grad():
        expected = (model.eval()(tokens[:1])[0, -1] / 0.5).softmax(-1)
    assert (drawn.bincount(minlength=5) / 4000 - expected).abs().max() < 0.03
    assert torch.equal(generate(model, tokens, 3), generate(model, tokens, 3))
    assert not torch.equal(generate(model, tokens, 3), generate(model, tokens, 3, seed=1))


def test_decoding_leaves_dropout_as_it_was():
    model = seq2seq(vocabulary=11, context=12, depth=1, width=16, heads=2, dropout=0.5)
    assert torch.equal(translate(model, sources()), translate(model, sources())) and model.training


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: translate(translator(), sources(), beam=0), "beam=0; it is the number of beginnings"),
        (lambda: translate(translator(), sources(), longest=0), "longest=0"),
        (lambda: translate(translator(), sources(), longest=13), "got 13 tokens, but the model's context is 12"),
        (lambda: generate(transformer_lm(vocabulary=5), torch.ones(1, 1).long(), 0), "count=0"),
        (lambda: generate(transformer_lm(vocabulary=5), torch.ones(1, 1).long(), 1, -1.0), "temperature=-1.0; allowed: 0"),
        (lambda: transformer_lm(vocabulary=5, positions="none"), "positions='none'; allowed: 'learned', 'rotary'"),
        (lambda: transformer_lm(vocabulary=5, width=12, positions="rotary"), "a head has 3; use a width that 8 divides"),
    ],
)
def test_what_cannot_be_decoded_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
