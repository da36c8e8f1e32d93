# SPDX-License-Identifier: MIT
"""Races, results and schedules as text."""

from ptshare.spec.races.catalogue import MISTAKES, RACES, run
from ptshare.spec.races.explore import Result

__all__ = ["listing", "result", "table"]


def listing() -> str:
    """All races and mistakes, with none of them tried."""
    width = max(map(len, (*RACES, *MISTAKES)))
    lines = ["races:"]
    lines += [f"  {name:{width}}  {race.words}" for name, race in RACES.items()]
    lines += ["", "mistakes, for --mutant:"]
    for name, mistake in MISTAKES.items():
        lines.append(f"  {name:{width}}  {mistake.words} ({', '.join(mistake.races)})")
    return "\n".join(lines)


def result(race: str, mistake: str, found: Result) -> str:
    """What came of a race, with the schedule if it is a bad one.

    :param race: its name
    :param mistake: the mistake's name, or empty
    :param found: what came of it
    """
    lines = [f"{race}: {RACES[race].words}"]
    if mistake:
        lines.append(f"with a mistake, {mistake}: {MISTAKES[mistake].words}")
    if found.bad is None:
        lines.append(f"all orders hold: {found.states} states, schedules of up to {found.longest} steps")
        return "\n".join(lines)
    lines.append("")
    lines += [f"{number:3}  CPU {cpu}  {words}" for number, (cpu, words) in enumerate(found.bad.lines, 1)]
    lines += ["", f"wrong: {found.bad.wrong}"]
    return "\n".join(lines)


def table() -> str:
    """All races and mistakes tried, as the two tables of docs/races.md."""
    lines = ["| race | what meets | states | longest schedule |", "|---|---|---|---|"]
    for name, race in RACES.items():
        found = run(name)
        steps = found.longest if found.bad is None else f"**wrong after {found.longest}**"
        lines.append(f"| `{name}` | {race.words} | {found.states} | {steps} |")
    lines += ["", "| mistake | what is done wrong | found in | shortest schedule |", "|---|---|---|---|"]
    for name, mistake in MISTAKES.items():
        for race_name in mistake.races:
            bad = run(race_name, name).bad
            length = "**not found**" if bad is None else len(bad.lines)
            lines.append(f"| `{name}` | {mistake.words} | `{race_name}` | {length} |")
    return "\n".join(lines)
