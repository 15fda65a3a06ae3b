/* Threads that share the tasks of one operator.

   Workers look for work for a while after the last, then sleep. Tasks are claimed one at a time, by
   workers and caller alike, so that a worker the system has put aside holds up nothing but the task
   it is in: on a machine with other work, waiting for a fixed share can be many times slower.

   One operator runs on the pool at a time; a second one beside it runs on its caller's thread. */
#ifndef FLUVIAL_POOL_H
#define FLUVIAL_POOL_H

#include <stddef.h>
#include <stdint.h>

enum { MAX_THREADS = 256 };

/* Use `count` threads from now on, the caller's among them; returns how many there are. Not while
   an operator runs. */
int pool_use(int count);

/* Run task(argument, 0 .. tasks - 1); returns when all are done. */
void pool_run(void (*task)(void *argument, size_t index), void *argument, int64_t tasks);

#endif
