"""BLEU and chrF of answers, by sacrebleu: an example's counts, which add up to the score of any set of examples; and ROUGE of each.

An answer is held against the references of all examples that ask the same. In BLEU and chrF what is asked counts once, as published
scores have it, however many references it has.

bleu                    sacrebleu's BLEU (13a tokens, exponential smoothing) / 100
chrf                    sacrebleu's chrF2 / 100
rouge1, rouge2, rougeL  rouge-score's F1, without stemming, against the reference that fits best
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from torch import Tensor

from d90.errors import InputError
from d90.search.rules import Scale, set_scale

__all__ = ["CORPUS_METRICS", "ROUGES", "corpus_score", "grade_written", "rouge"]

CORPUS_METRICS = ("bleu", "chrf")
ROUGES = ("rouge1", "rouge2", "rougeL")

for _metric in (*CORPUS_METRICS, *ROUGES):
    set_scale(_metric, Scale(share=True, answers=True))


def grade_written(
    metric: str, sources: Sequence[Hashable], answers: Sequence[str], references: Sequence[str]
) -> list[Any]:
    """Each answer's ROUGE, or the counts that BLEU or chrF is made from: those of a source with its first example, zeros with the others.

    Args:
        metric: of `CORPUS_METRICS` or `ROUGES`.
        sources: what each example asks; an answer is held against the references of all that ask the same.
    """
    known: dict[Hashable, list[str]] = {}
    for source, reference in zip(sources, references, strict=True):
        known.setdefault(source, []).append(reference)
    if metric in ROUGES:
        return rouge(metric, answers, [known[source] for source in sources])
    first = {source: place for place, source in reversed(list(enumerate(sources)))}
    counts = corpus_counts(metric, [answers[first[source]] for source in known], list(known.values()))
    at = dict(zip(known, counts, strict=True))
    nothing = [0] * len(counts[0])
    return [at[source] if first[source] == place else nothing for place, source in enumerate(sources)]


def _scorer(metric: str) -> Any:
    try:
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError:
        raise InputError(f"metric '{metric}' needs the package sacrebleu: pip install 'd90[metrics]'") from None
    return BLEU(force=True) if metric == "bleu" else CHRF()


def corpus_counts(metric: str, answers: Sequence[str], references: Sequence[Sequence[str]]) -> list[list[int]]:
    """Each answer's counts against its references, of which there is at least one."""
    most = max(map(len, references))
    streams = [[given[k] if k < len(given) else None for given in references] for k in range(most)]
    found: list[list[int]] = _scorer(metric)._extract_corpus_statistics(list(answers), streams)
    return found


def corpus_score(metric: str, counts: Tensor) -> float:
    """The score, from 0 to 1, of the examples whose counts (n, k) these are."""
    score: float = _scorer(metric)._compute_score_from_stats(counts.sum(dim=0).tolist()).score
    return score / 100


def rouge(metric: str, answers: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Each answer's F1 of shared words, pairs of words, or the longest common subsequence."""
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise InputError(f"metric '{metric}' needs the package rouge-score: pip install 'd90[metrics]'") from None
    scorer = RougeScorer([metric])
    return [
        float(scorer.score_multi(list(right), answer)[metric].fmeasure)
        for answer, right in zip(answers, references, strict=True)
    ]
