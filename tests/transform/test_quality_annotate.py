from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from codeflow.core.errors import UserError
from codeflow.core.manifest import begin
from codeflow.core.records import read_shards, write_records
from codeflow.core.storage import sha256_text
from codeflow.core.types import Document, Origin
from codeflow.endpoint.chat import EndpointConfig
from codeflow.transform.operator import with_tags
from codeflow.transform.quality_annotate import AnnotateConfig, Disagreement, Grade, domain_for, kappa, request_for, run
from codeflow.transform.quality_labels import LabelledDocument
from codeflow.transform.toxicity_examples import TOXICITY_EXAMPLES
from tests.endpoint.fake_server import fake_server


def document(text: str, language: str = "Python", source: str = "git") -> Document:
    origin = Origin(source, "repository", "r", "a.py", "MIT", "")
    return Document(sha256_text(text), text, language, origin)


def shown(body) -> str:
    """Return the text that a request shows: what stands between its two markers."""
    return re.split(r"=====[0-9a-f]{16}=====", body["messages"][0]["content"])[1].strip()


def grades(body, before) -> tuple[int, str]:
    """Grade by the text's hash; the second pass is one off for some texts and far off for others."""
    text = shown(body)
    value = int(hashlib.sha256(text.encode()).hexdigest(), 16) % 6
    if "never graded" in text:
        return 200, "no"
    second = body["seed"] == 1
    education = value
    if second and "# near" in text:
        education = value + 1 if value < 5 else value - 1
    if second and "# far" in text:
        education = (value + 3) % 6
    toxicity = dict(TOXICITY_EXAMPLES).get(text, 0)
    return 200, json.dumps({"information_density": value, "educational_value": education, "toxicity": toxicity})


DOCUMENTS = [document(f"x = {n}  # {kind}") for n in range(12) for kind in ("same", "near", "far")]


def grade_all(folder: Path, documents: list[Document], reply=grades, **fields):
    """Return the manifest of grading `documents` and the number of requests that were sent."""
    write_records(folder / "in" / "documents-00000.parquet", documents, Document)
    with fake_server(reply) as server:
        endpoint = EndpointConfig(url=server.url, model="m", retries=1, first_pause_seconds=0, prompt_price=1.0)
        config = AnnotateConfig(endpoint=endpoint, cache=str(folder / "answers"), **fields)
        shutil.rmtree(folder / "out", ignore_errors=True)
        begin(folder / "out", "labels", config, {}, "key")
        manifest = run(config, {"documents": folder / "in"}, folder / "out")
        return manifest, server.bodies


def test_two_passes_give_labels_disagreements_and_kappa(tmp_path: Path) -> None:
    others = [document("never graded"), document("1,2", "CSV")]
    manifest, sent = grade_all(tmp_path, [*DOCUMENTS, *others])
    assert len(sent) == len(TOXICITY_EXAMPLES) + 2 * 36 + 2 * 2  # the ungraded document twice in each pass
    assert manifest.counts.read == 38
    assert manifest.counts.dropped == {"data_language": 1, "no_grade": 1, "disagreement": 12}
    labels = list(read_shards(tmp_path / "out", "labels", LabelledDocument))
    disputed = list(read_shards(tmp_path / "out", "disagreements", Disagreement))
    assert sorted(one.document.text for one in disputed) == sorted(d.text for d in DOCUMENTS if "far" in d.text)
    for one in disputed:  # a reviewer finds the text and both passes in one place
        assert one.grade.document_id == one.document.id
        assert abs(one.grade.first["educational_value"] - one.grade.second["educational_value"]) > 1
    assert len(labels) == 24
    assert {(item.source, item.domain) for item in labels} == {("teacher m", "code")}
    by_id = {grade.document_id: grade for grade in read_shards(tmp_path / "out", "grades", Grade)}
    for item in labels:
        grade = by_id[item.document.id]
        mean = (grade.first["educational_value"] + grade.second["educational_value"]) / 2
        assert item.targets["educational_value"] == mean / 5
    found = manifest.metrics["kappa"]["code"]
    assert found["information_density"] == 1.0
    assert -0.5 < found["educational_value"] < 0.9
    assert found["toxicity"] is None  # one grade only: agreement has no value
    assert manifest.metrics["kappa"]["general"]["toxicity"] is None
    assert manifest.metrics["prompt_tokens"] == 100 * 2 * 36
    assert manifest.metrics["price"] == pytest.approx(100 * 2 * 36 / 1e6)


