"""Writes the frames that each dialect makes of the answers in `tests.support.golden`.

Run it when a dialect is to tell an answer in another way, and read the differences before you
commit them; a test holds the code to what is written there:

    python -m tests.record_golden
"""

from __future__ import annotations

from tests.support.golden import GOLDEN, PATHS, cases, golden_file, made


def main() -> None:
    kept = set()
    for path in PATHS:
        for case in cases(path):
            file = golden_file(path, case)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(made(path, case))
            kept.add(file)
    for file in set(GOLDEN.rglob("*.sse")) - kept:
        file.unlink()


if __name__ == "__main__":
    main()
