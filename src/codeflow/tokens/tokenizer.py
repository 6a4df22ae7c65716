"""Byte-level BPE: trained with Hugging Face tokenizers, encoded with tiktoken on the same merges (same ids, faster).

The artifact holds `tokenizer.json` and `tokenizer_config.json` as transformers reads them; the ids are those of
`special.SPECIAL_TOKENS`, then the 256 bytes, then the merges in the order in which they were learnt.

Why tiktoken may stand in: it merges the adjacent pair whose *concatenation* has the lowest id, Hugging Face the pair
whose *merge* has the lowest rank. The two agree when every word, taken apart into bytes and put together by ids alone,
ends in the very merge that made it; `train` checks that for every word (`merge_conflicts`).
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from codeflow.core.config import Config
from codeflow.core.errors import UserError
from codeflow.core.manifest import Counts, Manifest, seal
from codeflow.core.progress import Bar, say
from codeflow.core.storage import write_text
from codeflow.tokens.chat import CHAT_TEMPLATE
from codeflow.tokens.special import BOS, END_OF_TEXT, PAD, SPECIAL_IDS, SPECIAL_TOKENS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TOKENIZER_FILE, CONFIG_FILE = "tokenizer.json", "tokenizer_config.json"

# How text is cut into words before merging; merges never cross a cut.
#   1. letters with the one character before them ("_name", ".name", "(self", " word")
#   2. single digits, so that numbers are read place by place
#   3. runs of punctuation, with the line break and indentation that follow ("):\n        ")
#   4. a line break with all blank lines and the indentation after it; then blanks inside lines
# It has no look-around: tiktoken then runs it as an automaton, and no input makes it backtrack.
WORD_PATTERN = (
    r"[^\r\n\p{L}\p{M}\p{N}]?[\p{L}\p{M}]+"
    r"|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+(?:\r?\n[ \t\r\n]*)?"
    r"|\r?\n[ \t\r\n]*"
    r"|[ \t]+"
    r"|\s"
)
_N_BYTES = 256
SMALLEST_VOCABULARY = len(SPECIAL_TOKENS) + _N_BYTES


class TokenizerConfig(Config):
    """Parameters of the stage."""

    vocab_size: int = Field(default=76_800, ge=SMALLEST_VOCABULARY)  # the released models
    sample_bytes: int = Field(
        default=16 * 2**20, gt=0
    )  # about how much text is trained on; documents are drawn by seed and id
    min_frequency: int = Field(default=2, ge=1)  # pairs that occur less often are not merged
    measure_bytes: int = Field(default=2 * 2**20, ge=0)  # of each language, at most, for the table of bytes per token
    pattern: str = WORD_PATTERN
    seed: int = 0


def run(config: TokenizerConfig, inputs: Mapping[str, Path], output: Path) -> Manifest:
    """Train on the documents of `inputs["documents"]`; held-out documents are only measured on.

    Raises UserError when there is no text. Metrics: bytes per token by language, on held-out documents where the
    language has any.
    """
    folder = inputs["documents"]
    sampled = Sampled(folder, config.sample_bytes, config.seed)
    if not sampled.total_bytes:
        raise UserError(
            f"no text in {folder}/documents-*.parquet to train a tokenizer on; check the stage that made it"
        )
    with Bar("tokenizer", None, "documents") as bar:
        texts = _counted(sampled, bar)
        if (output / TOKENIZER_FILE).exists():  # trained before a kill; only the counts are taken again
            for _ in texts:
                pass
        else:
            write_text(output / TOKENIZER_FILE, train(texts, config))
    write_text(output / CONFIG_FILE, json.dumps(transformers_config(), indent=2, sort_keys=True))
    tokenizer = Tokenizer.load(output)
    if tokenizer.vocab_size < config.vocab_size:
        say(f"  tokenizer: {tokenizer.vocab_size:,} of {config.vocab_size:,} words; the text has no more to merge")
    metrics = {
        "bytes_per_token": bytes_per_token(tokenizer, folder, config.measure_bytes),
        "vocab_size": tokenizer.vocab_size,
        "trained_bytes": sampled.taken_bytes,
        "tokenizer_fingerprint": tokenizer.fingerprint,
    }
    not_sampled = sampled.read - sampled.taken
    counts = Counts(read=sampled.read, kept=sampled.taken, dropped={"not_sampled": not_sampled} if not_sampled else {})
    return seal(output, counts, metrics)


class Sampled:
    """The texts of a documents artifact, thinned to about `sample_bytes` by a hash of (seed, id): order-free."""

    def __init__(self, folder: Path, sample_bytes: int, seed: int) -> None:
        self._folder, self._seed = folder, seed
        self.read = self.taken = self.total_bytes = self.taken_bytes = 0
        for row in _columns(folder, "documents", ["text"]):
            self.total_bytes += len(row["text"].encode())
            self.read += 1
        self._share = min(1.0, sample_bytes / max(self.total_bytes, 1))

    def __iter__(self) -> Iterator[str]:
        self.taken = self.taken_bytes = 0
        for row in _columns(self._folder, "documents", ["id", "text"]):
            if self._share == 1.0 or _fraction(f"{self._seed}:{row['id']}") < self._share:
                self.taken += 1
                self.taken_bytes += len(row["text"].encode())
                yield row["text"]


def _columns(folder: Path, name: str, columns: list[str]) -> Iterator[Any]:
    from codeflow.core.records import read_records, shards
    from codeflow.core.types import Document

    for path in shards(folder, name):
        yield from read_records(path, Document, columns)


def _fraction(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def _counted(texts: Iterable[str], bar: Bar) -> Iterator[str]:
    for text in texts:
        bar.advance()
        yield text


def train(texts: Iterable[str], config: TokenizerConfig) -> str:
    """Return the `tokenizer.json` text of a BPE trained on `texts`; equal texts in any order give equal results."""
    import tokenizers
    from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE())
    cut = pre_tokenizers.Split(tokenizers.Regex(config.pattern), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[AddedToken(name, special=True, normalized=False) for name in SPECIAL_TOKENS],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    text = tokenizer.to_str(pretty=True)
    ranks, merges = _ranks(json.loads(text))
    conflicts = merge_conflicts(ranks, merges)
    assert not conflicts, f"merges that ids alone do not reproduce: {conflicts[:5]}"
    return text


def transformers_config() -> dict[str, Any]:
    """Return `tokenizer_config.json` as transformers reads it: named tokens and the chat template."""
    named = {BOS, END_OF_TEXT, PAD}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": END_OF_TEXT,
        "pad_token": PAD,
        "additional_special_tokens": [name for name in SPECIAL_TOKENS if name not in named],
        "clean_up_tokenization_spaces": False,
        "add_bos_token": False,
        "add_eos_token": False,
        "chat_template": CHAT_TEMPLATE,
    }


def bytes_per_token(tokenizer: Tokenizer, folder: Path, measure_bytes: int) -> dict[str, dict[str, float]]:
    """Return by language, and for "all", UTF-8 bytes per token with the bytes they were measured on."""
    held_out, seen = _measured(tokenizer, folder, "heldout", measure_bytes), {}
    seen = _measured(tokenizer, folder, "documents", measure_bytes, skip=frozenset(held_out))
    table: dict[str, dict[str, float]] = {}
    for language, (n_bytes, n_tokens) in sorted({**seen, **held_out}.items()):
        row = {"bytes_per_token": round(n_bytes / max(n_tokens, 1), 4), "n_bytes": n_bytes}
        table[language] = {**row, "held_out": float(language in held_out)}
    return table


def _measured(
    tokenizer: Tokenizer, folder: Path, name: str, measure_bytes: int, skip: frozenset[str] = frozenset()
) -> dict[str, tuple[int, int]]:
    sums: dict[str, tuple[int, int]] = {}
    for row in _columns(folder, name, ["text", "language"]):
        n_bytes, n_tokens = sums.get(row["language"], (0, 0))
        if row["language"] not in skip and n_bytes < measure_bytes and row["text"]:
            ids = tokenizer.encode_array(row["text"])
            sums[row["language"]] = (n_bytes + len(row["text"].encode()), n_tokens + len(ids))
    return sums


class Tokenizer:
    """Text to ids and back. Special tokens are never read out of text: they are asked for by `special_id`."""

    def __init__(self, text: str) -> None:
        """Build from the text of a `tokenizer.json` that `train` wrote. Raises UserError when it is another kind."""
        import tiktoken

        try:
            tree = json.loads(text)
            pattern = tree["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
            ranks, _ = _ranks(tree)
            special = {item["content"]: item["id"] for item in tree["added_tokens"]}
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise UserError(
                f"tokenizer.json is not one that CodeFlow trained ({type(error).__name__}: {error}); make it again"
            ) from None
        if special != SPECIAL_IDS:
            raise UserError("tokenizer.json has other special tokens than codeflow.tokens.special; train it again")
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()
        self.vocab_size = len(ranks) + len(special)
        self._encoding = tiktoken.Encoding(
            self.fingerprint, pat_str=pattern, mergeable_ranks=ranks, special_tokens=special
        )

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Load from an artifact or a Hugging Face directory. Raises UserError when it holds no tokenizer.json."""
        path = folder / TOKENIZER_FILE
        if not path.exists():
            raise UserError(f"no {TOKENIZER_FILE} in {folder}; run the tokenizer stage first")
        return cls(path.read_text(encoding="utf-8"))

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, all of it ordinary text. Raises UserError when it holds a lone surrogate."""
        return self._encoding.encode_ordinary(_unicode(text))

    def encode_array(self, text: str) -> NDArray[np.uint32]:
        """As `encode`, as an array (n,) of uint32."""
        return self._encoding.encode_to_numpy(_unicode(text), disallowed_special=())

    def encode_batch(self, texts: Sequence[str], threads: int | None = None) -> list[list[int]]:
        """Return the ids of each text, encoded by `threads` threads (all available cores when None)."""
        checked = [_unicode(text) for text in texts]
        return self._encoding.encode_ordinary_batch(checked, num_threads=threads or len(os.sched_getaffinity(0)))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`, special tokens by name; a piece of a character becomes U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """Return the exact bytes of `ids`. Raises UserError for an id outside the vocabulary."""
        try:
            return self._encoding.decode_bytes(ids)
        except (KeyError, OverflowError):
            outside = next(i for i in ids if not 0 <= i < self.vocab_size)
            raise UserError(f"token id {outside} is outside the vocabulary of {self.vocab_size:,} words") from None

    def special_id(self, name: str) -> int:
        """Return the id of a special token. Raises UserError when there is none of that name."""
        if name not in SPECIAL_IDS:
            raise UserError(f"no special token '{name}'; there are: {' '.join(SPECIAL_TOKENS)}")
        return SPECIAL_IDS[name]

    @functools.cached_property
    def byte_lengths(self) -> NDArray[np.int64]:
        """(vocab_size,) how many bytes of text a token stands for; 0 for special tokens."""
        import numpy as np

        n_special = len(SPECIAL_TOKENS)
        sizes = [0 if i < n_special else len(self.decode_bytes([i])) for i in range(self.vocab_size)]
        return np.array(sizes, np.int64)

    @functools.cached_property
    def line_end_ids(self) -> NDArray[np.bool_]:
        """(vocab_size,) whether a token holds a line break: after it a long document may be cut."""
        import numpy as np

        words = [b"" if i < len(SPECIAL_TOKENS) else self.decode_bytes([i]) for i in range(self.vocab_size)]
        return np.array([b"\n" in word for word in words])


def _unicode(text: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"text has a lone surrogate at character {error.start}: it is not Unicode; repair or drop the document"
            ) from None
    return text


@functools.cache
def byte_letters() -> dict[str, int]:
    """Return the byte that each letter of the byte-level alphabet stands for (the table of GPT-2).

    Printable Latin-1 bytes stand for themselves; the others follow from U+0100 on in order.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(_N_BYTES) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(_N_BYTES + n): byte for n, byte in enumerate(others)}


