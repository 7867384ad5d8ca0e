/* The event loop: file descriptors by epoll, and timers. One thread; nothing in it blocks. */
#ifndef LOOP_H
#define LOOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Part of a larger structure, which `CONTAINER_OF` finds. Closing `fd` is the owner's business, after
 * `watch_stop`. */
struct watch {
	int fd;
	uint32_t events;
	bool added;
	void (*ready)(struct watch *watch, uint32_t events);
};

struct timer {
	struct timer *next, **link;
	int64_t at;
	void (*fire)(struct timer *timer);
};

#define CONTAINER_OF(pointer, type, member) ((type *)(void *)((char *)(pointer) - offsetof(type, member)))

void loop_open(void);
/* Waits until something happens, and acts on all that has. */
void loop_round(void);

/* Has `watch->ready` called for these events (EPOLLIN, EPOLLOUT); 0 for none, not even a hang-up. Fails with EPERM
 * for what can't be waited for. */
int watch_for(struct watch *watch, uint32_t events);
void watch_stop(struct watch *watch);

/* Milliseconds that only go forward, also while the host sleeps. */
int64_t now_ms(void);
int64_t now_us(void);
int64_t wall_ms(void);
/* `fire` is called once, `ms` from now; setting it again moves it. */
void timer_set(struct timer *timer, int64_t ms);
void timer_stop(struct timer *timer);
bool timer_is_set(const struct timer *timer);

/* When the program last went on after it had been paused for a while; 0 if it never was. */
int64_t loop_thawed_ms(void);

/* PID 1 without memory can do nothing but end, and the sandbox with it. */
void *must(void *memory);

#endif
