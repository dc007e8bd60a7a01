"""One worker process of the demonstration: `python -m penstock_loadtest.demo_worker URL TRAP`.

A job names a file; its words are counted and the result is enqueued. The job that is marked as a trap holds
up the first worker that takes it, for good. The file `TRAP` is the trace it leaves, so that the next one is
not held up again. On stdout: a line when the worker is at work, and the number of the job that holds it up.
"""

import asyncio
import logging
import os
import sys
from pathlib import Path

import penstock
from penstock_loadtest.demo_text import Text

JOBS, RESULTS = "demo.jobs", "demo.results"


async def work(url: str, trap: str) -> None:
    """Take jobs until SIGTERM."""
    async with penstock.connect(url) as client:
        results = client.queue(RESULTS)

        async def count_words(job: penstock.Message[bytes]) -> None:
            if job.headers.get("trap") and sprung(trap):
                print(job.headers["number"], flush=True)
                await asyncio.Event().wait()
            words = Text(Path(os.fsdecode(job.body))).words
            number, again = job.headers["number"], job.redelivered
            await results.enqueue(str(words), headers={"number": number, "redelivered": again})

        print("at work", flush=True)
        await client.queue(JOBS).work(count_words, concurrency=1)


def sprung(trap: str) -> bool:
    """True for the first who asks."""
    try:
        os.close(os.open(trap, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


if __name__ == "__main__":
    logging.getLogger("penstock").setLevel(logging.ERROR)  # settles that come too late are part of the show
    asyncio.run(work(*sys.argv[1:]))
