#include "record.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "init.h"
#include "loop.h"
#include "process.h"
#include "record_file.h"

#define TICK_MS 1000

static struct record record;
static struct terms terms;
static int64_t last_activity;
/* With which code it ends, or 0 while nothing has run out. Until it is paused or its lease renewed it has so many ticks. */
static int expired;
static int64_t ticks_left;
static bool ends;
static struct timer lease_timer, last_timer, idle_timer, tick_timer;

/* Nobody has taken it yet: it has only the time to be set up. */
static bool is_untaken(void)
{
	return terms.setup_ms > 0 && !record.taken;
}

static void end(int code)
{
	ends = true;
	init_end(is_untaken() ? END_SETUP : code);
}

/* A program that is paused doesn't tick: so what is left is left, however late it goes on. */
static void on_tick(struct timer *timer)
{
	if (--ticks_left <= 0)
		end(expired);
	else
		timer_set(timer, TICK_MS);
}

static void expire(int code)
{
	if (expired)
		return;
	expired = code;
	timer_stop(&lease_timer);
	timer_stop(&idle_timer);
	if (record.on_expiry != EXPIRY_PAUSE || is_untaken()) {
		end(code);
		return;
	}
	/* It can't pause itself. Who finds it paused sees by its record that it has expired, by whichever timeout. */
	record.lease_ends = now_ms();
	record_save(&record);
	ticks_left = (terms.grace_ms + TICK_MS - 1) / TICK_MS;
	tick_timer.fire = on_tick;
	timer_set(&tick_timer, ticks_left > 0 ? TICK_MS : 0);
}

static void on_lease_end(struct timer *timer)
{
	(void)timer;
	expire(END_LEASE);
}

static void on_last(struct timer *timer)
{
	(void)timer;
	expired = END_LEASE;
	/* Whatever the lease is said to do: there is no more of it. */
	ends = true;
	init_end(END_LEASE);
}

static void on_idle(struct timer *timer)
{
	int64_t since = last_activity > loop_thawed_ms() ? last_activity : loop_thawed_ms();
	int64_t left = process_count() > 0 ? record.idle_ms : since + record.idle_ms - now_ms();

	if (left <= 0)
		expire(END_IDLE);
	else
		timer_set(timer, left);
}

static void set_until(struct timer *timer, int64_t time, void (*fire)(struct timer *timer))
{
	int64_t left = time - now_ms();

	timer->fire = fire;
	if (time == NEVER)
		timer_stop(timer);
	else
		timer_set(timer, left > 0 ? left : 0);
}

static void set_timers(void)
{
	set_until(&last_timer, record.last_ends, on_last);
	if (expired)
		return;
	set_until(&lease_timer, record.lease_ends, on_lease_end);
	set_until(&idle_timer, record.idle_ms && !is_untaken() ? last_activity + record.idle_ms : NEVER, on_idle);
}

void record_note_activity(void)
{
	last_activity = now_ms();
}

static int64_t time_after(int64_t ms)
{
	return ms ? now_ms() + ms : NEVER;
}

/* No lease goes beyond the longest lifetime. */
static void clamp(struct record *next)
{
	if (next->lease_ends != NEVER && next->lease_ends > next->last_ends)
		next->lease_ends = next->last_ends;
}

static void begin(void)
{
	record.version = 1;
	record.lease_ends = time_after(terms.setup_ms ? terms.setup_ms : terms.ttl_ms);
	record.last_ends = time_after(terms.last_ms);
	record.idle_ms = terms.idle_ms;
	record.ttl_ms = terms.ttl_ms;
	record.on_expiry = terms.on_expiry;
}

/* As at first, but for its version, which no manager can have seen; and rather taken than given up as never used. */
static void begin_again(void)
{
	begin();
	record.version = (uint64_t)wall_ms();
	record.taken = true;
	record.lease_ends = time_after(terms.ttl_ms);
}

