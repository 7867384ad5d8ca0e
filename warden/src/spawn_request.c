/* SPAWN, from its payload to what a process is started with. */
#include <stdlib.h>
#include <string.h>

#include "tunnel.h"

extern char **environ;

static bool is_id(struct text id)
{
	static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-";

	if (id.length == 0 || id.length > MAX_ID)
		return false;
	for (uint32_t i = 0; i < id.length; i++)
		if (id.at[i] == '\0' || !strchr(allowed, id.at[i]))
			return false;
	return true;
}

/* A list that is only looked at: how many there are, and how long they are together. */
static uint32_t skip_list(struct in *in, size_t *bytes)
{
	uint32_t count = in_u32(in);

	for (uint32_t i = 0; i < count && !in->bad; i++) {
		struct text text = in_text(in);

		if (memchr(text.at, '\0', text.length))
			in->bad = true;
		*bytes += text.length + 1;
	}
	return in->bad ? 0 : count;
}

static char *put_text(char **room, struct text text)
{
	char *at = *room;

	memcpy(at, text.at, text.length);
	at[text.length] = '\0';
	*room += text.length + 1;
	return at;
}

static bool has_name_of(char *const *list, size_t count, const char *variable)
{
	size_t length = strcspn(variable, "=") + 1;

	for (size_t i = 0; i < count; i++)
		if (strncmp(list[i], variable, length) == 0)
			return true;
	return false;
}

/* The environment of PID 1, which is the container's, with what the request adds or changes. */
static void merge_environment(char **env, size_t given, bool is_terminal)
{
	static char term[] = "TERM=xterm";
	size_t count = given;

	for (char **own = environ; *own; own++)
		if (strchr(*own, '=') && !has_name_of(env, given, *own))
			env[count++] = *own;
	if (is_terminal && !has_name_of(env, count, term))
		env[count++] = term;
	env[count] = NULL;
}

static size_t own_environment_length(void)
{
	size_t count = 0;

	while (environ[count])
		count++;
	return count;
}

static void take_list(struct in *in, char **list, char **room)
{
	uint32_t count = in_u32(in);

	for (uint32_t i = 0; i < count; i++)
		list[i] = put_text(room, in_text(in));
	list[count] = NULL;
}

static bool take_limits(struct in *in, struct spawn_request *request)
{
	request->limit_count = in_u32(in);
	if (request->limit_count > MAX_LIMITS)
		return false;
	for (uint32_t i = 0; i < request->limit_count; i++) {
		struct limit *limit = &request->limits[i];

		limit->resource = in_u32(in);
		limit->value.rlim_cur = in_u64(in);
		limit->value.rlim_max = in_u64(in);
	}
	return true;
}

static void take_numbers(struct in *in, struct spawn_request *request)
{
	request->flags = in_u32(in);
	request->uid = in_u32(in);
	request->gid = in_u32(in);
	request->timeout_ms = in_u32(in);
	request->grace_ms = in_u32(in);
	request->window = in_u32(in);
	request->limit = in_u64(in);
	request->rows = in_u16(in);
	request->columns = in_u16(in);
}

static bool root_allowed;

void request_allow_root(void)
{
	root_allowed = true;
}

/* Root is refused unless the sandbox was made for it: it can end the sandbox, and write its record. So is who could
 * signal built-in operations, and a group that could be a mark. */
static bool is_allowed(const struct spawn_request *request)
{
	bool is_root = request->uid == 0 && request->gid == 0;

	return ((request->uid != 0 && request->gid != 0) || (is_root && root_allowed)) && request->uid != UINT32_MAX &&
	       request->uid != BUILTIN_UID && request->gid < 0x40000000u &&
	       (request->flags & ~(uint32_t)SPAWN_FLAGS) == 0;
}

bool request_parse_spawn(struct in in, struct spawn_request *request)
{
	struct text id, cwd;
	struct in lists;
	size_t bytes;
	uint32_t argc, envc;
	char *room;

	memset(request, 0, sizeof *request);
	take_numbers(&in, request);
	id = in_text(&in);
	cwd = in_text(&in);
	lists = in;
	bytes = cwd.length + 1;
	argc = skip_list(&in, &bytes);
	envc = skip_list(&in, &bytes);
	if (!take_limits(&in, request) || !in_done(&in) || !is_id(id) || memchr(cwd.at, '\0', cwd.length) || argc == 0 ||
	    !is_allowed(request))
		return false;
	memcpy(request->id, id.at, id.length);
	/* The two lists, ended by NULL, then their texts. */
	request->argv = must(malloc((argc + envc + own_environment_length() + 3) * sizeof(char *) + bytes));
	request->env = request->argv + argc + 1;
	request->memory = (char *)request->argv;
	room = (char *)(request->env + envc + own_environment_length() + 2);
	request->cwd = put_text(&room, cwd);
	take_list(&lists, request->argv, &room);
	take_list(&lists, request->env, &room);
	merge_environment(request->env, envc, (request->flags & SPAWN_TTY) != 0);
	return true;
}
