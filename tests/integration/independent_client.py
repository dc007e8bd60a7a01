"""A client written from the wire specification alone: blocking sockets, struct, zlib and msgpack."""

import os
import socket
import uuid
import zlib
from struct import Struct
from typing import Any, NamedTuple

import msgpack

FRAME = Struct("<IIIBBH")  # length, correlation, fields_length, verb, flags, reserved
BATCH = Struct("<BBHHHQII")  # version, flags, count, columns, epoch, producer_id, sequence, reserved
COLUMN = Struct("<BBHI")  # kind, width, reserved, length
SLICE = Struct("<QQQQ16sIIIIIII")  # token … batch_length, without the crc32
RANGE = Struct("<QQII")  # token, first, partition, messages
HELLO, PING, ENQUEUE, RECEIVE, ACK, NACK, PRODUCE, FETCH = 1, 2, 16, 17, 18, 19, 32, 33
CREATE_QUEUE, DESCRIBE_QUEUE, CREATE_TOPIC = 64, 68, 80
REPLY, ERROR, KEY = 1, 2, 1  # flags of a frame; kind of a column


class Refused(Exception):
    """An error reply: code, message, hint, retry_after, detail."""


class Message(NamedTuple):
    """A message or record as delivered. `lease`: the range that settles it."""

    id: str
    offset: int
    body: bytes
    key: bytes | None
    attempt: int
    delivery: int
    lease: bytes


def u32s(*values: int) -> bytes:
    return b"".join(value.to_bytes(4, "little") for value in values)


def joined(cells: list[bytes]) -> tuple[bytes, bytes]:
    """Ends of the cells, and the cells."""
    return u32s(*(sum(map(len, cells[: i + 1])) for i in range(len(cells)))), b"".join(cells)


def parted(ends: bytes, cells: bytes) -> list[bytes]:
    stops = [int.from_bytes(ends[i : i + 4], "little") for i in range(0, len(ends), 4)]
    return [cells[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]


def encode_batch(bodies: list[bytes], keys: list[bytes] | None, producer_id: int, sequence: int) -> bytes:
    column = b"".join(joined([msgpack.packb(key) for key in keys])) if keys else b""
    table = COLUMN.pack(KEY, 0, 0, len(column)) if keys else b""
    ends, cells = joined(bodies)
    head = BATCH.pack(1, 0, len(bodies), len(table) // COLUMN.size, 0, producer_id, sequence, 0)
    rest = head + table + ends + column + cells
    return u32s(8 + len(rest), zlib.crc32(rest)) + rest


def decode_batch(batch: bytes) -> tuple[list[bytes], list[bytes]]:
    """Bodies, and packed keys, empty where there is none."""
    assert u32s(len(batch), zlib.crc32(batch[8:])) == batch[:8]
    _, _, count, columns, *_ = BATCH.unpack_from(batch, 8)
    ends_at = 32 + columns * COLUMN.size
    at, keys = ends_at + 4 * count, [b""] * count
    for i in range(columns):
        kind, _, _, length = COLUMN.unpack_from(batch, 32 + i * COLUMN.size)
        if kind == KEY:
            keys = parted(batch[at : at + 4 * count], batch[at + 4 * count : at + length])
        at += length
    return parted(batch[ends_at : ends_at + 4 * count], batch[at:]), keys


def decode_delivery(slices: int, payload: bytes) -> list[Message]:
    out, at = [], slices * 80
    for i in range(0, slices * 80, 80):
        token, first, origin, _, log, _, partition, n, attempt, nth, _, size = SLICE.unpack_from(payload, i)
        batch, at = payload[at : at + size], at + size
        assert u32s(zlib.crc32(payload[i : i + 76] + batch[4:8])) == payload[i + 76 : i + 80]
        bodies, keys = decode_batch(batch)
        for j in range(n):
            name, lease = f"{uuid.UUID(bytes=log)}:{origin + j}", RANGE.pack(token, first + j, partition, 1)
            key = msgpack.unpackb(keys[j]) if keys[j] else None
            out.append(Message(name, first + j, bodies[j], key, attempt, nth, lease))
    return out


class Client:
    """One connection, one request at a time."""

    def __init__(self, host: str, port: int, producer_id: int = 0) -> None:
        self.socket = socket.create_connection((host, port), timeout=20)
        self.stream = self.socket.makefile("rb")
        self.correlation = 0
        self.welcome, _ = self.ask(HELLO, b"PENSTOCK", 1, 1, os.urandom(16), producer_id, "independent")

    def ask(self, verb: int, *fields: Any, payload: bytes = b"") -> tuple[list[Any], bytes]:
        """Fields and payload of the reply. Raises `Refused`."""
        self.correlation += 1
        self._send(verb, 0, self.correlation, fields, payload)
        while True:
            length, correlation, size, verb, flags, _ = FRAME.unpack(self.stream.read(FRAME.size))
            body = self.stream.read(length - FRAME.size)
            if (verb, flags) == (PING, 0):
                self._send(PING, REPLY, correlation, [], b"")
            elif flags & ERROR:
                raise Refused(*msgpack.unpackb(body[:size]))
            else:
                assert (correlation, flags) == (self.correlation, REPLY)
                return msgpack.unpackb(body[:size]), body[size:]

    def _send(self, verb: int, flags: int, correlation: int, fields: Any, payload: bytes) -> None:
        packed = msgpack.packb(fields)
        length = FRAME.size + len(packed) + len(payload)
        self.socket.sendall(FRAME.pack(length, correlation, len(packed), verb, flags, 0) + packed + payload)

    def close(self) -> None:
        self.stream.close()
        self.socket.close()
