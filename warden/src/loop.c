#include "loop.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#define BATCH 64
/* Waiting doesn't count the time that the host sleeps, timers do. */
#define LONGEST_WAIT_MS 10000
/* Waiting so much longer than that is a pause: of the sandbox, or of its host. */
#define PAUSE_MS 2000

static int epoll_fd = -1;
static struct epoll_event batch[BATCH];
static int batch_at, batch_length;

static struct timer *timers;
/* No timer is due before this: a lower bound, so that stopping one costs nothing. */
static int64_t next_due = INT64_MAX;
static int64_t thawed_ms;

void *must(void *memory)
{
	if (memory == NULL)
		_exit(70);
	return memory;
}

static int64_t read_clock(clockid_t id, int64_t per_second)
{
	struct timespec now;

	clock_gettime(id, &now);
	return (int64_t)now.tv_sec * per_second + now.tv_nsec / (1000000000 / per_second);
}

int64_t now_ms(void)
{
	return read_clock(CLOCK_BOOTTIME, 1000);
}

int64_t now_us(void)
{
	return read_clock(CLOCK_BOOTTIME, 1000000);
}

int64_t wall_ms(void)
{
	return read_clock(CLOCK_REALTIME, 1000);
}

void loop_open(void)
{
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (epoll_fd < 0)
		_exit(71);
}

int watch_for(struct watch *watch, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = watch };

	if (events == 0) {
		watch_stop(watch);
		return 0;
	}
	if (watch->added && watch->events == events)
		return 0;
	if (epoll_ctl(epoll_fd, watch->added ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, watch->fd, &event) < 0)
		return -1;
	watch->added = true;
	watch->events = events;
	return 0;
}

/* Taken out explicitly, as a child between fork and exec may still hold the descriptor open; and out of the round of
 * events that is being handled, as the watch may be freed next. */
void watch_stop(struct watch *watch)
{
	if (!watch->added)
		return;
	epoll_ctl(epoll_fd, EPOLL_CTL_DEL, watch->fd, NULL);
	watch->added = false;
	for (int i = batch_at; i < batch_length; i++)
		if (batch[i].data.ptr == watch)
			batch[i].data.ptr = NULL;
}

bool timer_is_set(const struct timer *timer)
{
	return timer->link != NULL;
}

void timer_stop(struct timer *timer)
{
	if (timer->link == NULL)
		return;
	*timer->link = timer->next;
	if (timer->next)
		timer->next->link = timer->link;
	timer->link = NULL;
}

void timer_set(struct timer *timer, int64_t ms)
{
	timer_stop(timer);
	timer->at = now_ms() + ms;
	timer->next = timers;
	timer->link = &timers;
	if (timers)
		timers->link = &timer->next;
	timers = timer;
	if (timer->at < next_due)
		next_due = timer->at;
}

/* A timer that fires may set and stop others, so the search starts anew after each. */
static void fire_due(void)
{
	int64_t now = now_ms();

	if (now < next_due)
		return;
	for (;;) {
		struct timer *due = NULL;

		next_due = INT64_MAX;
		for (struct timer *timer = timers; timer; timer = timer->next) {
			if (timer->at <= now)
				due = timer;
			else if (timer->at < next_due)
				next_due = timer->at;
		}
		if (due == NULL)
			return;
		timer_stop(due);
		due->fire(due);
	}
}

static int wait_ms(void)
{
	int64_t left = next_due == INT64_MAX ? -1 : next_due - now_ms();

	if (next_due == INT64_MAX)
		return -1;
	return left < 0 ? 0 : left > LONGEST_WAIT_MS ? LONGEST_WAIT_MS : (int)left;
}

int64_t loop_thawed_ms(void)
{
	return thawed_ms;
}

void loop_round(void)
{
	int wait = wait_ms();
	int64_t until = now_ms() + wait;
	int found = epoll_wait(epoll_fd, batch, BATCH, wait);

	if (wait >= 0 && now_ms() > until + PAUSE_MS)
		thawed_ms = now_ms();
	batch_length = found < 0 ? 0 : found;
	for (batch_at = 0; batch_at < batch_length;) {
		struct epoll_event event = batch[batch_at++];
		struct watch *watch = event.data.ptr;

		if (watch)
			watch->ready(watch, event.events);
	}
	fire_due();
}
