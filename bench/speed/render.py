"""Measured cells as text: a block per cell for the terminal, one Markdown table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = dict[str, Any]
MIB = 2**20


def terminal(rows: Sequence[Row], overrides: Sequence[str]) -> str:
    """The variants of one method and target, one line each."""
    operations = [f"{name}={kind}" for name, kind in rows[-1]["operations"].items()]
    memory = any(row.get("peak_bytes") for row in rows)
    lines = [" ".join([f"\n{rows[0]['method']} x {rows[0]['target']}", *overrides, *operations])]
    head = f"{'mode':<9}{'seeds':>6}{'ms/seed-it':>12}{'(min-max)':>20}{'seed-it/s':>12}{'x plain':>9}{'set-up s':>10}"
    lines.append(head + f"{'peak MiB':>10}" * memory)
    for row in rows:
        spread = "({:.3f}-{:.3f})".format(*row["ms_range"])
        line = f"{row['mode']:<9}{row['seeds']:>6}{row['ms_per_seed_iteration']:>12.3f}{spread:>20}"
        line += f"{row['seed_iterations_per_second']:>12.0f}{row['times_faster_than_plain']:>9.2f}"
        line += f"{row['setup_seconds']:>10.1f}"
        lines.append(line + (f"{row['peak_bytes'] / MIB:>10.0f}" if row.get("peak_bytes") else ""))
    return "\n".join(lines)


def markdown(table: Mapping[str, Any]) -> str:
    """What the times belong to, and a line per method and target: the plain step beside the suite's fastest variant at
    the most seeds.

    Args:
        table: as in the output file: ``hardware``, ``env`` and ``rows``.
    """
    rows, env = table["rows"], table["env"]
    commit = f"commit `{(env.get('git') or 'unknown')[:10]}`{' with changes' if env.get('dirty') else ''}"
    lines = [
        f"{table['hardware']}, {commit}. Times of the process, variants interleaved in one run: read the ratios.",
        "",
        "| method × target | seeds, mode | plain, ms per seed-iteration | suite | ratio (over rounds) | peak MiB |",
        "|---|---|---|---|---|---|",
    ]
    for method, target in dict.fromkeys((row["method"], row["target"]) for row in rows):
        cell = [row for row in rows if (row["method"], row["target"]) == (method, target)]
        plain, suite = cell[0], [row for row in cell if row["mode"] != "plain"]
        most = max(row["seeds"] for row in suite)
        best = max((r for r in suite if r["seeds"] == most), key=lambda r: r["times_faster_than_plain"])
        low, high = best["ratio_range"]
        peak = f"{best['peak_bytes'] / MIB:.0f}" if best.get("peak_bytes") else ""
        lines.append(
            f"| {method} × {target} | {best['seeds']}, {best['mode']} | {plain['ms_per_seed_iteration']:.3g} "
            f"| {best['ms_per_seed_iteration']:.3g} | {best['times_faster_than_plain']:.1f} ({low:.1f}–{high:.1f}) "
            f"| {peak} |"
        )
    return "\n".join(lines) + "\n"
