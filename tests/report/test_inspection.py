"""The page of `codeflow inspect`: what it shows, what it refuses, and that nothing in it can act."""

from __future__ import annotations

import base64
import hashlib
import html
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from codeflow.core.config import Config
from codeflow.core.errors import UserError
from codeflow.core.manifest import Counts, begin, check_files, seal
from codeflow.core.records import write_records
from codeflow.core.types import Document, DroppedDocument, Origin
from codeflow.report import specimens
from codeflow.report.inspection import inspect_artifact
from codeflow.report.specimens import InspectConfig
from codeflow.transform.clusters import Cluster
from codeflow.transform.contamination import Hit

EVIL = (
    "</pre></article><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">\x1b[2J\u202e"
)


def document(number: int, text: str = "", language: str = "Python", **tags: float) -> Document:
    text = text or f"text number {number}\n" * 20
    identity = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    origin = Origin("git", "shop", "1", f"src/file_{number}.py", "MIT" if number % 2 else "", "2020-01-01T00:00:00Z")
    return Document(identity, text, language, origin, {"quality": number / 100, **tags})


def dropped(one: Document, reason: str, detail: str = "") -> DroppedDocument:
    return DroppedDocument(one, "filters", reason, detail)


def artifact(
    folder: Path,
    kept: Sequence[Document],
    away: Sequence[DroppedDocument] = (),
    clusters: Sequence[Cluster] = (),
    hits: Sequence[Hit] = (),
    per_shard: int = 1000,
) -> Path:
    begin(folder, "documents", Config(), {}, "test")
    for name, records, kind in (
        ("documents", kept, Document),
        ("dropped", away, DroppedDocument),
        ("clusters", clusters, Cluster),
        ("hits", hits, Hit),
    ):
        for index, start in enumerate(range(0, len(records) or (name == "documents"), per_shard)):
            write_records(folder / f"{name}-{index:05d}.parquet", records[start : start + per_shard], kind)
    counts = Counts(read=len(kept) + len(away), kept=len(kept))
    seal(folder, counts)
    return folder


def look(folder: Path, target: Path, **settings: int) -> str:
    return inspect_artifact(folder, target, InspectConfig(**settings)).read_text()


def cards(text: str, side: str) -> list[str]:
    return re.findall(rf'<article class="card {side}".*?</article>', text, re.S)


def test_samples_by_reason_and_language(tmp_path: Path) -> None:
    kept = [document(n, language="Python" if n < 90 else "Go") for n in range(100)]
    away = [dropped(document(n + 1000), "too_short" if n < 50 else "generated", f"saw {n}") for n in range(52)]
    text = look(artifact(tmp_path / "clean", kept, away), tmp_path / "page.html", samples=4)
    assert len(cards(text, "kept")) == 8
    assert sum('data-language="Go"' in card for card in cards(text, "kept")) == 4
    reasons = [re.findall('data-reason="([^"]*)"', card)[0] for card in cards(text, "dropped")]
    assert reasons == ["filters/generated"] * 2 + ["filters/too_short"] * 4
    assert re.search(r"filters/too_short</button></td><td class=\"n\">50<", text)
    assert text == look(tmp_path / "clean", tmp_path / "again.html", samples=4)  # the same bytes
    assert text != look(tmp_path / "clean", tmp_path / "other.html", samples=4, seed=1)


def test_sample_does_not_depend_on_the_files(tmp_path: Path) -> None:
    kept = [document(n) for n in range(300)]
    one = look(artifact(tmp_path / "a" / "x", kept), tmp_path / "a.html")
    many = look(artifact(tmp_path / "b" / "x", kept, per_shard=7), tmp_path / "b.html")
    assert cards(one, "kept") == cards(many, "kept")
    assert len(cards(one, "kept")) == 6


def test_samples_are_even(tmp_path: Path) -> None:
    """Over many seeds every row is drawn about as often."""
    counts = [0] * 40
    for seed in range(600):
        lowest = specimens.priorities(seed, 0, 40).argsort()[:10]
        for row in lowest:
            counts[row] += 1
    assert 100 < min(counts) <= max(counts) < 200  # 150 expected, 5 standard deviations are 53


def test_cut_texts_say_so(tmp_path: Path) -> None:
    text = look(artifact(tmp_path / "x", [document(1, "é" * 5000)]), tmp_path / "p.html", characters=100)
    assert "5,000 characters, the first 100 shown" in text
    assert "é" * 100 in text
    assert "é" * 101 not in text


def test_clusters_side_by_side(tmp_path: Path) -> None:
    base = "\n".join(f"line {n}" for n in range(30))
    kept = document(1, base)
    others = [document(n + 2, base.replace("line 7\n", f"changed {n}\n")) for n in range(5)]
    cluster = Cluster(
        kept.id,
        "shop/src/file_1.py",
        tuple(o.id for o in others),
        tuple(f"shop/{o.origin.path}" for o in others),
        (0.95, 0.94, 0.93, 0.92, 0.81),
    )
    away = [replace(dropped(o, "near_duplicate", kept.id), operator="near_dedup") for o in others]
    text = look(artifact(tmp_path / "x", [kept], away, [cluster]), tmp_path / "p.html")
    assert "1 clusters" in text
    assert "5 dropped for it" in text
    assert re.findall(r"<summary><b>([\d.]+)</b>", text) == ["0.950", "0.940", "0.810"]
    assert '<td class="side l">line 7</td>' in text
    assert '<td class="side r">changed 4</td>' in text
    assert "kept instead: shop / src/file_1.py" in text
    assert "22 equal lines" not in text  # context lines stand around the change


def test_clusters_whose_texts_are_gone(tmp_path: Path) -> None:
    cluster = Cluster("0" * 64, "gone/a.py", ("1" * 64,), ("gone/b.py",), (0.9,))
    text = look(artifact(tmp_path / "x", [document(1)], (), [cluster]), tmp_path / "p.html")
    assert "no longer holds both texts" in text


def test_hits_with_both_texts(tmp_path: Path) -> None:
    matched, reference = "has <b> Close Elements", "has_close elements"
    hits = [
        Hit("d" * 64, "shop", f"a{n}.py", f"HumanEval/{n}", "humaneval", "text", "ngram", 0.5, matched, reference)
        for n in range(9)
    ]
    text = look(artifact(tmp_path / "x", [document(1)], (), (), hits), tmp_path / "p.html", hits=2)
    assert "9 hits: ngram · humaneval 9" in text
    assert text.count('<div class="passage">') == 4
    assert "has &lt;b&gt; Close <mark>Elements</mark>" in text


def hostile(folder: Path) -> Path:
    evil = Document("e" * 64, EVIL, EVIL, Origin(EVIL, EVIL, EVIL, EVIL, EVIL, EVIL), {EVIL: 1.0, "x": float("nan")})
    other = replace(evil, id="f" * 64, tags={EVIL: 2.0, "y": 1e300, "z": -1e308})
    away = [DroppedDocument(other, EVIL, EVIL, EVIL), DroppedDocument(evil, "$\\frac", "\"'", "e" * 64)]
    cluster = Cluster("e" * 64, EVIL, ("f" * 64,), (EVIL,), (0.9,))
    hit = Hit("e" * 64, EVIL, EVIL, EVIL, EVIL, EVIL, EVIL, 1.0, EVIL, EVIL)
    return artifact(folder, [evil], away, [cluster], [hit])


def test_hostile_text_is_inert(tmp_path: Path) -> None:
    text = look(hostile(tmp_path / "x"), tmp_path / "p.html")
    assert text.count("<script") == 1
    assert text.count("<img") == 0
    assert "\x1b" not in text
    script = text.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text  # nothing else would run even if it got through
    visible = re.sub(r'(data-\w+|value)="[^"]*"', "", text)
    assert "\u202e" not in visible
    assert "http://" not in re.sub(
        r'xmlns(:\w+)?="[^"]*"|<!--.*?-->', "", text.split("</style>", 1)[1].split("<rdf")[0]
    )


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="needs Chromium")
def test_hostile_text_in_a_browser(tmp_path: Path) -> None:
    look(hostile(tmp_path / "x"), tmp_path / "p.html")
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [*command, "--dump-dom", f"file://{tmp_path / 'p.html'}"], capture_output=True, text=True, timeout=120
    )
    assert "<title>x: documents</title>" in done.stdout
    assert 'id="n-kept">1<' in done.stdout  # our own script ran
    assert "<img" not in done.stdout
    assert html.escape(EVIL[:30], quote=False) in done.stdout


