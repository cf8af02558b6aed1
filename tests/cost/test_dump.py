"""What callgrind writes is read right: own costs, shortened names, no clock reading."""

from __future__ import annotations

from tests.cost.dump import read_dump

TEXT = """# callgrind format
part: 3
thread: 1

desc: Trigger: Client Request: an event-1

positions: line
event: sysTime : sysTime (elapsed ms)
events: Ir sysCount sysTime
summary: 171 5 9

ob=(1) /lib/python.so
fl=(1) eval.c
fn=(1) eval
10 100
cob=(2) /lib/libc.so
cfi=(2) write.c
cfn=(2) __libc_write
calls=3 +20
+4 60 3 9
cfn=(3) clock_gettime@@GLIBC_2.17
calls=2 0
* 11 2
-2 0
*
fn=(2)
30 60 3 9

fn=(3)
5 11 2

totals: 171 5 9
"""


def test_costs_are_each_function_s_own() -> None:
    dump = read_dump(TEXT)
    assert (dump.title, dump.thread) == ("an event-1", 1)
    assert dump.instructions == {"eval": 100, "__libc_write": 60, "clock_gettime@@GLIBC_2.17": 11}
    assert dump.instructions.total() == 171


def test_reading_the_clock_is_no_system_call() -> None:
    assert +read_dump(TEXT).system_calls == {"__libc_write": 3}
