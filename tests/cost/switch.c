/* The counter's switch. To be called by the program that is counted; without valgrind, no effect. */

#include <valgrind/callgrind.h>

int cost_counted(void) { return RUNNING_ON_VALGRIND != 0; }

void cost_start(void) {
    CALLGRIND_START_INSTRUMENTATION;
    CALLGRIND_ZERO_STATS;
}

void cost_mark(const char *name) { CALLGRIND_DUMP_STATS_AT(name); }

void cost_stop(void) { CALLGRIND_STOP_INSTRUMENTATION; }