def test_bounded_page(tmp_path: Path) -> None:
    """Thousands of names make no larger page than a few dozen."""
    kept = [document(n, language=f"language {n}", **{f"tag_{n}": 1.0}) for n in range(1500)]
    away = [dropped(document(n), f"reason {n}") for n in range(1500)]
    text = look(artifact(tmp_path / "x", kept, away), tmp_path / "p.html", samples=2)
    assert len(cards(text, "kept")) == len(cards(text, "dropped")) == specimens.MAX_GROUPS + 2
    assert len(text) < 1_000_000
    assert "1,500 documents" in text


def test_bad_input(tmp_path: Path) -> None:
    folder = artifact(tmp_path / "x", [document(1)])
    with pytest.raises(UserError, match=r"is not an artifact"):
        inspect_artifact(tmp_path, None, InspectConfig())
    (tmp_path / "notes.html").write_text("mine")
    with pytest.raises(UserError, match=r"notes\.html exists and is no page"):
        inspect_artifact(folder, tmp_path / "notes.html", InspectConfig())
    assert (tmp_path / "notes.html").read_text() == "mine"
    with pytest.raises(UserError, match="is a folder; name a file"):
        inspect_artifact(folder, tmp_path, InspectConfig())
    with pytest.raises(ValueError, match="no browser shows"):
        InspectConfig(samples=200, characters=100_000)
    begin(tmp_path / "t", "tokens", Config(), {}, "test")
    seal(tmp_path / "t", Counts())
    with pytest.raises(UserError, match="holds 'tokens', needed: documents"):
        inspect_artifact(tmp_path / "t", None, InspectConfig())
    broken = folder / "documents-00000.parquet"
    broken.write_bytes(b"x" * broken.stat().st_size)
    with pytest.raises(UserError, match="is not a readable Parquet file"):
        inspect_artifact(folder, None, InspectConfig())


