#include "builtin.h"

#include <stddef.h>
#include <string.h>

static const struct {
	const char *name;
	builtin_run *run;
} builtins[] = {
	{ "read", builtin_read },
	{ "write", builtin_write },
	{ "append", builtin_append },
	{ "stat", builtin_stat },
	{ "list", builtin_list },
	{ "mkdir", builtin_mkdir },
	{ "rename", builtin_rename },
	{ "remove", builtin_remove },
	{ "chmod", builtin_chmod },
	{ "watch", builtin_watch },
	{ "pack", builtin_pack },
	{ "unpack", builtin_unpack },
	{ "dial", builtin_dial },
	{ "probe", builtin_probe },
};

builtin_run *builtin_find(const char *name)
{
	for (size_t i = 0; i < sizeof(builtins) / sizeof(*builtins); i++)
		if (!strcmp(builtins[i].name, name))
			return builtins[i].run;
	return NULL;
}