/* It was stopped, and is used again: the version stays, as nobody has said anything new. */
static void go_on(void)
{
	if (is_untaken())
		record.lease_ends = time_after(terms.setup_ms);
	else if (record.lease_ends <= now_ms() && record.on_expiry != EXPIRY_DESTROY && record.ttl_ms > 0)
		record.lease_ends = time_after(record.ttl_ms);
}

void record_open(const struct terms *given)
{
	enum loaded loaded = record_load(&record);

	terms = *given;
	record_note_activity();
	if (loaded == RECORD_LOADED)
		go_on();
	else if (loaded == RECORD_DAMAGED)
		begin_again();
	else
		begin();
	clamp(&record);
	/* Where nothing can be written it is kept while the sandbox runs. */
	record_save(&record);
	set_timers();
}

/* What has run out while the program didn't get to look, because it was paused, isn't renewed as if it had not. */
static void look_at_time(void)
{
	int64_t now = now_ms();

	if (record.last_ends <= now)
		on_last(&last_timer);
	else if (record.lease_ends <= now)
		expire(END_LEASE);
}

static bool is_new_time(int64_t ms)
{
	return ms >= KEEP && ms <= TIME_MAX_MS;
}

static bool is_valid(const struct record_change *change)
{
	if (!is_new_time(change->lease_ms) || !is_new_time(change->idle_ms) || !is_new_time(change->ttl_ms) ||
	    !is_new_time(change->last_ms))
		return false;
	if (change->on_expiry > EXPIRY_PAUSE && change->on_expiry != EXPIRY_KEEP)
		return false;
	return change->blob.length <= BLOB_MAX && (change->has_blob || change->blob.length == 0);
}

static struct record changed(const struct record_change *change)
{
	struct record next = record;

	next.version++;
	if (change->lease_ms != KEEP) {
		next.lease_ends = now_ms() + change->lease_ms;
		next.taken = true;
	}
	if (change->idle_ms != KEEP)
		next.idle_ms = change->idle_ms;
	if (change->ttl_ms != KEEP)
		next.ttl_ms = change->ttl_ms;
	if (change->on_expiry != EXPIRY_KEEP)
		next.on_expiry = change->on_expiry;
	if (change->last_ms != KEEP)
		next.last_ends = now_ms() + change->last_ms;
	clamp(&next);
	return next;
}

int record_set(const struct record_change *change)
{
	bool sets_lease = change->lease_ms != KEEP;
	struct record next;
	int error;

	if (!is_valid(change))
		return EINVAL;
	look_at_time();
	if (change->version != 0 && change->version != record.version)
		return EAGAIN;
	/* Of one that has expired only who has seen that may have it go on. */
	if (sets_lease && (ends || (expired && change->version == 0)))
		return ETIME;
	next = changed(change);
	if (change->has_blob) {
		next.blob = must(malloc(change->blob.length + 1));
		memcpy(next.blob, change->blob.at, change->blob.length);
		next.blob_length = change->blob.length;
	}
	error = record_save(&next);
	if (change->has_blob)
		free(error ? next.blob : record.blob);
	if (error)
		return error;
	record = next;
	record_note_activity();
	if (sets_lease) {
		expired = 0;
		timer_stop(&tick_timer);
	}
	set_timers();
	return 0;
}

static uint64_t left_until(int64_t time)
{
	int64_t left = time - now_ms();

	return time == NEVER ? UINT64_MAX : left > 0 ? (uint64_t)left : 0;
}

void record_put(struct out *out, uint32_t stream)
{
	size_t frame = frame_begin(out, F_RECORD_IS, stream);

	out_u64(out, record.version);
	out_u64(out, expired ? 0 : left_until(record.lease_ends));
	out_u64(out, (uint64_t)record.idle_ms);
	out_u64(out, (uint64_t)record.ttl_ms);
	out_u8(out, record.on_expiry);
	out_u64(out, left_until(record.last_ends));
	out_u8(out, record.taken);
	out_text(out, record.blob, record.blob_length);
	frame_end(out, frame);
}
