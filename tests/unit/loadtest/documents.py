"""Results as a run leaves them, made up."""

from typing import Any

import numpy as np

from penstock_loadtest import results
from penstock_loadtest.latency import Latencies, merged, summary
from penstock_loadtest.scenarios import Flow


def measured(rate: float, milliseconds: float) -> dict[str, Any]:
    """1,000 messages at a rate, of which all but the slowest ten have that latency."""
    latencies = Latencies()
    latencies.add_all(np.array([milliseconds * 1e6] * 990 + [milliseconds * 10e6] * 10))
    histogram = latencies.encode()
    return {
        "messages": 1_000,
        "seconds": 1_000 / rate,
        "rate": rate,
        "latency": summary(merged([histogram])),
        "histogram": histogram,
    }


def run(
    system: str = "penstock",
    rate: float = 100_000.0,
    milliseconds: float = 2.0,
    scenario: str = "queue",
    readers: int = 1,
    account: dict[str, int] | None = None,
) -> dict[str, Any]:
    """One run of one flow."""
    nothing = dict.fromkeys(("failed", "lost", "duplicates", "misordered", "corrupt", "phantom"), 0)
    counts = {"sent": 1_000, "received": 1_000, **nothing, **(account or {})}
    received = {**measured(rate, milliseconds), "account": counts}
    used = {"user_us": 1.5, "system_us": 0.5, "rss_anon": 50 << 20, "descriptors": 40}
    samples = [
        {"at": at / 2, "flows": [[at * 500, *[at * 450] * readers]], "rss_anon": 50 << 20, "descriptors": 40}
        for at in range(4)
    ]
    return {
        "system": system,
        "scenario": scenario,
        "about": "1 KiB & more",
        "durability": "fsync",
        "versions": {system: "1.0"},
        "seconds": 2.0,
        "flows": [
            {
                "flow": Flow(readers=readers)._asdict(),
                "failure": None,
                "durability": "fsync",
                "published": measured(rate * 2, milliseconds / 2),
                "received": [received] * readers,
            }
        ],
        "broker": used,
        "clients": used,
        "idle": None,
        "bare": None,
        "samples": samples,
    }


def document(*runs: dict[str, Any]) -> dict[str, Any]:
    """A document of these."""
    return {**results.document("penstock loadtest queue"), "runs": list(runs)}
