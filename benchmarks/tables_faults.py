"""The table of interrupted, damaged and attacked runs."""

from __future__ import annotations

from typing import Any

Results = dict[str, Any]


def faults(kills: Results, ranks: Results, disk: Results, flips: Results, fuzz: Results, checkpoints: Results) -> str:
    """A line per kind of fault: how often it was injected, and how often the run recovered."""
    lines = [
        *_killed(kills),
        *_killed_ranks(ranks),
        ("disk full from a random write on; run again with free space", _of(disk["resumed"], disk["trials"])),
        *_damaged(flips),
        *_drawn(fuzz),
        *_saved(checkpoints),
    ]
    return "\n".join(
        ["| fault injected | result |", "|---|---|", *(f"| {fault} | {result} |" for fault, result in lines)]
    )


def _of(good: int, count: int) -> str:
    return f"{good} of {count} end like an uninterrupted run"


def _killed(found: Results) -> list[tuple[str, str]]:
    assert found["uninterrupted_twice"]["same"], "what is compared must not vary by itself"
    return [
        (f"SIGKILL {kind}, run again", _of(row["same"], row["runs"])) for kind, row in sorted(found["summary"].items())
    ]


def _killed_ranks(found: Results) -> list[tuple[str, str]]:
    rows = [
        (f"two processes, SIGKILL to one or both {kind}, run again", _of(row["same"], row["runs"]))
        for kind, row in sorted(found["summary"].items())
    ]
    others = found["another_number"]
    plans = sum(row["same_plan"] for row in others)
    differ = [row["weights"]["relative"] for row in others if row["weights"]]
    rest = f"; weights differ by at most {max(differ):.0e} of their tensor's largest" if differ else ""
    changed = "started with two processes and resumed with one, and the reverse"
    came = f"all end, {plans} of {len(others)} with the plan of two processes (gates that one process learned differ)"
    return [*rows, (changed, came + rest)]


def _damaged(found: Results) -> list[tuple[str, str]]:
    repaired = found["repaired"]
    files = [row for row in repaired if not row["file"].endswith("done.json")]
    same = sum(row["same_bytes"] for row in files)
    removed = all(row["damage"] == "gone" for row in found["missed"])
    undetected = "; the others, removed, were the first of their folder, which no record lists" if removed else ""
    return [
        (
            f"one byte flipped in a file ({found['files']} files of {found['kinds']} kinds, three bytes each)",
            f"{found['flips_found']} of {found['flips']} found, with the file's name",
        ),
        (
            "files truncated to half, filled with zeros, or removed",
            f"{found['found'] - found['flips_found']} of {found['damaged'] - found['flips']} found{undetected}",
        ),
        (
            "a byte flipped in a stage's file, or in its record, run again",
            f"{sum(row['whole'] for row in repaired)} of {len(repaired)} runs are repaired; {same} of {len(files)} "
            "files have their original bytes (records contain times)",
        ),
    ]


def _drawn(found: Results) -> list[tuple[str, str]]:
    kinds = found["kinds"]
    inputs, refused = (sum(row[name] for row in kinds) for name in ("inputs", "refused"))
    wrong = sum(row["tracebacks"] + row["hangs"] + row["unclear"] + len(row["outside"]) for row in kinds)
    named = ", ".join(row["kind"] for row in kinds)
    return [
        (
            f"{inputs:,} malformed files generated ({named})",
            f"{refused:,} rejected with a message, the others accepted; {wrong} tracebacks, hangs or writes elsewhere",
        )
    ]


def _saved(found: Results) -> list[tuple[str, str]]:
    return [
        (
            f"none: checkpoints while {row['network'].replace('@', ' at ')} is trained for {row['seconds']:.0f} s",
            f"{row['saves']} saves, {100 * row['share']:.2f} % of the time",
        )
        for row in found["networks"]
    ]
