"""What the header of a report says about its records; nothing here asks the clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from bench.report.groups import Record


@dataclass(frozen=True)
class Provenance:
    """Where the records come from."""

    records: int
    statuses: dict[str, int]
    commits: tuple[str, ...]
    dirty: int
    """Records made with uncommitted changes."""
    first: str
    last: str
    devices: tuple[str, ...]

    def lines(self) -> list[tuple[str, str]]:
        """(name, text) pairs, ready to print."""
        dates = self.first if self.first == self.last else f"{self.first} to {self.last}"
        commits = ", ".join(self.commits) or "unknown"
        if self.dirty:
            commits += f" ({self.dirty} of {self.records} records with uncommitted changes)"
        statuses = ", ".join(f"{n} {status}" for status, n in self.statuses.items())
        return [
            ("records", f"{self.records} ({statuses})" if self.records else "0"),
            ("created", dates or "unknown"),
            ("git", commits),
            ("device", ", ".join(self.devices) or "unknown"),
        ]


def provenance(records: Sequence[Record]) -> Provenance:
    """Facts about the records of a report."""
    envs = [record.get("env") or {} for record in records]
    created = sorted(str(r["created"])[:10] for r in records if r.get("created"))
    devices = {" ".join(dict.fromkeys(str(e[k]) for k in ("device", "device_name") if e.get(k))) for e in envs}
    return Provenance(
        records=len(records),
        statuses=dict(sorted(Counter(r["status"] for r in records).items())),
        commits=tuple(sorted({str(e["git"])[:10] for e in envs if e.get("git")})),
        dirty=sum(bool(e.get("dirty")) for e in envs),
        first=created[0] if created else "",
        last=created[-1] if created else "",
        devices=tuple(sorted(devices - {""})),
    )
