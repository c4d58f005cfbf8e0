"""How a run may have ended, by the words that stand in its record, and what follows from each."""

from __future__ import annotations

STATUSES = ("done", "failed", "diverged", "timeout")

FAILED = ("failed", "timeout")
"""Those that make a command exit with 1: there is no result."""

ENDED_WELL = ("done", "diverged")
"""Those of a fit that came to its end: that it diverges is a result, too."""

RETRIED = ("failed", "diverged", "timeout")
"""Those that ``--retry`` fits again, unless it names some of them."""
