#include "inotify_queue.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

/* How long the second half of a rename may take to come after the first. */
#define PARTNER_MS 20
#define EVENTS ((size_t)64 * 1024)

static char events[EVENTS] __attribute__((aligned(__alignof__(struct inotify_event))));
/* What was read and not yet taken. Up to `waited` the second half of any rename had time to come. */
static size_t start, end, waited;

int inotify_queue_read(int inotify)
{
	ssize_t got;

	memmove(events, events + start, end - start);
	end -= start;
	waited -= waited < start ? waited : start;
	start = 0;
	/* Too little room for one event is EINVAL. */
	got = read(inotify, events + end, EVENTS - end);
	if (got > 0)
		end += (size_t)got;
	else if (errno != EAGAIN && errno != EINTR && errno != EINVAL)
		return errno;
	return 0;
}

static struct inotify_event *event_at(size_t offset)
{
	return (struct inotify_event *)(void *)(events + offset);
}

static size_t event_size(const struct inotify_event *event)
{
	return sizeof(*event) + event->len;
}

const struct inotify_event *inotify_queue_next(void)
{
	const struct inotify_event *event = event_at(start);

	if (start == end)
		return NULL;
	start += event_size(event);
	return event;
}

void inotify_queue_clear(void)
{
	start = end = waited = 0;
}

/* The other half of a rename among what was read. */
static struct inotify_event *find_partner(uint32_t cookie)
{
	for (size_t at = start; at < end; at += event_size(event_at(at)))
		if ((event_at(at)->mask & IN_MOVED_TO) && event_at(at)->cookie == cookie)
			return event_at(at);
	return NULL;
}

/* Waits for it once, if it hadn't time enough to come. */
struct inotify_event *inotify_queue_partner(int inotify, uint32_t cookie)
{
	struct inotify_event *partner = find_partner(cookie);
	struct pollfd more = { .fd = inotify, .events = POLLIN };

	if (partner || start < waited)
		return partner;
	waited = end;
	for (int i = 0; i < PARTNER_MS && !partner; i++) {
		if (poll(&more, 1, 1) > 0)
			inotify_queue_read(inotify);
		partner = find_partner(cookie);
	}
	return partner;
}
