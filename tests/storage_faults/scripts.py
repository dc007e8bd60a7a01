"""The scripts of the fault tests: at most eight operations each, around everything that moves bytes.

The operations are those of `play.py`. A journal file holds four blocks of a page: the first two are taken
when a script has created its first queue, and what lies in the first file is what `archive` moves. A
message of 7,000 bytes fills half a file, one of 20,000 takes a file of its own.
"""

TEXT = """# The journal alone
messages in blocks of their own
    create jobs; enqueue jobs 3x100; enqueue jobs 2x2000; enqueue jobs 1x100; enqueue jobs 1x10
batches gather into a block
    create jobs; enqueue jobs 1x100 2x200 3x300 1x900; ack jobs 4; enqueue jobs 2x50 2x60
blocks of many sectors
    create jobs; enqueue jobs 5x600; enqueue jobs 4x1700 1x10; ack jobs 9; enqueue jobs 2x4000
files are rolled
    create jobs; enqueue jobs 1x7000; enqueue jobs 1x7000; enqueue jobs 1x7000; enqueue jobs 1x7000
a message in a file of its own
    create jobs; enqueue jobs 1x20000; enqueue jobs 1x100; enqueue jobs 1x30000; ack jobs 2
settles roll files
    create jobs; enqueue jobs 6x10; ack jobs 1; ack jobs 1; ack jobs 1; ack jobs 1; ack jobs 1
failures are counted
    create jobs; enqueue jobs 4x100; nack jobs 2; nack jobs 3; ack jobs 1; nack jobs 1
leases run out
    create jobs; enqueue jobs 4x100; expire jobs 2; ack jobs 1; wait 3; expire jobs 3; wait 5;
    ack jobs 1
a purge
    create jobs; enqueue jobs 3x100 2x100; nack jobs 1; purge jobs; enqueue jobs 1x100; purge jobs

# Names
queues come and go
    create a; create b; enqueue a 2x100; enqueue b 1x100; delete a; create a; enqueue a 1x50;
    delete b
a queue is altered
    create jobs 5; enqueue jobs 2x100; alter jobs 9; enqueue jobs 6x100; checkpoint; alter jobs 7
a queue of old bytes is deleted
    create a; enqueue a 2x500; enqueue a 1x500; enqueue a 1x500; archive; delete a; wait 2; create a
a topic is deleted and made again
    topic log; produce log 2x100; commit g log 1; delete log; topic log 2; produce log/1 1x100;
    commit g log/1 1
a group keeps its other topic
    topic a; topic b; produce a 2x100; produce b 1x100; commit g a 1; commit g b 1; delete a; commit g b 0
deleted between two checkpoints
    create a; enqueue a 3x100; checkpoint; delete a; create a; checkpoint; enqueue a 1x100; delete a

# Dead letters
dead letters
    create jobs; enqueue jobs 4x100; bury jobs 1; bury jobs 2; enqueue jobs 1x100; bury jobs 1;
    ack jobs.dead 2
dead letters out of a segment
    create jobs; enqueue jobs 2x1000 1x500; enqueue jobs 1x7000; archive; bury jobs 2; bury jobs 1;
    bury jobs 1
dead letters that are archived
    create jobs; enqueue jobs 3x1000; bury jobs 2; enqueue jobs 1x3000; archive; ack jobs.dead 1;
    checkpoint; ack jobs 2
a dead letter without room
    create jobs.dead 1; create jobs; enqueue jobs 3x100; bury jobs 1; bury jobs 1; ack jobs 1;
    checkpoint

# Topics and groups
records and commits
    topic log 2; produce log/0 3x100; produce log/1 2x100; commit g log/0 2; commit g log/1 1;
    commit g log/0 3
commits roll files
    topic log; produce log 9x10; commit g log 1; commit h log 5; commit g log 3; commit g log 2;
    checkpoint; commit h log 6
records move to a segment
    topic log 2; produce log/0 3x1000; produce log/1 2x1000; produce log/0 1x3000; archive;
    produce log/0 1x100

# Checkpoints
two checkpoints
    create jobs; enqueue jobs 2x100; checkpoint; enqueue jobs 2x100; ack jobs 1; checkpoint;
    ack jobs 1
checkpoints in turn
    create jobs; enqueue jobs 5x100; checkpoint; nack jobs 1; checkpoint; ack jobs 2; checkpoint;
    enqueue jobs 1x100
a checkpoint of many
    create a; create b; topic log 3; produce log/2 1x100; checkpoint; enqueue b 1x100; checkpoint;
    commit g log/2 1
files are recycled
    create jobs; enqueue jobs 1x7000 1x7000 1x7000; ack jobs 3; checkpoint; checkpoint; wait 2;
    enqueue jobs 1x7000 1x7000; ack jobs 1
files are dropped
    create jobs; enqueue jobs 1x30000; ack jobs 1; checkpoint; enqueue jobs 1x30; checkpoint;
    wait 2; enqueue jobs 1x7000

# Segments
messages move to a segment
    create jobs; enqueue jobs 2x2000; enqueue jobs 2x2000; enqueue jobs 1x100; archive; ack jobs 2;
    enqueue jobs 1x10
two queues in one segment
    create a; create b; enqueue a 1x1000 1x900; enqueue b 2x1000; archive; ack a 2; ack b 1
segment behind segment
    create jobs; enqueue jobs 2x2000; enqueue jobs 1x7000; archive; checkpoint; checkpoint;
    enqueue jobs 1x7000; archive
a segment is dropped
    create jobs; enqueue jobs 2x900; enqueue jobs 1x900; enqueue jobs 1x7000; archive; ack jobs 3;
    wait 2; wait 2
only what is alive moves
    create jobs; enqueue jobs 1x900 1x900; ack jobs 1; enqueue jobs 1x3000; archive; checkpoint;
    checkpoint; archive
archived, then both checkpoints
    topic log; produce log 2x2000; produce log 2x3000; archive; checkpoint; checkpoint; wait 2;
    produce log 1x7000
an own segment is appended to
    create jobs; enqueue jobs 2x900; enqueue jobs 1x7000; enqueue jobs 1x7000; archive; checkpoint; wait 11;
    ack jobs 3
an own segment with an index
    topic log; produce log 2x400 1x700 1x500; produce log 1x7000; archive; checkpoint; checkpoint; archive;
    produce log 1x100
a segment is evacuated
    create jobs; enqueue jobs 1x400 1x400 1x400 1x400 1x400; enqueue jobs 1x7000; archive; ack jobs 4;
    wait 2; wait 2; ack jobs 1
cut in an evacuation
    create jobs; enqueue jobs 1x400 1x400 1x400 1x400 1x400; enqueue jobs 1x7000; archive; ack jobs 4;
    cut 3 wait 2; wait 2; kill 6 wait 2
two logs leave a segment
    create a; create b; enqueue a 1x600 1x600; enqueue b 1x600 1x600; archive; purge a; ack b 1; wait 2
dead letters out of an evacuated segment
    create jobs; enqueue jobs 1x400 1x400 1x400 1x400 1x400; enqueue jobs 1x7000; archive; ack jobs 4;
    bury jobs 1; wait 2; stop

# Durability modes
a sync may wait a little
    create jobs 100 interval:50ms; enqueue jobs 2x100; enqueue jobs 1x100 1x200; ack jobs 1; wait 1;
    enqueue jobs 1x100; nack jobs 1
a sync may wait for ever
    create jobs 100 os; enqueue jobs 2x100; ack jobs 1; enqueue jobs 1x7000 1x7000; enqueue jobs 1x100;
    checkpoint; enqueue jobs 1x50
modes beside each other
    create a; create b 100 interval:1000ms; topic log 1 os; enqueue b 2x100; produce log 2x100;
    enqueue a 1x100; enqueue b 1x100; produce log 1x100
what is not synced is archived
    create jobs 100 os; enqueue jobs 2x900; enqueue jobs 1x7000; archive; ack jobs 1; checkpoint; wait 2;
    enqueue jobs 1x10
dead letters and commits that may wait
    create jobs 100 os; topic log 1 os; enqueue jobs 3x100; bury jobs 1; produce log 2x100; commit g log 1;
    commit g log 2; nack jobs 1
lives of what is not synced
    create jobs 100 interval:50ms; enqueue jobs 2x100; kill 2 enqueue jobs 1x100; enqueue jobs 1x100;
    cut 3 enqueue jobs 2x2000; enqueue jobs 2x100; cut 1 ack jobs 1; stop

# Lives
a clean stop
    create jobs; enqueue jobs 3x100; ack jobs 1; stop; nack jobs 1; stop; enqueue jobs 1x100
killed again and again
    create jobs; kill 4 enqueue jobs 2x1000; enqueue jobs 1x100; kill 3 ack jobs 1;
    kill 2 enqueue jobs 1x7000; enqueue jobs 1x10
cut again and again
    create jobs; cut 3 enqueue jobs 2x2500; enqueue jobs 1x100; cut 2 enqueue jobs 1x50;
    cut 1 enqueue jobs 3x10; enqueue jobs 1x10
cut in a checkpoint
    create jobs; enqueue jobs 2x100; checkpoint; cut 4 checkpoint; enqueue jobs 1x100; checkpoint;
    cut 6 checkpoint; ack jobs 1
killed in an archive run
    create jobs; enqueue jobs 2x2000; enqueue jobs 1x7000; kill 5 archive; archive; ack jobs 1;
    cut 7 archive; ack jobs 1
cut around a dead letter
    create jobs; enqueue jobs 3x1000; cut 2 bury jobs 1; enqueue jobs 1x10; bury jobs 1;
    kill 2 bury jobs 1; checkpoint; cut 5 stop
stopped half-way
    create jobs; enqueue jobs 3x100; kill 6 stop; ack jobs 1; cut 9 stop; enqueue jobs 2x2000; stop;
    ack jobs 1
cut around a delete
    create a; enqueue a 2x900; enqueue a 1x7000; archive; cut 3 delete a; create b; enqueue b 1x100;
    cut 2 delete b
"""


def _read(text: str) -> dict[str, str]:
    scripts: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if line.startswith(" "):
            scripts[name] = f"{scripts[name]} {line.strip()}".strip()
        elif line and not line.startswith("#"):
            name = line
            scripts[name] = ""
    return scripts


SCRIPTS = _read(TEXT)
"""Name → operations, separated by semicolons."""
