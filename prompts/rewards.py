"""What an answer of the prompt extractor is worth: the rewards that it is trained with.

Chain-of-Zoom (arXiv 2505.18600, section 3.3) adds three, with weights 1.0, 0.5 and 0.5: the preference of a
critic VLM, the exclusion of phrases, and a penalty for repetition. The fourth is ours: what the extractor's
own guard refuses as a prompt (`prompts.answers.fault_of`) must not pay, and n-grams of words do not see
all of it.
"""

from collections.abc import Mapping, Sequence
from itertools import islice

from prompts.answers import cleaned, fault_of

# Name of each reward, and the weight that it has in the sum: the paper's, and ours for the last.
WEIGHTS = {"critic": 1.0, "phrases": 0.5, "repetition": 0.5, "no_prompt": 1.0}
# The paper names these two ("phrases such as"); what else its list held is not known.
EXCLUDED_PHRASES = ("first image", "second image")
NGRAM = 3  # words; the paper does not say, this is the common implementation's


def critic_preference(score: float) -> float:
    """Scale a critic's score from 0..100 to 0..1.

    Source: Chain-of-Zoom (arXiv 2505.18600, section 3.3).

    Raises:
        ValueError: it is not within 0 and 100.
    """
    if not 0 <= score <= 100:
        raise ValueError(f"a score of {score} is not from 0 to 100")
    return score / 100


def phrase_exclusion(answer: str, phrases: Sequence[str] = EXCLUDED_PHRASES) -> float:
    """Return 1 where none of the phrases occurs in an answer, in any case of letters, and else 0.

    Source: Chain-of-Zoom (arXiv 2505.18600, section 3.3): a prompt says what is seen, and nothing of the
    pictures that the question was about.

    >>> phrase_exclusion("The Second\\nimage shows fur")
    0.0
    """
    text = cleaned(answer).casefold()
    return 0.0 if any(cleaned(phrase).casefold() in text for phrase in phrases) else 1.0


def repetition_penalty(answer: str, ngram: int = NGRAM) -> float:
    """Return minus the share of an answer's n-grams of words that occurred in it before: 0 down to -1.

    Source: Yeo et al. (arXiv 2502.03373), to whom Chain-of-Zoom refers: words in small letters, as they stand
    between spaces.

    >>> repetition_penalty("grey fur grey fur grey fur")
    -0.5
    """
    words = answer.lower().split()
    ngrams = list(zip(*(islice(words, start, None) for start in range(ngram)), strict=False))
    return len(set(ngrams)) / len(ngrams) - 1 if ngrams else 0.0


def no_prompt_penalty(answer: str) -> float:
    """Return -1 where the extractor would not take an answer as a prompt, and else 0.

    Source: `prompts.answers.fault_of`, for which such an answer is replaced when zooming. Without it a
    tiny model learned to say "iiii...", one word that no n-gram repeats.

    >>> no_prompt_penalty("iiiiiiiiiiiiiiii")
    -1.0
    """
    return -1.0 if fault_of(answer) else 0.0


def total(rewards: Mapping[str, float | None], weights: Mapping[str, float] = WEIGHTS) -> float:
    """Return the weighted sum of an answer's rewards; those that are not known (None) count nothing.

    Args:
        rewards: by the names of `WEIGHTS`.
        weights: by the same names.
    """
    return sum(weights[name] * reward for name, reward in rewards.items() if reward is not None)
