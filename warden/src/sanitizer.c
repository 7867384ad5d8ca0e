/* The build that finds its own faults keeps what is freed for a while, to notice a use of it. By default that is as
 * much as a whole sandbox has, which the kernel would then end for it. */
#ifdef __SANITIZE_ADDRESS__
const char *__asan_default_options(void);

const char *__asan_default_options(void)
{
	return "quarantine_size_mb=16";
}
#endif