def test_answers_are_paid_for_once_and_the_result_is_the_same(tmp_path: Path) -> None:
    first, _ = grade_all(tmp_path, DOCUMENTS)
    answers = {path.name: path.read_text() for path in (tmp_path / "answers").iterdir()}
    with fake_server(grades) as server:  # the cache's key holds the url, so the same server must answer
        endpoint = EndpointConfig(url=server.url, model="m", first_pause_seconds=0)
        for _ in range(2):
            shutil.rmtree(tmp_path / "again", ignore_errors=True)
            begin(tmp_path / "again", "labels", AnnotateConfig(endpoint=endpoint), {}, "key")
            again = run(AnnotateConfig(endpoint=endpoint), {"documents": tmp_path / "in"}, tmp_path / "again")
        assert len(server.bodies) == len(answers)
    assert again.files["grades-00000.parquet"] == first.files["grades-00000.parquet"]
    assert (tmp_path / "again.answers").is_dir()


def test_a_teacher_that_takes_technical_words_for_violence_is_seen(tmp_path: Path) -> None:
    def squeamish(body, before):
        alarmed = any(word in shown(body).lower() for word in ("kill", "abort", "slave", "attack", "dead", "war"))
        return 200, json.dumps({"information_density": 1, "educational_value": 1, "toxicity": 3 if alarmed else 0})

    known, _ = grade_all(tmp_path, DOCUMENTS[:1])
    assert known.metrics["toxicity_of_known_examples"] == {"exact": 1.0, "kappa": 1.0}
    squeam, _ = grade_all(tmp_path, DOCUMENTS[:1], squeamish)
    assert squeam.metrics["toxicity_of_known_examples"]["kappa"] < 0.1
    assert {grade for _, grade in TOXICITY_EXAMPLES} == {0, 1, 2, 3}


def test_a_sample_of_each_domain_is_drawn_by_hash_whatever_the_order(tmp_path: Path) -> None:
    prose = [document(f"Sentence {n}.", "Markdown") for n in range(10)]
    samples = []
    for name, documents in (("a", [*DOCUMENTS, *prose]), ("b", [*prose, *DOCUMENTS][::-1])):
        manifest, _ = grade_all(tmp_path / name, documents, documents_per_domain=4, check_teacher=False)
        assert manifest.counts.dropped["not_sampled"] == 46 - 8
        samples.append({grade.document_id for grade in read_shards(tmp_path / name / "out", "grades", Grade)})
    assert samples[0] == samples[1]
    assert len(samples[0]) == 8


def test_work_above_the_allowed_cost_does_not_begin(tmp_path: Path) -> None:
    write_records(tmp_path / "in" / "documents-00000.parquet", DOCUMENTS, Document)
    endpoint = EndpointConfig(url="http://127.0.0.1:9", model="teacher", answer_price=1000.0)
    with pytest.raises(UserError, match="above max_cost="):
        run(AnnotateConfig(endpoint=endpoint, max_cost=0.5), {"documents": tmp_path / "in"}, tmp_path / "out")


def test_each_domain_has_its_rubric_and_formulas_make_mathematics() -> None:
    assert domain_for(document("x")) == "code"
    assert domain_for(document("x", "Markdown")) == "general"
    assert domain_for(with_tags(document("x", "Markdown"), {"n_formulas": 3.0})) == "mathematics"
    assert domain_for(document("x", "JSON")) is None
    texts = {d: request_for("x", "Text", d, 0).messages[0][1] for d in ("code", "general", "mathematics")}
    assert len(set(texts.values())) == 3
    assert "formulas" in texts["mathematics"]


def test_the_second_pass_shows_the_text_first() -> None:
    first, second = (request_for("the text", "Text", "code", n).messages[0][1] for n in (0, 1))
    assert sorted(first) == sorted(second)
    assert first.index("Give three") < first.index("the text\n")
    assert second.index("the text\n") < second.index("Give three")


def test_kappa_by_hand() -> None:
    assert kappa(np.array([0, 1, 2]), np.array([0, 1, 2]), 3) == 1.0
    assert kappa(np.array([0, 2]), np.array([2, 0]), 3) == -1.0
    assert kappa(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 0]), 2) == pytest.approx(0.0)
    assert kappa(np.array([], np.int64), np.array([], np.int64), 3) is None
