/* How processes end: by themselves, or by being killed with all that they started; and who is told. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>

#include "disk.h"
#include "init.h"
#include "mark.h"
#include "process.h"
#include "record.h"
#include "tunnel.h"
#include "usage.h"

/* How often a tree that is to end is looked at. */
#define KILL_STEP_MS 5
#define QUIET_MS 50
#define DRAIN_MS 500

/* Out-of-memory kills that were put down to a process. */
static uint64_t oom_kills_told;

static void answer_waiters(struct process *process)
{
	struct waiter **link = &process->waiters;

	while (*link) {
		struct waiter *waiter = *link;

		if (process->ending || !process->reaped || process->ended_by_end) {
			link = &waiter->next;
			continue;
		}
		*link = waiter->next;
		if (waiter->for_tree)
			tunnel_put_done(waiter->tunnel, waiter->stream);
		else
			process_put_exit(process, tunnel_answer(waiter->tunnel), waiter->stream);
		free(waiter);
	}
}

void process_wait(struct process *process, struct tunnel *tunnel, uint32_t stream, bool for_tree)
{
	struct waiter *waiter = must(malloc(sizeof *waiter));

	*waiter = (struct waiter){ .next = process->waiters, .tunnel = tunnel, .stream = stream, .for_tree = for_tree };
	process->waiters = waiter;
	answer_waiters(process);
}

static void drop_waiters(struct process *process, void *tunnel)
{
	for (struct waiter **link = &process->waiters; *link;) {
		struct waiter *waiter = *link;

		if (waiter->tunnel != tunnel) {
			link = &waiter->next;
			continue;
		}
		*link = waiter->next;
		free(waiter);
	}
}

void process_drop_waiters(struct tunnel *tunnel)
{
	process_each(drop_waiters, tunnel);
}

/* The process has ended, or its tree where that was to: what it has printed before is there to be read. */
static void conclude(struct process *process)
{
	answer_waiters(process);
	for (int i = 0; i < 2; i++)
		if (output_is_open(&process->output[i]) && !process->output[i].paused)
			output_read(&process->output[i]);
	process_drained(process);
}

/* Of a process of root's: what has shed the mark is mostly in its session yet. Once it has been reaped, and nothing was
 * ended, another may come to have that number. */
static int signal_tree(const struct process *process, int signal)
{
	pid_t session = process->root ? process->pid : 0;

	return mark_signal_session(process->mark, session, signal);
}

static void kill_step(struct timer *timer)
{
	struct process *process = CONTAINER_OF(timer, struct process, kill);
	int64_t begun = now_ms();
	int found = signal_tree(process, begun >= process->kill_at ? SIGKILL : 0);

	/* A process that is just being made doesn't bear its mark yet. */
	if (!process->reaped && begun >= process->kill_at)
		kill(process->pid, SIGKILL);
	if (found > 0 || !process->reaped) {
		int64_t took = now_ms() - begun;

		/* At least half of the time is left for everything else. */
		timer_set(timer, took > KILL_STEP_MS ? took : KILL_STEP_MS);
		return;
	}
	process->ending = false;
	process->root = false;
	conclude(process);
}

void process_kill(struct process *process, int signal, uint32_t grace_ms, enum outcome reason)
{
	int64_t at = now_ms() + (signal == SIGKILL ? 0 : grace_ms);

	if (!process->reaped && process->reason == RUNS)
		process->reason = reason;
	if (!process->ending || at < process->kill_at)
		process->kill_at = at;
	timer_stop(&process->timeout);
	process->ending = true;
	process->kill.fire = kill_step;
	if (signal != SIGKILL) {
		signal_tree(process, signal);
		timer_set(&process->kill, KILL_STEP_MS);
	} else {
		kill_step(&process->kill);
	}
}

static bool was_oom_killed(const struct process *process)
{
	bool by_signal = WIFSIGNALED(process->status) && WTERMSIG(process->status) == SIGKILL;
	/* How a shell tells that what it ran was killed. */
	bool by_code = WIFEXITED(process->status) && WEXITSTATUS(process->status) == 128 + SIGKILL;
	uint64_t before = process->oom_kills > oom_kills_told ? process->oom_kills : oom_kills_told;

	if ((!by_signal && !by_code) || usage_oom_kills() <= before)
		return false;
	oom_kills_told = before + 1;
	return true;
}

