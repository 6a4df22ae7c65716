"""CrossCodeEval (Ding et al. 2023, github.com/amazon-science/cceval, Apache-2.0): complete a line, other files given.

Reads the unpacked `crosscodeeval_data`: for each language one JSON-lines file, with retrieved context where its name
says so. Retrieved fragments go before the prompt as comments, as officially. Judged by `line_completion.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from codeflow.core.errors import UserError
from codeflow.eval.benchmark import Attempt, Benchmark, BenchmarkFile, Judgement, Problem, Sampling, read_rows
from codeflow.eval.line_completion import LANGUAGES, compare_line
from codeflow.eval.task_metrics import mean
from codeflow.tokens.chat import Message

FILE = BenchmarkFile("crosscodeeval", "crosscodeeval", "github.com/amazon-science/cceval, data/*.tar.xz", "Apache-2.0")
CONTEXTS = ("line_completion_rg1_bm25", "line_completion_oracle_bm25", "line_completion")  # the first that is there
_CONTEXT_CHARACTERS = 2000  # about the official 512 tokens
_FIELDS = {"prompt": str, "groundtruth": str, "metadata": dict}
_ASK = "Continue this {language} code. Answer with the rest of the line it ends in and nothing else.\n\n```\n{code}```"


def _context(row: dict[str, Any], language: str) -> str:
    sign = "#" if language == "python" else "//"
    head = f"{sign} Here are some relevant code fragments from other files of the repo:\n\n"
    text = ""
    for chunk in (row.get("crossfile_context") or {}).get("list", ()):
        lines = "".join(f"{sign} {line}\n" for line in chunk["retrieved_chunk"].split("\n") if line)
        part = f"{sign} the below code fragment is found in {chunk['filename']}\n{lines}\n"
        if len(head) + len(text) + len(part) > _CONTEXT_CHARACTERS:
            break
        text += part
    return head + text if text else ""


def _problems(paths: Sequence[Path]) -> list[Problem]:
    found: list[Problem] = []
    for language in LANGUAGES:
        files = [path for name in CONTEXTS if (path := paths[0] / language / f"{name}.jsonl").is_file()]
        if not files:
            continue
        for row in read_rows(files[0], _FIELDS, "CrossCodeEval"):
            code = _context(row, language) + row["prompt"]
            found.append(
                Problem(
                    f"{language}/{row['metadata']['task_id']}",
                    (Message("user", _ASK.format(language=language, code=code)),),
                    code,
                    row["groundtruth"],
                    {"language": language, "prompt": row["prompt"], "truth": row["groundtruth"]},
                    (language,),
                )
            )
    if not found:
        raise UserError(f"{paths[0]} holds no LANGUAGE/{CONTEXTS[-1]}.jsonl; unpack {FILE.source} there")
    return found


def _judge(attempts: Sequence[Attempt], _: int) -> list[Judgement]:
    found: list[Judgement] = []
    for attempt in attempts:
        data = attempt.problem.data
        match = compare_line(data["language"], data["prompt"], attempt.output, data["truth"])
        values = {
            "exact_match": float(match.exact),
            "edit_similarity": match.edit_similarity,
            "identifiers_exact": float(match.identifiers_exact),
            "identifiers_f1": match.identifiers_f1,
        }
        found.append(Judgement.of(match.exact, "differs", **values))
    return found


BENCHMARK = Benchmark(
    name="crosscodeeval",
    files=(FILE,),
    scorer="crosscodeeval-official-1",
    sampling=Sampling(temperature=0.0, max_new_tokens=50),
    metrics=tuple(mean(key) for key in ("exact_match", "edit_similarity", "identifiers_exact", "identifiers_f1")),
    load=_problems,
    judge=_judge,
    style="text",
    transfer_from="python",
)
