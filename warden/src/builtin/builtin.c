#include "builtin.h"

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

static const struct {
	const char *name;
	builtin_run *run;
	bool writes;
} builtins[] = {
	{ "read", builtin_read, false },
	{ "write", builtin_write, true },
	{ "append", builtin_append, true },
	{ "stat", builtin_stat, false },
	{ "list", builtin_list, false },
	{ "mkdir", builtin_mkdir, true },
	{ "rename", builtin_rename, false },
	{ "remove", builtin_remove, false },
	{ "chmod", builtin_chmod, false },
	{ "watch", builtin_watch, false },
	{ "pack", builtin_pack, false },
	{ "unpack", builtin_unpack, true },
	{ "dial", builtin_dial, false },
	{ "probe", builtin_probe, false },
};

builtin_run *builtin_find(const char *name)
{
	for (size_t i = 0; i < sizeof(builtins) / sizeof(*builtins); i++)
		if (!strcmp(builtins[i].name, name))
			return builtins[i].run;
	return NULL;
}

bool builtin_writes(const char *name)
{
	for (size_t i = 0; i < sizeof(builtins) / sizeof(*builtins); i++)
		if (!strcmp(builtins[i].name, name))
			return builtins[i].writes;
	return false;
}
