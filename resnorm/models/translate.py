"""Decoding: translations by greedy and by beam search, and text that a language model goes on with."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from resnorm.branches import Cache
from resnorm.models.seq2seq import END, PADDING, START, Seq2Seq
from resnorm.models.transformer import TransformerLM, check_context
from resnorm.streams.stream import whole


@contextmanager
def _decoding(model: nn.Module) -> Iterator[None]:
    """Without gradients and without dropout; afterwards the model trains on if it did before."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def translate(model: Seq2Seq, source: Tensor, beam: int = 1, longest: int | None = None, length_penalty: float = 0.6) -> Tensor:
    r"""Search the translation t of n tokens with the highest score; a `beam` of 1 is greedy search.

    $$s(t) = \frac{\log p(t \mid \text{source})}{\big((5 + n) / 6\big)^{\alpha}}$$

    Of every sentence the `beam` best beginnings are kept, token by token. One that has ended keeps its place and its
    score, and the search ends when all kept ones have ended. n counts END, $\alpha$ is `length_penalty`, and
    `longest` is the largest n, at which END is forced: by default 50 more than the source has tokens, and never more
    than the context. PADDING and START are never written.
    Shapes: source (batch, source tokens) of int64, output (batch, tokens): each row ends with END, then PADDING.
    Raises `ValueError` for a beam or a longest below 1, and for a longest above the context.
    Citation: wu2016google; vaswani2017attention (the default of `longest`).
    """
    rows, beam = len(source), whole("translate: beam", beam, "beginnings that are kept")
    if longest is None:
        limit = ((source != PADDING).sum(1) + 50).clamp_max(model.context)
    else:
        check_context(whole("translate: longest", longest, "tokens of a translation"), model.context)
        limit = torch.full((rows,), longest, device=source.device)
    with _decoding(model):
        return _search(model, source, beam, limit, length_penalty)


def _search(model: Seq2Seq, source: Tensor, beam: int, limit: Tensor, length_penalty: float) -> Tensor:
    rows, device, cache = len(source), source.device, Cache()
    memory, mask = (tensor.repeat_interleave(beam, 0) for tensor in model.encode(source))
    tokens = torch.full((rows * beam, 1), START, device=device)
    length = torch.zeros(rows, beam, device=device)
    ended = torch.zeros(rows, beam, dtype=torch.bool, device=device)
    # All beginnings are the same at first, and only one of them counts.
    score = torch.full((rows, beam), -torch.inf, device=device)
    score[:, 0] = 0
    for n in range(1, int(limit.max()) + 1):
        logits = model.decode(tokens[:, -1:], memory, mask, cache)[:, -1]
        step = logits.float().log_softmax(-1).view(rows, beam, -1)
        end = step[..., END].clone()
        step[..., [PADDING, START]] = -torch.inf
        step[limit == n] = -torch.inf
        step[..., END] = end
        step[ended] = -torch.inf
        step[..., PADDING].masked_fill_(ended, 0)  # an ended one goes on in this one way, at no cost
        length = length.masked_fill(~ended, n)
        total = score[..., None] + step
        best = (total / ((5 + length[..., None]) / 6) ** length_penalty).flatten(1).topk(beam).indices
        parent, token = best // step.shape[-1], best % step.shape[-1]
        score = total.flatten(1).gather(1, best)
        length, ended = length.gather(1, parent), ended.gather(1, parent) | (token == END)
        before = (parent + beam * torch.arange(rows, device=device)[:, None]).flatten()
        cache.reorder(before)
        tokens = torch.cat((tokens[before], token.view(-1, 1)), 1)
        if ended.all():
            break
    return tokens.view(rows, beam, -1)[:, 0, 1:]  # the best comes first


def generate(model: TransformerLM, tokens: Tensor, count: int, temperature: float = 1.0, seed: int = 0) -> Tensor:
    r"""Go on with a text for `count` tokens, each drawn from $\operatorname{softmax}(z / T)$ of the logits z.

    `temperature` is T; at 0 the likeliest token is taken. The draws depend on `seed` alone.
    Shapes: tokens (batch, tokens) of int64, output (batch, tokens + count), the given ones first.
    Raises `ValueError` for a count below 1, a negative temperature, and for more tokens than the model's context.
    """
    if temperature < 0:
        raise ValueError(f"generate: temperature={temperature}; allowed: 0 (the likeliest token) and above")
    # The last token is written and not read.
    check_context(tokens.shape[1] + whole("generate: count", count, "tokens to write") - 1, model.context)
    cache, generator = Cache(), torch.Generator(tokens.device).manual_seed(seed)
    with _decoding(model):
        following = tokens
        for _ in range(count):
            logits = model(following, cache)[:, -1].float()
            if temperature:
                following = (logits / temperature).softmax(-1).multinomial(1, generator=generator)
            else:
                following = logits.argmax(-1, keepdim=True)
            tokens = torch.cat((tokens, following), 1)
    return tokens
