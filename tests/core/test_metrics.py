from __future__ import annotations

from pathlib import Path

from codeflow.core.metrics import MetricsLog, read_metrics


def test_resume_cuts_later_rows_and_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    for step in range(1, 5):
        log.write(step, loss=1.0 / step)
    log.close()
    with open(path, "ab") as file:
        file.write(b'{"step": 5, "lo')
    log = MetricsLog(path, resume_after_step=2)
    log.write(3, loss=0.5)
    log.close()
    assert [(row["step"], row["loss"]) for row in read_metrics(path)] == [(1, 1.0), (2, 0.5), (3, 0.5)]