def test_default_page_lies_beside_the_artifact(tmp_path: Path) -> None:
    folder = artifact(tmp_path / "clean", [document(1)])
    assert inspect_artifact(folder, None, InspectConfig()) == tmp_path / "clean.html"
    assert inspect_artifact(folder, None, InspectConfig()) == tmp_path / "clean.html"  # its own page is made again
    check_files(folder, deep=True)


def test_empty_artifact(tmp_path: Path) -> None:
    text = look(artifact(tmp_path / "x", []), tmp_path / "p.html")
    assert "nothing kept" in text


def test_find_reads_the_right_rows(tmp_path: Path) -> None:
    kept = [document(n) for n in range(700)]
    away = [dropped(document(n + 1000), "x") for n in range(700)]
    source = specimens.Source(artifact(tmp_path / "x", kept, away, per_shard=650))
    wanted = [kept[0], kept[300], kept[649], kept[650], away[299].document, away[699].document]
    found = specimens.find(source, {one.id for one in wanted} | {"9" * 64}, 50)
    assert {i: (s.text, s.path, s.licence, s.tags) for i, s in found.items()} == {
        one.id: (one.text[:50], one.origin.path, one.origin.licence, one.tags) for one in wanted
    }
    assert found[away[299].document.id].reason == "filters/x"
