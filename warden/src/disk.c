#define _GNU_SOURCE
#include "disk.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "confine.h"
#include "mark.h"
#include "process.h"

/* How often what is free is looked at while anything runs: what a disk takes in that time is what a bound may be passed
 * by. */
#define LOOK_MS 100
/* When little has gone. What neighbours free hides what is written here, but no more than they had. */
#define SELDOM_MS 10000
/* Once nothing runs any more. */
#define AT_REST_MS 1000
/* What takes longer gets too little of the CPU, or there is much to see: what runs is halted meanwhile, once it has
 * written. */
#define SLOW_MS 500
/* What neighbours free may have hidden that. */
#define TOO_SLOW_MS 5000
/* Then it is done without, and all goes on. */
#define GIVE_UP_MS 30000
/* So much must have gone at the least. */
#define LEAST_BYTES (4u << 20)
#define LEAST_INODES 1000u
/* What may be written when it is full, as by what removes files. */
#define SLACK_BYTES (1u << 20)
#define SLACK_INODES 64u
#define KILL_STEP_MS 5
#define OPERATION_GRACE_MS 1000
/* Over twice as much as there may be, and this. Each command may write a little before it is ended: there must be an end
 * to that, too. */
#define BEYOND_BYTES (1ull << 30)
#define BEYOND_INODES 20000u

struct result {
	struct disk_use use;
	bool complete;
};

static struct disk_bound bound;
/* As it was last measured, if it was. */
static struct disk_use used;
static bool measured;
/* The least that there was since it is full. */
static struct disk_use low;
static bool full, just_ended;
/* What was free when it was last measured, and when that was; and when the sandbox was started. */
static struct disk_use free_then, free_first;
static int64_t begun_ms;

static bool busy, settled, halted;
/* Until it is reaped. */
static pid_t measurer;
static struct watch answer = { .fd = -1 };
static struct timer look_timer, kill_timer;

struct disk_use disk_used(void)
{
	return measured ? used : (struct disk_use){ DISK_UNKNOWN, DISK_UNKNOWN };
}

bool disk_is_full(void)
{
	return full;
}

bool disk_is_closed(void)
{
	return full && (used.bytes > 2 * bound.most.bytes + BEYOND_BYTES || used.inodes > 2 * bound.most.inodes + BEYOND_INODES);
}

static bool read_free(struct disk_use *free_now)
{
	struct statvfs root;

	if (statvfs("/", &root) < 0)
		return false;
	*free_now = (struct disk_use){ (uint64_t)root.f_bfree * root.f_frsize, root.f_ffree };
	return true;
}

/* What doesn't write: removing must go on, or there would be no way back. */
static bool is_spared(pid_t pid)
{
	const struct process *process = process_running(pid);

	return pid == measurer || (process && !process->writes);
}

/* Those of the warden's own are ended each by itself. */
static bool is_operation(pid_t pid)
{
	const struct process *process = process_running(pid);

	return pid == measurer || (process && process->flags & SPAWN_BUILTIN);
}

static void note_reason(struct process *process, void *context)
{
	(void)context;
	if (process->writes && !process->reaped && process->reason == RUNS)
		process->reason = DISK_FULL;
}

static void end_tree(struct process *process, void *context)
{
	(void)context;
	if (!process->writes || process->reaped || process->ending)
		return;
	/* An operation takes away what it has half written. */
	if (process->flags & SPAWN_BUILTIN)
		process_kill(process, SIGTERM, OPERATION_GRACE_MS, DISK_FULL);
	else
		process_kill(process, SIGKILL, 0, DISK_FULL);
}

/* Everything that could write, also what commands have left behind: again and again until there is nothing. */
static void end_writers(struct timer *timer)
{
	process_each(note_reason, NULL);
	if (mark_signal_all(SIGKILL, is_operation) > 0)
		timer_set(timer, KILL_STEP_MS);
	process_each(end_tree, NULL);
	halted = false;
	just_ended = true;
}

static void halt(void)
{
	if (halted)
		mark_signal_all(SIGSTOP, is_spared); /* what somebody has had go on */
	else
		mark_stop_all(is_spared);
	halted = true;
	/* Somebody may have halted it. */
	if (measurer)
		kill(measurer, SIGCONT);
}

static void let_go_on(void)
{
	if (halted)
		kill(-1, SIGCONT);
	halted = false;
}

static uint64_t smaller(uint64_t one, uint64_t other)
{
	return one < other ? one : other;
}

/* A quarter of what is left, so that the nearer the bound is, the closer it is looked at. */
static bool has_gone(uint64_t before, uint64_t now, uint64_t left, uint64_t least)
{
	uint64_t enough = left / 4 > least ? left / 4 : least;

	return before > now && before - now >= enough;
}

static bool has_much_gone(const struct disk_use *free_now)
{
	struct disk_use left = { bound.most.bytes - smaller(used.bytes, bound.most.bytes),
				 bound.most.inodes - smaller(used.inodes, bound.most.inodes) };

	return has_gone(free_then.bytes, free_now->bytes, left.bytes, LEAST_BYTES) ||
	       has_gone(free_then.inodes, free_now->inodes, left.inodes, LEAST_INODES);
}

