"""Runs inside the sandbox: answers queries on one SQLite file. Never imported by the parent.

The job comes as JSON on standard input; each answer goes as one JSON line to the channel, as soon as it is there. SQL
cannot reach this process, so many queries share it; one that takes its memory ends it, and the parent sees what is
missing.
"""
# pyright: basic

import json
import os
import sqlite3
import sys
import time

_STEPS = 10_000  # of SQLite's machine between two looks at the clock


def _answer(query, job):
    connection = sqlite3.connect("file:" + job["file"] + "?mode=ro&immutable=1", uri=True)
    if job["ignore_bad_text"]:
        connection.text_factory = lambda data: data.decode(errors="ignore")
    deadline = time.monotonic() + job["seconds"]
    connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
    try:
        rows, size = [], 0
        for row in connection.execute(query):
            rows.append([{"b": value.hex()} if isinstance(value, bytes) else value for value in row])
            size += sum(len(value) if isinstance(value, (str, bytes)) else 8 for value in row) + 8
            if size > job["most_bytes"]:
                return ["size", ""]
        return ["rows", rows]
    except Exception as error:
        if time.monotonic() > deadline:
            return ["time", ""]
        return ["error", (type(error).__name__ + ": " + str(error))[:300]]
    finally:
        connection.close()


def _main():
    job = json.loads(sys.stdin.buffer.read())
    with open(int(os.environ["CODEFLOW_CHANNEL"]), "w", encoding="ascii") as channel:
        for number, query in job["queries"]:
            channel.write(json.dumps([number, *_answer(query, job)]) + "\n")
            channel.flush()


_main()
