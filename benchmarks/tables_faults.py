"""The tables of what interrupts, damages or attacks a run, and of what came of it."""

from __future__ import annotations

from typing import Any

Results = dict[str, Any]


def faults(kills: Results, ranks: Results, disk: Results, flips: Results, fuzz: Results, checkpoints: Results) -> str:
    """A line for each kind of trouble: how often it was made, and how often nothing was lost by it."""
    lines = [
        *_killed(kills),
        *_killed_ranks(ranks),
        ("the disk is full from a random write on; run again with room", _of(disk["resumed"], disk["trials"])),
        *_damaged(flips),
        *_drawn(fuzz),
        *_saved(checkpoints),
    ]
    return "\n".join(
        ["| what was done | what came of it |", "|---|---|", *(f"| {what} | {came} |" for what, came in lines)]
    )


def _of(good: int, count: int) -> str:
    return f"{good} of {count} end as a run that nothing stopped"


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
    changed = "begun by two processes and ended by one, and the other way round"
    came = f"all end, {plans} of {len(others)} with the plan of two processes (gates that one learned are its own)"
    return [*rows, (changed, came + rest)]


def _damaged(found: Results) -> list[tuple[str, str]]:
    repaired = found["repaired"]
    files = [row for row in repaired if not row["file"].endswith("done.json")]
    same = sum(row["same_bytes"] for row in files)
    removed = all(row["damage"] == "gone" for row in found["missed"])
    alone = "; the others, removed, are the first of their folder, which nothing else names" if removed else ""
    return [
        (
            f"one byte flipped in a file ({found['files']} files of {found['kinds']} kinds, three bytes each)",
            f"{found['flips_found']} of {found['flips']} found, with the file's name",
        ),
        (
            "files cut to half, filled with zeros, removed",
            f"{found['found'] - found['flips_found']} of {found['damaged'] - found['flips']} found{alone}",
        ),
        (
            "a byte flipped in a stage's file, or in its record, run again",
            f"{sum(row['whole'] for row in repaired)} of {len(repaired)} runs are whole again; {same} of {len(files)} "
            "files have the bytes that they had (records hold times)",
        ),
    ]


def _drawn(found: Results) -> list[tuple[str, str]]:
    kinds = found["kinds"]
    inputs, refused = (sum(row[name] for row in kinds) for name in ("inputs", "refused"))
    wrong = sum(row["tracebacks"] + row["hangs"] + row["unclear"] + len(row["outside"]) for row in kinds)
    named = ", ".join(row["kind"] for row in kinds)
    return [
        (
            f"{inputs:,} broken files drawn ({named})",
            f"{refused:,} refused in a sentence, the others taken; {wrong} tracebacks, hangs or writes elsewhere",
        )
    ]


def _saved(found: Results) -> list[tuple[str, str]]:
    return [
        (
            f"checkpoints while {row['network'].replace('@', ' at ')} is trained for {row['seconds']:.0f} s",
            f"{row['saves']} saves, {100 * row['share']:.2f} % of the time",
        )
        for row in found["networks"]
    ]
