"""Flame graphs of the processes of a run while it is measured, by py-spy, which looks from outside."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType

SAMPLES_PER_SECOND = 200
END_SECONDS_MAX = 60.0


class Profiles:
    """A block during which processes are sampled; afterwards `directory` has a `title.svg` of each."""

    def __init__(self, directory: Path, pids: dict[str, int]) -> None:
        self._directory = directory
        self._pids = pids
        self._recorders: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> None:
        found = shutil.which("py-spy", path=f"{Path(sys.executable).parent}") or shutil.which("py-spy")
        if found is None:
            raise RuntimeError("py-spy is not installed: pip install py-spy")
        self._directory.mkdir(parents=True, exist_ok=True)
        for title, pid in self._pids.items():
            output = self._directory / f"{title}.svg"
            options = ("--pid", str(pid), "--output", str(output), "--rate", str(SAMPLES_PER_SECOND))
            recorder = subprocess.Popen(
                [found, "record", "--subprocesses", "--threads", "--duration", "86400", *options],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            self._recorders.append(recorder)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for recorder in self._recorders:
            recorder.send_signal(signal.SIGINT)
        for recorder in self._recorders:
            try:
                recorder.wait(END_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                recorder.kill()
                recorder.wait()
        missing = [title for title in self._pids if not (self._directory / f"{title}.svg").exists()]
        if missing and error is None:
            raise RuntimeError(
                f"py-spy made no flame graph of {', '.join(missing)}: may it attach here? (root)"
            )
