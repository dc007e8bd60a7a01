"""A blocking client by somebody who had nothing but the wire specification: standard library and msgpack.

`python independent_client.py HOST PORT` walks through what it can do.
"""

import itertools
import os
import socket
import struct
import sys
import time
import zlib

import msgpack

FORMATS = ("<IIIBBH", "<IIBBHHHQII", "<QQQQ16sIIIIIIII", "<QQII")
FRAME, BATCH, SLICE, RANGE = map(struct.Struct, FORMATS)
HELLO, PING, GOODBYE, ENQUEUE, RECEIVE, ACK, NACK = 1, 2, 3, 16, 17, 18, 19
PRODUCE, FETCH, COMMIT, OFFSETS = 32, 33, 34, 35
CREATE_QUEUE, DELETE_QUEUE, DESCRIBE_QUEUE, CREATE_TOPIC, DELETE_TOPIC = 64, 66, 68, 80, 82
RETRY, RELEASE = 0, 1
NOT_FOUND = 1


class BrokerError(Exception):
    def __init__(self, code, message, hint, retry_after, detail):
        super().__init__(f"{code}: {message}")
        self.code, self.hint, self.retry_after, self.detail = code, hint, retry_after, detail


class Client:
    def __init__(self, host, port, producer_id):
        self.sock, self.corr = socket.create_connection((host, port), 20), itertools.count(1)
        hello = [b"PENSTOCK", 1, 1, os.urandom(16), producer_id, "indep", None]
        welcome, _ = self.call(HELLO, hello)
        self.version, self.server, self.node, self.boot, self.resumed, *rest = welcome
        self.credit, self.time, self.limits = rest

    def send(self, corr, verb, flags, fields, payload=b""):
        f = msgpack.packb(fields)
        header = FRAME.pack(16 + len(f) + len(payload), corr, len(f), verb, flags, 0)
        self.sock.sendall(header + f + payload)

    def exactly(self, n):
        out = bytearray()
        while len(out) < n:
            part = self.sock.recv(n - len(out))
            if not part:
                raise ConnectionError("closed by the broker")
            out += part
        return bytes(out)

    def call(self, verb, fields, payload=b""):
        corr = next(self.corr)
        self.send(corr, verb, 0, fields, payload)
        while True:
            length, c, flen, v, flags, zero = FRAME.unpack(self.exactly(16))
            body = self.exactly(length - 16)
            fields, rest = msgpack.unpackb(body[:flen], strict_map_key=False), body[flen:]
            if v == PING and flags == 0:
                self.send(c, PING, 1, [time.time_ns() // 10**6])
                continue
            if flags == 3:
                raise BrokerError(*fields)
            assert (c, v, flags, zero) == (corr, verb, 1, 0), (c, v, flags, zero)
            return fields, rest

    def document(self, verb, *fields):
        return msgpack.unpackb(self.call(verb, list(fields))[1])

    def settle(self, verb, fields, *ranges):
        (n,), rest = self.call(verb, fields, b"".join(RANGE.pack(*r) for r in ranges))
        return n, list(RANGE.iter_unpack(rest))

    def receive(self, queue, count, wait=5000):
        (n,), payload = self.call(RECEIVE, [queue, count, wait])
        return parse(n, payload)


def joined(cells):
    """Where each cell ends, and the cells."""
    ends = struct.pack(f"<{len(cells)}I", *itertools.accumulate(map(len, cells)))
    return ends, b"".join(cells)


def batch(messages, producer_id=0, sequence=0):
    """messages: (body, key or None, headers or None)"""
    columns = []
    for kind in (1, 2):
        cells = [b"" if m[kind] is None else msgpack.packb(m[kind]) for m in messages]
        if any(cells):
            columns.append((kind, b"".join(joined(cells))))
    table = b"".join(struct.pack("<BBHI", kind, 0, 0, len(data)) for kind, data in columns)
    ends, bodies = joined([m[0] for m in messages])
    rest = table + ends + b"".join(data for _, data in columns) + bodies
    head = BATCH.pack(32 + len(rest), 0, 1, 0, len(messages), len(columns), 0, producer_id, sequence, 0)
    return head[:4] + struct.pack("<I", zlib.crc32(head[8:] + rest)) + head[8:] + rest


def parted(data, count):
    """The inverse of `joined`."""
    ends = struct.unpack_from(f"<{count}I", data)
    return [data[4 * count :][a:b] for a, b in zip((0, *ends), ends, strict=False)]


def parse(n, payload):
    """-> one dict per message; asserts the checksums of every slice and batch"""
    out, at = [], 80 * n
    for i in range(n):
        raw = payload[80 * i : 80 * i + 80]
        stamps = SLICE.unpack(raw)
        *_, length, crc = stamps
        b = payload[at : at + length]
        at += length
        assert zlib.crc32(b[4:8], zlib.crc32(raw[:76])) == crc, "slice checksum"
        out += messages_of(stamps, b)
    assert at == len(payload), "bytes left over"
    return out


def messages_of(stamps, b):
    token, first, ofirst, _, olog, lease, part, count, attempt, delivery, flags, length, _ = stamps
    blen, bcrc, version, _, bcount, ncol, *_ = BATCH.unpack_from(b)
    assert (blen, version, bcount) == (length, 1, count), "batch header"
    assert zlib.crc32(b[8:]) == bcrc, "batch checksum"
    pos, cells = 32 + 8 * ncol + 4 * count, {}
    for kind, width, _, size in struct.iter_unpack("<BBHI", b[32 : 32 + 8 * ncol]):
        if width == 0:
            parts = parted(b[pos : pos + size], count)
            cells[kind] = [msgpack.unpackb(c) if c else None for c in parts]
        pos += size
    nothing = [None] * count
    bodies = parted(b[32 + 8 * ncol :][: 4 * count] + b[pos:], count)
    keys, headers = cells.get(1, nothing), cells.get(2, nothing)
    shared = {"token": token, "part": part, "attempt": attempt, "delivery": delivery, "flags": flags}
    for j, (body, key, header) in enumerate(zip(bodies, keys, headers, strict=True)):
        own = {"offset": first + j, "id": (olog, ofirst + j), "lease": lease}
        yield {**shared, **own, "body": body, "key": key, "headers": header}


def murmur2(key, m=0x5BD1E995, mask=0xFFFFFFFF):
    h, whole = 0x9747B28C ^ len(key), len(key) // 4 * 4
    for (k,) in struct.iter_unpack("<I", key[:whole]):
        k = k * m & mask
        k = (k ^ k >> 24) * m & mask
        h = h * m & mask ^ k
    if key[whole:]:
        h = (h ^ int.from_bytes(key[whole:], "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15


def at(m):
    """The range that settles a message."""
    return m["token"], m["offset"], m["part"], 1


def told(messages, *names):
    return [tuple(m[name] for name in names) for m in messages]


def refused(c, verb, *fields):
    """The error reply to a request that is to fail."""
    try:
        c.call(verb, list(fields))
    except BrokerError as error:
        return error
    raise AssertionError("the request was not refused")


def walk_queue(c, queue, pid):
    """Enqueue, receive, ack, release, retry; late acks are stale, and a resend is a duplicate."""
    d = c.document(CREATE_QUEUE, queue, {"visibility_timeout": 20000}, "check")
    assert d["created"]
    assert d["settings"]["visibility_timeout"] == 20000
    sent = [(b"zero", None, None), (b"one", b"k1", {"h": "v", "n": 1}), (b"", None, None)]
    b = batch(sent, pid, 0)
    f, _ = c.call(ENQUEUE, [queue], b)
    assert f[:6] == [0, 0, 3, False, "fsync", len(b)]
    assert f[7] == d["uuid"]
    m = c.receive(queue, 10)
    assert told(m, "body", "key", "headers") == sent
    assert told(m, "attempt", "delivery", "flags") == [(1, 1, 0)] * 3
    assert m[2]["id"] == (d["uuid"], 2)

    assert c.settle(ACK, [queue], at(m[0])) == (1, [])
    assert c.settle(NACK, [queue, RELEASE, None, None], at(m[1])) == (1, [])
    assert c.settle(NACK, [queue, RETRY, 0, "again"], at(m[2])) == (1, [])
    r = c.receive(queue, 10)
    assert told(r, "offset", "attempt", "delivery", "flags") == [(1, 1, 2, 1), (2, 2, 2, 1)]
    assert r[0]["id"] == m[1]["id"]
    assert r[1]["token"] > m[2]["token"]
    late = [at(m[0]), at(m[2])]
    assert c.settle(ACK, [queue], *late) == (0, late)
    assert c.settle(ACK, [queue], *map(at, r)) == (2, [])

    b = batch([(b"once", None, None)], pid, 1)
    f, g = (c.call(ENQUEUE, [queue], b)[0] for _ in "12")
    assert (f[1:4], g[1:4]) == ([3, 1, False], [3, 1, True])
    assert f[6:] == g[6:]
    assert len(c.receive(queue, 10)) == 1


def walk_topic(c, topic, group, pid):
    """Produce by key to two partitions, fetch, commit, read the offset back."""
    d = c.document(CREATE_TOPIC, topic, {"partitions": 2}, "check")
    assert d["created"]
    assert [(p["partition"], p["end"]) for p in d["partitions"]] == [(0, 0), (1, 0)]
    keys = (b"21", b"foobar", b"a-little-bit-long-string", b"abc")
    assert [murmur2(k) for k in keys] == [3321034988, 3504634814, 3308985760, 479470107]
    where = {k: (murmur2(k) & 0x7FFFFFFF) % 2 for k in (b"foobar", b"abc")}
    assert sorted(where.values()) == [0, 1]
    for k, p in where.items():
        f, _ = c.call(PRODUCE, [topic, p], batch([(b"value-" + k, k, None)], pid, 0))
        assert f[:4] == [p, 0, 1, False]
        assert f[7] == d["partitions"][p]["uuid"]
    for k, p in where.items():
        (n, start, end, _), payload = c.call(FETCH, [topic, p, 0, 10, 65536, 1000])
        assert (start, end) == (0, 1)
        x = parse(n, payload)
        assert told(x, "body", "key", "offset", "part") == [(b"value-" + k, k, 0, p)]
        assert told(x, "token", "lease", "delivery") == [(0, 0, 0)]
    assert c.call(COMMIT, [group, topic, [[1, 1, "meta"]]]) == ([], b"")
    assert [row[:3] for row in c.document(OFFSETS, group, topic)] == [[1, 1, "meta"]]


def main(host, port):
    pid, queue = int.from_bytes(os.urandom(7), "little") + 1, "indep-" + os.urandom(4).hex()
    topic = queue + "-t"
    c = Client(host, port, pid)
    assert c.version == 1
    assert not c.resumed
    walk_queue(c, queue, pid)
    walk_topic(c, topic, queue, pid)
    error = refused(c, DESCRIBE_QUEUE, queue + "-nope")
    assert (error.code, error.detail) == (NOT_FOUND, {})
    for verb, fields in ((DELETE_QUEUE, [queue]), (DELETE_TOPIC, [topic]), (GOODBYE, [])):
        assert c.call(verb, fields) == ([], b"")
    assert c.sock.recv(1) == b""
    c.sock.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
