"""Queues: each message to exactly one worker, until it is settled."""