def _ranks(tree: Mapping[str, Any]) -> tuple[dict[bytes, int], list[tuple[bytes, bytes]]]:
    """Return id by bytes of every ordinary word, and the merges in order."""
    letters = byte_letters()

    def raw(word: str) -> bytes:
        return bytes(letters[letter] for letter in word)

    special = {item["content"] for item in tree["added_tokens"]}
    ranks = {raw(word): index for word, index in tree["model"]["vocab"].items() if word not in special}
    return ranks, [(raw(left), raw(right)) for left, right in tree["model"]["merges"]]


def merge_conflicts(ranks: Mapping[bytes, int], merges: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
    """Return the words which merging by lowest id does not build from their own last merge (empty: ids suffice)."""
    conflicts = [left + right for left, right in merges if _last_merge(left + right, ranks) != [left, right]]
    words = {left + right for left, right in merges}
    order = [ranks[left + right] for left, right in merges]
    if len(words) != len(merges) or order != sorted(order):
        conflicts += sorted(word for word in words if sum(left + right == word for left, right in merges) > 1)
        assert conflicts, "merges are not in the order of their ids"
    return conflicts


def _last_merge(word: bytes, ranks: Mapping[bytes, int]) -> list[bytes]:
    """Merge the bytes of `word` by lowest id until only `word` itself could follow."""
    parts, limit = [bytes([byte]) for byte in word], ranks[word]
    while True:
        pairs = [(ranks.get(parts[i] + parts[i + 1], limit), i) for i in range(len(parts) - 1)]
        rank, i = min(pairs, default=(limit, 0))
        if rank >= limit:
            return parts
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