/* What is full when the sandbox is started again is no fault of what runs, which may be about to remove it. */
static bool has_grown(bool was_full, bool was_measured)
{
	struct disk_use now;

	if (was_full)
		return used.bytes > low.bytes + SLACK_BYTES || used.inodes > low.inodes + SLACK_INODES;
	return was_measured || !read_free(&now) || has_gone(free_first.bytes, now.bytes, 0, LEAST_BYTES) ||
	       has_gone(free_first.inodes, now.inodes, 0, LEAST_INODES);
}

static void judge(bool was_measured)
{
	bool was_full = full;

	full = used.bytes > bound.most.bytes || used.inodes > bound.most.inodes;
	if (!full) {
		let_go_on();
		return;
	}
	/* What has just been ended may have written yet after it was counted. */
	if (was_full && just_ended) {
		low = used;
		just_ended = false;
		let_go_on();
		return;
	}
	if (has_grown(was_full, was_measured))
		end_writers(&kill_timer);
	else
		let_go_on();
	low.bytes = was_full ? smaller(low.bytes, used.bytes) : used.bytes;
	low.inodes = was_full ? smaller(low.inodes, used.inodes) : used.inodes;
}

static void measure(struct disk_use free_now);

static void on_answer(struct watch *watch, uint32_t events)
{
	struct result result;
	ssize_t length = read(watch->fd, &result, sizeof result);
	bool was_measured;

	(void)events;
	if (length < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	watch_stop(watch);
	close(watch->fd);
	watch->fd = -1;
	/* Somebody has killed it, as for want of memory, or moves about what is measured: not while all is halted. */
	if (length != sizeof result || !result.complete) {
		if (!halted && busy) {
			halt();
			measure(free_then);
			return;
		}
		if (length != sizeof result) {
			let_go_on();
			return;
		}
	}
	was_measured = measured;
	measured = true;
	used = result.use;
	judge(was_measured);
}

static _Noreturn void run_measurer(int out)
{
	struct result result;
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (dup2(out, 1) < 0 || confine_measuring() < 0)
		_exit(1);
	spawn_close_the_rest();
	result.complete = disk_measure(&result.use, bound.since_ms, 2 * bound.most.inodes + BEYOND_INODES);
	_exit(write(1, &result, sizeof result) == sizeof result ? 0 : 1);
}

/* No process can be made to look: at the limit of processes, or of memory. */
static void do_without(struct disk_use free_now)
{
	uint64_t left = bound.most.bytes - smaller(used.bytes, bound.most.bytes);

	if (free_then.bytes > free_now.bytes && free_then.bytes - free_now.bytes > left)
		end_writers(&kill_timer);
	else
		let_go_on();
}

static void measure(struct disk_use free_now)
{
	int fds[2];
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC) < 0) {
		do_without(free_now);
		return;
	}
	pid = fork();
	if (pid == 0)
		run_measurer(fds[1]);
	close(fds[1]);
	if (pid < 0) {
		close(fds[0]);
		do_without(free_now);
		return;
	}
	measurer = pid;
	begun_ms = now_ms();
	free_then = free_now;
	settled = !busy;
	fcntl(fds[0], F_SETFL, O_NONBLOCK);
	answer = (struct watch){ .fd = fds[0], .ready = on_answer };
	watch_for(&answer, EPOLLIN);
}

static bool is_due(struct disk_use free_now)
{
	int64_t age = now_ms() - begun_ms;

	if (free_now.bytes == free_then.bytes && free_now.inodes == free_then.inodes)
		return false;
	if (full)
		return age >= 2 * LOOK_MS && (busy || !settled);
	if (has_much_gone(&free_now))
		return busy || !settled;
	return age >= (busy ? SELDOM_MS : AT_REST_MS) && (busy || !settled);
}

static bool must_halt(int64_t age)
{
	struct disk_use free_now;

	return age >= TOO_SLOW_MS || (age >= SLOW_MS && (!read_free(&free_now) || has_much_gone(&free_now)));
}

static void on_look(struct timer *timer)
{
	struct disk_use free_now;
	bool changed;

	if (answer.fd >= 0) {
		int64_t age = now_ms() - begun_ms;

		if (age >= GIVE_UP_MS && measurer)
			kill(measurer, SIGKILL);
		else if (halted || must_halt(age))
			halt();
	} else if (read_free(&free_now)) {
		changed = free_now.bytes != free_then.bytes || free_now.inodes != free_then.inodes;
		if (is_due(free_now))
			measure(free_now);
		else if (!busy && (settled || !changed))
			return; /* until something runs again */
	}
	timer_set(timer, LOOK_MS);
}

void disk_settle(bool has_children)
{
	if (bound.most.bytes == 0)
		return;
	if (measurer == 0)
		busy = has_children;
	if (busy)
		settled = false;
	if (busy && !timer_is_set(&look_timer))
		timer_set(&look_timer, LOOK_MS);
}

void disk_reaped(pid_t pid)
{
	if (pid == measurer)
		measurer = 0;
}

void disk_open(const struct disk_bound *given)
{
	bound = *given;
	look_timer.fire = on_look;
	kill_timer.fire = end_writers;
	read_free(&free_then);
	free_first = free_then;
}
