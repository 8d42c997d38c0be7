/* test_cgroup_search.c - a process is found by its number in a tree of lists, as cgroup2 has them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/base.h"
#include "intake/cgroup_search.h"

static char root[] = "/tmp/test_cgroup_search.XXXXXX";

static void
make(const char *path, const char *processes)
{
	char *directory = xasprintf("%s/%s", root, path);
	char *list = xasprintf("%s/cgroup.procs", directory);
	FILE *out;

	(void)mkdir(directory, 0755);
	out = fopen(list, "w");
	assert_non_null(out);
	fputs(processes, out);
	fclose(out);
	free(list);
	free(directory);
}

static int
make_tree(void **state)
{
	(void)state;
	assert_non_null(mkdtemp(root));
	make("", "1\n");
	make("system.slice", "");
	make("system.slice/cron.service", "812\n1234\n");
	make("system.slice/many.service", "");
	make("user.slice", "99\nno number\n");
	return 0;
}

static int
remove_tree(void **state)
{
	char *command = xasprintf("rm -r %s", root);
	int r = system(command);

	(void)state;
	free(command);
	return r;
}

static void
a_process_is_found_by_its_whole_number(void **state)
{
	static const struct {
		pid_t pid;
		const char *path; /* NULL: nowhere */
	} cases[] = { { 1, "" }, { 812, "system.slice/cron.service" },
		{ 1234, "system.slice/cron.service" }, { 99, "user.slice" }, { 12, NULL },
		{ 9, NULL }, { 81, NULL } };
	char path[256];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		bool found = cgroup_search(root, cases[i].pid, path, sizeof(path));

		assert_int_equal(found, cases[i].path != NULL);
		if (found)
			assert_string_equal(path, cases[i].path);
	}
}

static void
a_long_list_is_read_to_its_end(void **state)
{
	char *list = xcalloc(1, 40000);
	size_t len = 0;

	(void)state;
	for (int pid = 10000; pid < 15000; pid++)
		len += (size_t)sprintf(list + len, "%d\n", pid);
	make("system.slice/many.service", list);
	free(list);
	assert_true(cgroup_search_has(root, "system.slice/many.service", 14999));
	assert_true(
	    cgroup_search_has(root, "system.slice/many.service", 10683)); /* over the edge */
	assert_false(cgroup_search_has(root, "system.slice/many.service", 15000));
	assert_false(cgroup_search_has(root, "gone.service", 14999));
}

static void
a_path_that_does_not_fit_is_passed_over(void **state)
{
	char path[8];

	(void)state;
	assert_false(cgroup_search(root, 812, path, sizeof(path)));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_process_is_found_by_its_whole_number),
		cmocka_unit_test(a_long_list_is_read_to_its_end),
		cmocka_unit_test(a_path_that_does_not_fit_is_passed_over),
	};

	return cmocka_run_group_tests(tests, make_tree, remove_tree);
}
