"""The page of an evaluation: both answers to each question side by side, in one file without any network."""

import base64
import io
from collections.abc import Iterator
from html import escape

from PIL.Image import Image

from prompts.rewards import WEIGHTS
from training.evaluate import WHO, Answer, Compared, Evaluation

LARGEST = 320  # pixels of a picture's longer side on the page
NAMES = {
    "reward": "weighted sum",
    "critic": "critic",
    "phrases": "phrase exclusion",
    "repetition": "repetition",
    "no_prompt": "no prompt",
}
STYLE = """
:root { color-scheme: light dark; --line: #8884; --quiet: #777; --good: #2a7f3f; --bad: #b3401f; }
@media (prefers-color-scheme: dark) { :root { --quiet: #aaa; --good: #6fce87; --bad: #ff9b7a; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem } p { margin: .3rem 0 }
.about, .label, .rewards { color: var(--quiet) }
table { border-collapse: collapse; margin: 1.2rem 0 }
th, td { padding: .3rem .9rem; border-bottom: 1px solid var(--line); text-align: right }
th:first-child { text-align: left; font-weight: normal }
article { display: grid; grid-template-columns: auto auto 1fr 1fr; gap: .3rem 1.2rem; align-items: start;
  padding: 1.2rem 0; border-top: 1px solid var(--line) }
article .label { grid-column: 1 / -1 }
figure { margin: 0 } img { display: block; width: 11rem; height: auto; border-radius: 4px }
figcaption { color: var(--quiet); font-size: .8rem }
h2 { font-size: .9rem; margin: 0 } .said { margin: .2rem 0; overflow-wrap: anywhere; white-space: pre-wrap }
.rewards { font-size: .8rem } .better { color: var(--good) } .worse { color: var(--bad) }
@media (max-width: 60rem) { article { grid-template-columns: 1fr 1fr } img { width: 100% } }
"""


def page(evaluation: Evaluation, title: str, about: list[str]) -> str:
    """Return the page.

    Args:
        evaluation: with at least one question.
        title: of the page.
        about: lines that say who answered and who judged.
    """
    return "".join(_pieces(evaluation, title, about))


def _pieces(evaluation: Evaluation, title: str, about: list[str]) -> Iterator[str]:
    yield (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n"
    )
    for line in about:
        yield f'<p class="about">{escape(line)}</p>\n'
    yield from _table(evaluation)
    for compared in evaluation.compared:
        yield from _article(compared)
    yield "</body>\n</html>\n"


def _table(evaluation: Evaluation) -> Iterator[str]:
    count = len(evaluation.compared)
    yield f'<table>\n<tr><th scope="col">mean of {count} answers</th>'
    yield "".join(f'<th scope="col">{who}</th>' for who in WHO) + '<th scope="col">change</th></tr>\n'
    for name in ("reward", *WEIGHTS):
        base, tuned = (evaluation.means[who][name] for who in WHO)
        of = (
            ""
            if evaluation.scored == count or name not in ("reward", "critic")
            else f" (of {evaluation.scored})"
        )
        yield f'<tr><th scope="row">{NAMES[name]}{of}</th><td>{_figure(base)}</td><td>{_figure(tuned)}</td>'
        yield f"<td>{_change(base, tuned)}</td></tr>\n"
    yield "</table>\n"


def _article(compared: Compared) -> Iterator[str]:
    yield f'<article>\n<p class="label">{escape(compared.pair.label)}</p>\n'
    yield _figure_of(compared.pair.parent, "first image: the state")
    yield _figure_of(compared.pair.sr_input, "second image: its crop, enlarged")
    base, tuned = (compared.answers[who] for who in WHO)
    yield _answer(WHO[0], base, "") + _answer(WHO[1], tuned, _verdict(base, tuned))
    yield "</article>\n"


def _verdict(base: Answer, tuned: Answer) -> str:
    before, after = base.rewards["reward"], tuned.rewards["reward"]
    if before is None or after is None or before == after:
        return ""
    return "better" if after > before else "worse"


def _answer(who: str, answer: Answer, verdict: str) -> str:
    rewards = " · ".join(f"{NAMES[name]} {_figure(answer.rewards[name])}" for name in ("reward", *WEIGHTS))
    word = f' <span class="{verdict}">{verdict}</span>' if verdict else ""
    return (
        f'<section><h2>{who}{word}</h2><p class="said">{escape(answer.text) or "(nothing)"}</p>'
        f'<p class="rewards">{rewards}</p></section>\n'
    )


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _change(base: float | None, tuned: float | None) -> str:
    if base is None or tuned is None:
        return "–"
    change = tuned - base
    kind = "better" if change > 0 else "worse" if change < 0 else ""
    return f'<span class="{kind}">{change:+.2f}</span>'


def _figure_of(picture: Image, caption: str) -> str:
    small = picture.copy()
    small.thumbnail((LARGEST, LARGEST))
    encoded = io.BytesIO()
    small.save(encoded, "WEBP", quality=85)
    data = base64.b64encode(encoded.getvalue()).decode()
    return (
        f'<figure><img src="data:image/webp;base64,{data}" width="{small.width}" height="{small.height}" '
        f'alt="{caption}"><figcaption>{caption}</figcaption></figure>\n'
    )
