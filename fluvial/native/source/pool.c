#include "pool.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#if defined(__x86_64__)
#define RELAX() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define RELAX() __asm__ volatile("yield")
#else
#define RELAX()
#endif

/* About 100 microseconds: longer than the gaps between the operators of one step. */
enum { LOOKS = 4000 };

typedef struct Job {
    void (*task)(void *argument, size_t index);
    void *argument;
    int64_t tasks;
} Job;

static Job job;
static atomic_bool open; /* the job may be joined */
static atomic_bool taken; /* some operator runs on the pool */
static atomic_bool leaving;
static _Atomic int64_t next, limit;
static atomic_int inside, asleep;

static pthread_t workers[MAX_THREADS];
static int worker_count;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

static void claim(const Job *from) {
    for (int64_t index; (index = atomic_fetch_add(&next, 1)) < from->tasks;)
        from->task(from->argument, (size_t)index);
}

/* A worker counts itself in before it looks whether the job is still open, and the caller closes
   the job before it waits until nobody is inside: so no worker reads a job that has gone. */
static void join(void) {
    atomic_fetch_add(&inside, 1);
    if (atomic_load(&open)) claim(&job);
    atomic_fetch_sub(&inside, 1);
}

static void rest(void) {
    pthread_mutex_lock(&lock);
    atomic_fetch_add(&asleep, 1);
    while (!atomic_load(&open) && !atomic_load(&leaving)) pthread_cond_wait(&changed, &lock);
    atomic_fetch_sub(&asleep, 1);
    pthread_mutex_unlock(&lock);
}

static bool has_work(void) { return atomic_load(&open) && atomic_load(&next) < atomic_load(&limit); }

static void *work(void *unused) {
    (void)unused;
    while (!atomic_load(&leaving)) {
        int looks = 0;
        while (!has_work() && looks < LOOKS && !atomic_load(&leaving)) {
            RELAX();
            looks++;
        }
        if (looks == LOOKS)
            rest();
        else
            join();
    }
    return NULL;
}

static void wake(void) {
    if (atomic_load(&asleep) == 0) return;
    pthread_mutex_lock(&lock);
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

void pool_run(void (*task)(void *argument, size_t index), void *argument, int64_t tasks) {
    if (tasks > 1 && worker_count > 0 && !atomic_exchange(&taken, true)) {
        job = (Job){task, argument, tasks};
        atomic_store(&next, 0);
        atomic_store(&limit, tasks);
        atomic_store(&open, true);
        wake();
        claim(&job);
        atomic_store(&open, false);
        while (atomic_load(&inside) > 0) RELAX();
        atomic_store(&taken, false);
        return;
    }
    for (int64_t i = 0; i < tasks; i++) task(argument, (size_t)i);
}

int pool_use(int count) {
    if (count < 1) count = 1;
    if (count > MAX_THREADS) count = MAX_THREADS;
    if (count == worker_count + 1) return count;
    atomic_store(&leaving, true);
    pthread_mutex_lock(&lock);
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    while (worker_count > 0) pthread_join(workers[--worker_count], NULL);
    atomic_store(&leaving, false);
    while (worker_count < count - 1 &&
           pthread_create(&workers[worker_count], NULL, work, NULL) == 0)
        worker_count++;
    return worker_count + 1;
}

__attribute__((visibility("default"))) int fluvial_threads(int count) { return pool_use(count); }
