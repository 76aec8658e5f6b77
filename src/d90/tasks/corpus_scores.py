"""BLEU and chrF of answers, by sacrebleu: an example's counts, which add up to the score of any set of examples; and ROUGE of each.

bleu                    sacrebleu's BLEU (13a tokens, exponential smoothing) / 100
chrf                    sacrebleu's chrF2 / 100
rouge1, rouge2, rougeL  rouge-score's F1, without stemming, against the reference that fits best
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from d90.errors import InputError

__all__ = ["CORPUS_METRICS", "ROUGES", "corpus_counts", "corpus_score", "rouge"]

CORPUS_METRICS = ("bleu", "chrf")
ROUGES = ("rouge1", "rouge2", "rougeL")


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
