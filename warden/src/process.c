/* The table of processes: those that run, and those that have ended and are remembered. */
#include "process.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "builtin/builtin.h"
#include "mark.h"
#include "usage.h"

#define BUCKETS 1024u
#define ENDED_MAX 1024
#define ENDED_BYTES_MAX (4u << 20)
#define LISTED_ARGV_MAX 2048

static struct process *by_id[BUCKETS];
static struct process *by_pid[BUCKETS];
static struct process *ended_first, **ended_end = &ended_first;
static int running, ended_count;

static struct process **bucket_of(const char *id, size_t length)
{
	uint32_t hash = 2166136261u;

	for (size_t i = 0; i < length; i++)
		hash = (hash ^ (uint8_t)id[i]) * 16777619u;
	return &by_id[hash % BUCKETS];
}

struct process *process_find(struct text id)
{
	struct process *process = *bucket_of(id.at, id.length);

	while (process && (strlen(process->id) != id.length || memcmp(process->id, id.at, id.length) != 0))
		process = process->next;
	return process;
}

void process_each(void (*act)(struct process *process, void *context), void *context)
{
	for (size_t i = 0; i < BUCKETS; i++)
		for (struct process *process = by_id[i], *next; process; process = next) {
			next = process->next;
			act(process, context);
		}
}

struct process *process_running(pid_t pid)
{
	struct process *process = by_pid[(uint32_t)pid % BUCKETS];

	while (process && process->pid != pid)
		process = process->next_of_pid;
	return process;
}

bool process_is_main(pid_t pid)
{
	return process_running(pid) != NULL;
}

int process_count(void)
{
	return running;
}

static void on_timeout(struct timer *timer)
{
	struct process *process = CONTAINER_OF(timer, struct process, timeout);

	process_kill(process, SIGTERM, process->grace_ms, TIMED_OUT);
}

/* What is shown of it in lists. */
static void remember_argv(struct process *process, char *const *argv)
{
	size_t left = LISTED_ARGV_MAX;
	uint32_t count = 0;

	out_u32(&process->argv, 0);
	for (; *argv && left > 0; argv++, count++) {
		size_t length = strnlen(*argv, left);

		out_text(&process->argv, *argv, length);
		left -= length;
	}
	memcpy(process->argv.data, &(uint8_t[4]){ (uint8_t)count, (uint8_t)(count >> 8), (uint8_t)(count >> 16) }, 4);
}

static struct process *make(const struct spawn_request *request)
{
	struct process *process = must(calloc(1, sizeof *process));

	strcpy(process->id, request->id);
	process->flags = request->flags;
	process->limit = request->limit;
	process->grace_ms = request->grace_ms;
	process->writes = !(request->flags & SPAWN_BUILTIN) || builtin_writes(request->argv[0]);
	process->input.watch.fd = -1;
	process->input.closed = !(request->flags & (SPAWN_STDIN | SPAWN_TTY));
	for (int i = 0; i < 2; i++) {
		process->output[i].process = process;
		process->output[i].stream = (uint8_t)(i + 1);
		process->output[i].watch.fd = -1;
	}
	process->oom_kills = usage_oom_kills();
	process->started_us = now_us();
	process->started_wall_ms = wall_ms();
	process->timeout.fire = on_timeout;
	return process;
}

int process_spawn(const struct spawn_request *request, struct process **found, enum stage *stage)
{
	struct process *process = make(request), **bucket;
	int error = spawn_start(process, request, stage);

	if (error) {
		free(process);
		return error;
	}
	remember_argv(process, request->argv);
	bucket = bucket_of(process->id, strlen(process->id));
	process->next = *bucket;
	*bucket = process;
	bucket = &by_pid[(uint32_t)process->pid % BUCKETS];
	process->next_of_pid = *bucket;
	*bucket = process;
	running++;
	if (request->timeout_ms)
		timer_set(&process->timeout, request->timeout_ms);
	*found = process;
	return 0;
}

int process_signal(struct process *process, int signal, bool tree)
{
	if (signal <= 0 || signal >= 64)
		return EINVAL;
	process->sent_signals |= 1ull << signal;
	if (tree)
		mark_signal(process->mark, signal);
	else if (!process->reaped)
		kill(process->pid, signal);
	return 0;
}

static void unlink_from(struct process **link, const struct process *process, bool of_pid)
{
	while (*link && *link != process)
		link = of_pid ? &(*link)->next_of_pid : &(*link)->next;
	if (*link)
		*link = of_pid ? process->next_of_pid : process->next;
}

void process_runs_no_more(struct process *process)
{
	unlink_from(&by_pid[(uint32_t)process->pid % BUCKETS], process, true);
	running--;
}

static void forget(struct process *process)
{
	struct process **link = &ended_first;

	unlink_from(bucket_of(process->id, strlen(process->id)), process, false);
	while (*link && *link != process)
		link = &(*link)->next_ended;
	if (*link) {
		*link = process->next_ended;
		if (process->next_ended == NULL)
			ended_end = link;
		ended_count--;
	}
	timer_stop(&process->timeout);
	timer_stop(&process->kill);
	timer_stop(&process->drain);
	timer_stop(&process->orphan);
	input_close(process);
	for (int i = 0; i < 2; i++)
		output_close(&process->output[i]);
	ring_clear(&process->ring);
	out_free(&process->argv);
	free(process);
}

/* Whether nothing would be lost that somebody uses: also not the output of what was left, which would get SIGPIPE. */
static bool is_idle(const struct process *process)
{
	return !process->readers && !process->waiters && !process->ending && !output_is_open(&process->output[0]) &&
	       !output_is_open(&process->output[1]);
}

int process_forget(struct process *process)
{
	if (!process->reaped || process->ending)
		return EBUSY;
	if (process->readers || process->waiters)
		return EBUSY;
	forget(process);
	return 0;
}

/* The output of those that ended longest ago goes first, then what is known of them. */
static void keep_bounds(void)
{
	size_t bytes = 0;

	for (struct process *process = ended_first; process; process = process->next_ended)
		bytes += process->ring.bytes;
	for (struct process *process = ended_first; process && bytes > ENDED_BYTES_MAX; process = process->next_ended) {
		if (process->readers)
			continue;
		bytes -= process->ring.bytes;
		ring_clear(&process->ring);
	}
	/* Not the one that has just been added, which its caller is still busy with. */
	for (struct process *process = ended_first, *next; ended_count > ENDED_MAX; process = next) {
		next = process->next_ended;
		if (next == NULL)
			break;
		if (is_idle(process))
			forget(process);
	}
}

void process_remember(struct process *process)
{
	process->next_ended = NULL;
	*ended_end = process;
	ended_end = &process->next_ended;
	ended_count++;
	keep_bounds();
}

void process_forget_unused(struct process *process)
{
	if (process->ended && is_idle(process))
		forget(process);
}
