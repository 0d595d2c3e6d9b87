"""Perplexity on held-out text, and completions of held-out prompts compared with their references."""

import math

from experiments.decoding import first_texts
from experiments.run import Run
from experiments.sft.setup import SFTSetup
from experiments.sft.step import batch_of
from lqlm.algorithms.step import TrainState
from lqlm.rewards.overlap import corpus_bleu, corpus_rouge, rouge_l
from lqlm.tasks.batches import eval_batches


def evaluate(run: Run[SFTSetup], state: TrainState, step: int) -> dict[str, float]:
    """``eval/loss``, ``eval/perplexity`` and ``eval/mean_token_accuracy``; `overlap` where prompts are asked."""
    found = likelihood(run, state)
    if run.setup.prompts:
        texts = completions(run, state)
        found |= overlap(texts, [prompt.reference for prompt in run.setup.prompts])
        write_samples(run, texts, step)
    return {f"eval/{name}": value for name, value in found.items()}


def likelihood(run: Run[SFTSetup], state: TrainState) -> dict[str, float]:
    """Means over all held-out targets, whatever their batches: the perplexity is that of the text as a whole."""
    setup, totals = run.setup, {"nll": 0.0, "mean_token_accuracy": 0.0, "targets": 0.0}
    for rows in eval_batches(setup.data.heldout, setup.settings.run.eval_batch):
        sums = setup.functions.sums(setup.model.base, state.adapters, batch_of(rows, setup.mesh))
        totals = {name: total + float(sums[name]) for name, total in totals.items()}
    loss = totals["nll"] / totals["targets"]
    accuracy = totals["mean_token_accuracy"] / totals["targets"]
    return {"loss": loss, "perplexity": perplexity(loss), "mean_token_accuracy": accuracy}


def perplexity(loss: float) -> float:
    """``exp(loss)``, infinite where that has no float.

    >>> perplexity(0.0), perplexity(1e4)
    (1.0, inf)
    """
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def completions(run: Run[SFTSetup], state: TrainState) -> list[str]:
    """Greedy completions of the held-out prompts."""
    setup = run.setup
    rows = [prompt.tokens for prompt in setup.prompts]
    sizes = {"size": min(setup.settings.run.eval_batch, len(rows)), "length": setup.prompt_length}
    policy = setup.functions.policy(setup.model.base, state.adapters)
    return list(first_texts(setup.functions.greedy, policy, rows, setup.model.tokenizer, **sizes))


def overlap(texts: list[str], references: list[str]) -> dict[str, float]:
    """Share of completions that are the reference, corpus BLEU (0 to 100), and mean ROUGE F1 (0 to 1)."""
    same = [text.strip() == reference.strip() for text, reference in zip(texts, references)]
    scores = {"bleu": corpus_bleu(texts, references), **corpus_rouge(texts, references)}
    return {"exact_match": sum(same) / len(same), **scores}


def write_samples(run: Run[SFTSetup], texts: list[str], step: int) -> None:
    """Some of the completions, for a person to read."""
    rows = [
        {
            "prompt": prompt.text,
            "completion": text,
            "answer": prompt.reference,
            "rewards": {"rouge_l": rouge_l(text, prompt.reference)},
        }
        for prompt, text in zip(run.setup.prompts, texts)
    ]
    run.writer.samples(step, rows[: run.setup.settings.run.samples])
    run.shown = rows[0]
