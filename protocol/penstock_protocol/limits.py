"""Every maximum of the protocol, with the unit in its name. This file owns these numbers.

What a broker may lower (message size, for instance) it says in the HELLO reply; nothing may be
raised above what stands here.
"""

KIB = 1024
MIB = 1024 * KIB

# Frames
FRAME_BYTES_MAX = 8 * MIB
FRAME_BYTES_MAX_BEFORE_HELLO = 4 * KIB
FIELDS_BYTES_MAX = 64 * KIB
"""The msgpack fields of one frame; long lists travel in the payload, as fixed-size records."""
FIELDS_ARRAY_MAX = 64
FIELDS_MAP_MAX = 64
FIELDS_STRING_BYTES_MAX = 32 * KIB
REQUESTS_IN_FLIGHT_MAX = 4_096
"""Requests of one connection without a reply yet; the next one is refused as Busy."""

# Batches
BATCH_COUNT_MAX = 10_000
BATCH_BYTES_MAX = 1 * MIB
"""A batch of more than one message. A batch of one may be as large as one message may be."""
BATCH_OVERHEAD_BYTES_MAX = 64 * KIB
"""What header, key and headers may add to the body in a batch of one message."""
BATCH_COLUMNS_MAX = 24
INFLATED_BYTES_MAX = 8 * MIB
"""All bodies of a compressed batch, before they were compressed: what a reader allocates at most."""
COMPRESSION_RATIO_MAX = 1_000
"""Bytes of bodies before compression for each byte of the batch."""
MESSAGE_BYTES_MAX_DEFAULT = 1 * MIB
MESSAGE_BYTES_MAX = 6 * MIB

# Text
NAME_CHARACTERS_MAX = 250
NAME_CHARACTERS_MAX_DERIVED = 255
"""A name the broker derives: `<name>.dead`."""
REASON_BYTES_MAX = 1 * KIB
METADATA_BYTES_MAX = 4 * KIB
HEADER_KEYS_MAX = 64
HEADER_KEY_BYTES_MAX = 255
HEADERS_BYTES_MAX = 32 * KIB
KEY_BYTES_MAX = 16 * KIB
LABEL_BYTES_MAX = 255
"""A message group, dedup id, job key, correlation id, content type, or the name of a reply queue."""
PRIORITY_MAX = 9
CHECKPOINT_BYTES_MAX = 64 * KIB

# Delivery
RECEIVE_MESSAGES_MAX = 10_000
DELIVERY_BYTES_MAX = 1 * MIB
"""What one RECEIVE, FETCH, PEEK or DELIVER frame carries, unless its first message alone is larger."""
PREFETCH_MESSAGES_MAX = 1_000
SLICES_MAX = 10_000
RANGES_MAX = 10_000
"""Ranges in one ACK, NACK or EXTEND frame."""
FIND_MESSAGES_MAX = 50
"""What one FIND answers with."""
WHERE_CONDITIONS_MAX = 16
"""Of one FETCH."""
WHERE_PATTERN_BYTES_MAX = 255
"""A pattern, a value to compare with, or the name of a header in a condition."""
WHERE_STARS_MAX = 16
"""In one pattern."""
SUBSCRIPTIONS_MAX = 1_000
"""Push consumers of one session."""
SCHEDULES_MAX = 10_000
SCHEDULE_BYTES_MAX = 32 * KIB
SCHEDULE_RUNS_MAX = 100
"""Next runs that one listing shows of each schedule."""
LISTING_MAX = 1_000
"""Entries in one page of a listing."""
PARTITIONS_MAX = 10_000
GROUP_MEMBERS_MAX = 1_000
"""Members of one consumer group. Kafka's share groups: 200; its consumer groups: unlimited."""
GROUP_TOPICS_MAX = 64
"""Names and patterns that one member subscribes to."""

# Time
VISIBILITY_MS_MAX = 12 * 3600 * 1000
"""SQS: 12 h from the receive; here from now, at every extension."""
WAIT_MS_MAX = 20 * 60 * 1000
DELAY_MS_MAX = 10 * 366 * 86_400 * 1000
DEDUP_WINDOW_MS_MAX = 7 * 86_400 * 1000
"""How long a dedup id can be remembered. SQS: 5 min, fixed."""
SCHEDULE_EVERY_MS_MIN = 1_000
HELLO_SECONDS_MAX = 10.0
FRAME_SECONDS_MAX = 30.0
"""A frame that was begun must be complete by then."""
PING_AFTER_SECONDS = 30.0
SILENCE_SECONDS_MAX = 60.0

# Producers
SEQUENCES_IN_FLIGHT_MAX = 32
"""Batches of one producer to one address without an outcome; the broker remembers as many outcomes."""
PRODUCER_ID_MAX = 2**63 - 1
PRODUCER_ID_NAMED_MIN = 2**62
"""From here on an id belongs to a producer with a name, and only a broker makes it up."""
PRODUCERS_NAMED_MAX = 10_000
"""Names of producers on a node."""

INT_MAX = 2**63 - 1
