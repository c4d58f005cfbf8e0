"""A copy of the commit beside the records, which jobs run while the working tree changes."""

from __future__ import annotations

import os
import shlex
import subprocess
import tarfile
from io import BytesIO

from bench.environment import PACKAGES, ROOT
from bench.errors import UserError
from bench.store import Store


def snapshot(store: Store, sha: str | None, dirty: bool | None) -> list[str]:
    """Unpack the commit beside the records and let jobs run it; shell lines for them.

    Raises:
        UserError: there is no commit, or the working tree differs from it.
    """
    if sha is None or dirty is None:
        raise UserError("launcher.snapshot=true needs a git repository", "leave it out")
    if dirty:
        raise UserError(f"the working tree differs from commit {sha[:10]}: {', '.join(PACKAGES)}", "commit first")
    place = store.sweeps.resolve() / "snapshots" / sha
    if not place.exists():
        command = ["git", "-C", str(ROOT), "archive", sha, *PACKAGES]
        archive = subprocess.run(command, capture_output=True, check=True).stdout
        unfinished = place.with_name(f"{sha}.{os.getpid()}")
        with tarfile.open(fileobj=BytesIO(archive)) as tar:
            tar.extractall(unfinished, filter="data")
        unfinished.rename(place)
    # PYTHONPATH comes before installed packages; PYTHONSAFEPATH keeps `python -m` from looking into the folder that
    # the job starts in even before that.
    paths = f"PYTHONPATH={shlex.quote(str(place))}${{PYTHONPATH:+:$PYTHONPATH}} PYTHONSAFEPATH=1"
    return [f"export {paths} SIVIBENCH_GIT_SHA={sha}"]
