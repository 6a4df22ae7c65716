"""Benchmark prompts and solutions kept out of the corpus: exact n-grams, MinHash-LSH, fuzzy and semantic matches.

Words are runs of letters, digits and `_` in lower case; punctuation, layout and case do not hide a copy. A document is
dropped when, for some prompt, one of these holds:

    ngram     it contains `text_ngram_words` words in a row of the prompt's text, or `solution_ngram_words` of its
              solution, and that n-gram is distinctive (see `min_word_share`, `max_prompts_per_ngram`)
    minhash   as a whole it resembles prompt plus solution: Jaccard index of word 5-grams >= `minhash_jaccard`
    fuzzy     some passage is the prompt's text or solution up to edits: 1 - word edits / words >= `fuzzy_similarity`,
              computed where `fuzzy_candidate_share` of the reference's word 5-grams occur in the document
    semantic  some passage means what the text or solution means, by embedding; off unless `semantic` is set

The defaults come from the standard library and the packages of an environment (94 MB) against HumanEval: with 8 words
ordinary phrases match ("there is no limit on the number of"), with 10 no prompt text does; in solutions 10 words
still match nested loops ("for i in range n for j in range n"), 13 match nothing but counting ("one 2 two 3 ..."), which
`min_word_share` removes.

Output: `documents-*`, `dropped-*` and `hits-00000.parquet` (`contamination.Hit`), with both texts of every hit.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from codeflow.core.config import Config
from codeflow.execute.local import THIS_MACHINE
from codeflow.execute.pool import Pool
from codeflow.transform.embedding import MINILM

if TYPE_CHECKING:
    from codeflow.core.manifest import Manifest


class SemanticConfig(Config):
    """Passages that mean what a prompt or solution means. Set it to switch this level on (`semantic={}`)."""

    encoder: str = MINILM  # module:name of an encoder; see transform/embedding.py
    threshold: float = Field(default=0.7, gt=0.0, le=1.0)  # cosine of a passage and a reference
    passage_characters: int = Field(default=800, ge=80)  # bytes of UTF-8; each passage is half over the one before
    min_words: int = Field(default=12, ge=1)  # shorter references are no evidence


class DecontaminateConfig(Config):
    """What counts as a copy of a benchmark's prompt or solution."""

    text_ngram_words: int = Field(default=10, ge=1, le=100)
    solution_ngram_words: int = Field(default=13, ge=1, le=100)
    min_word_share: float = Field(default=0.6, ge=0.0, le=1.0)  # of an n-gram's words with two letters or more
    min_distinct_share: float = Field(default=0.5, ge=0.0, le=1.0)  # of different words in an n-gram
    max_prompts_per_ngram: int = Field(default=5, ge=1)  # n-grams that more prompts share are boilerplate
    minhash_jaccard: float = Field(default=0.6, gt=0.0, le=1.0)
    fuzzy_similarity: float = Field(default=0.8, gt=0.0, le=1.0)
    fuzzy_candidate_share: float = Field(default=0.3, gt=0.0, le=1.0)
    fuzzy_min_words: int = Field(default=20, ge=5)  # shorter references are no evidence
    semantic: SemanticConfig | None = None  # None: not done


def run(config: DecontaminateConfig, inputs: Mapping[str, Path], output: Path, pool: Pool = THIS_MACHINE) -> Manifest:
    """Drop contaminated documents of `inputs["documents"]` by the prompts of `inputs["prompts"]`."""
    from codeflow.core.manifest import PROGRESS, require_kind, seal
    from codeflow.core.records import shards
    from codeflow.execute.shards import run_shards
    from codeflow.transform import contamination
    from codeflow.transform.fingerprints import is_small

    source, prompts = inputs["documents"], inputs["prompts"]
    require_kind(source, ["documents"])
    require_kind(prompts, ["prompts"])
    scratch = output / PROGRESS / "hits"
    jobs = [
        contamination.CheckJob(index, path, prompts, config, scratch, output)
        for index, path in enumerate(shards(source, "documents"))
    ]
    counts = run_shards(contamination.check_shard, jobs, output, "decontaminate", pool, is_small(source))
    n_hits = contamination.gather_hits(scratch, output / "hits-00000.parquet")
    metrics: dict[str, Any] = {"n_hits": n_hits, **contamination.describe(prompts, config)}
    if not metrics["n_prompts"]:
        metrics["remarks"] = ["no prompts were given: nothing was checked, and every document was kept"]
    return seal(output, counts, metrics)