static enum outcome judge(const struct process *process)
{
	if (process->reason != RUNS)
		return process->reason;
	if (WIFSIGNALED(process->status) && (process->sent_signals >> WTERMSIG(process->status)) & 1)
		return KILLED;
	if (was_oom_killed(process))
		return OOM_KILLED;
	return WIFSIGNALED(process->status) ? SIGNALED : EXITED;
}

enum outcome process_outcome(const struct process *process)
{
	return process->reaped && !process->ending ? process->outcome : RUNS;
}

static void end(struct process *process)
{
	timer_stop(&process->drain);
	for (int i = 0; i < 2; i++)
		output_flush(&process->output[i]);
	process->ended = true;
	input_close(process);
	output_resume(process);
	for (struct reader *reader = process->readers; reader; reader = reader->next)
		tunnel_queue(reader);
	process_remember(process);
	record_note_activity();
}

static void on_quiet(struct timer *timer)
{
	end(CONTAINER_OF(timer, struct process, drain));
}

void process_drained(struct process *process)
{
	bool open = false, paused = false;
	int64_t left;

	if (!process->reaped || process->ending || process->ended)
		return;
	for (int i = 0; i < 2; i++) {
		open |= output_is_open(&process->output[i]);
		paused |= output_is_open(&process->output[i]) && process->output[i].paused;
	}
	/* What its readers have no room for yet is still to come, however long they take. Of what was killed, and
	 * nobody reads, there is enough. */
	if (paused && (process->readers || process->reason == RUNS)) {
		timer_stop(&process->drain);
		process->drain_until = 0;
		return;
	}
	if (paused) {
		end(process);
		return;
	}
	if (!open) {
		end(process);
		return;
	}
	if (process->drain_until == 0)
		process->drain_until = now_ms() + DRAIN_MS;
	left = process->drain_until - now_ms();
	process->drain.fire = on_quiet;
	if (left <= 0)
		end(process);
	else
		timer_set(&process->drain, left < QUIET_MS ? left : QUIET_MS);
}

/* With what operations say that were asked to give up. */
static bool is_ended_by_end(const struct process *process)
{
	bool gave_up = process->flags & SPAWN_BUILTIN && WIFEXITED(process->status) && WEXITSTATUS(process->status) == EINTR;

	return init_is_ending() && (process->outcome == SIGNALED || gave_up);
}

static void reaped(struct process *process, int status, const struct rusage *usage)
{
	process_runs_no_more(process);
	process->reaped = true;
	process->reaped_us = now_us();
	process->status = status;
	process->usage = *usage;
	process->outcome = judge(process);
	process->ended_by_end = is_ended_by_end(process);
	record_note_activity();
	timer_stop(&process->timeout);
	timer_stop(&process->orphan);
	if (process->reason == RUNS)
		process->left = mark_left(process->mark, process_is_main);
	if (!process->ending) {
		process->root = false;
		conclude(process);
	}
}

bool process_reap(void)
{
	for (;;) {
		struct rusage usage;
		int status;
		pid_t pid = wait4(-1, &status, WNOHANG | __WALL, &usage);
		struct process *process;

		if (pid <= 0)
			return pid == 0 || errno != ECHILD;
		process = process_running(pid);
		if (process)
			reaped(process, status, &usage);
		else
			disk_reaped(pid);
	}
}

static uint64_t micros(struct timeval time)
{
	return (uint64_t)time.tv_sec * 1000000 + (uint64_t)time.tv_usec;
}

void process_put_exit(struct process *process, struct out *out, uint32_t stream)
{
	size_t frame = frame_begin(out, F_EXIT, stream);

	out_u64(out, process->ring.last_seq);
	out_u8(out, (uint8_t)process->outcome);
	out_u8(out, process->left);
	out_u32(out, WIFEXITED(process->status) ? (uint32_t)WEXITSTATUS(process->status) : UINT32_MAX);
	out_u32(out, WIFSIGNALED(process->status) ? (uint32_t)WTERMSIG(process->status) : 0);
	out_u64(out, (uint64_t)(process->reaped_us - process->started_us));
	out_u64(out, micros(process->usage.ru_utime));
	out_u64(out, micros(process->usage.ru_stime));
	out_u64(out, (uint64_t)process->usage.ru_maxrss * 1024);
	out_u64(out, process->output[0].total);
	out_u64(out, process->output[1].total);
	frame_end(out, frame);
}
