"""A VLM's answers: cleaned, and judged whether they can steer anything."""

import unicodedata

import regex

# Three letters or more, with their marks. Where one letter is a word already, one is enough: ideographs,
# the syllables of Korean, and kana.
_WORD = regex.compile(r"(?:\p{L}\p{M}*+){3}|[\p{Han}\p{Hangul}\p{Hiragana}\p{Katakana}]")
# What bytes that are no text are decoded to, and the space of no width.
_SPACES = "\ufffd\u200b"


def cleaned(answer: str) -> str:
    """Return an answer as one line of text.

    Control and replacement characters become spaces; format characters (of no width: joiners, marks of
    direction) and halves of surrogate pairs vanish; then every run of spaces and line ends becomes one space.

    >>> cleaned(" a cat,\\n\\x1e grey\\ufffdfur\\t")
    'a cat, grey fur'
    """
    return " ".join("".join(map(_kept, answer)).split())


def _kept(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Cc" or character in _SPACES:
        return " "
    return "" if category in ("Cf", "Cs") else character


def fault_of(answer: str) -> str:
    """Say why an answer cannot be a prompt; empty where it can.

    An answer is no prompt where it holds no word, or where it ran away: its last three quarters or more
    are one piece said over and over, three times or more. A word has three letters of any script, or one
    where that is a word: Chinese, Japanese and Korean.

    Args:
        answer: as it came.

    >>> fault_of("fur, whiskers, grey cat, grey fur")
    ''
    >>> fault_of("fur, fur, fur, fur, fur, fur, fur,")
    'only repetition'
    """
    text = cleaned(answer)
    if not any(character.isalnum() for character in text):
        return "empty"
    if not _WORD.search(text):
        return "without a word"
    return "only repetition" if _runs_away(" ".join(answer.split())) else ""


def _runs_away(text: str) -> bool:
    for period in range(1, len(text) // 3 + 1):
        repeated = period
        while repeated < len(text) and text[-1 - repeated] == text[period - 1 - repeated]:
            repeated += 1
        if repeated >= max(0.75 * len(text), 3 * period):
            return True
    return False
