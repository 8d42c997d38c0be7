/* Passwords from files: read again when changed, believed only from their owner, one newline off. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/stat.h>
#include <setjmp.h>
#include <cmocka.h>

#include "base/base.h"
#include "delivery/secret.h"

static char directory[] = "/tmp/relayd-secret.XXXXXX";
static char path[64];

static void
write_file(const char *bytes, size_t len, mode_t mode)
{
	char temporary[80];
	int fd;

	snprintf(temporary, sizeof(temporary), "%s.new", path);
	unlink(temporary);
	fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL, mode);
	assert_true(fd >= 0);
	assert_int_equal(fchmod(fd, mode), 0);
	assert_int_equal(write(fd, bytes, len), (ssize_t)len);
	close(fd);
	assert_int_equal(rename(temporary, path), 0);
}

static void
assert_secret(struct secret *s, const char *expected)
{
	struct span out = { NULL, 0 };

	assert_int_equal(secret_get(s, &out), 0);
	assert_int_equal(out.len, strlen(expected));
	assert_memory_equal(out.data, expected, out.len);
}

static void
one_newline_is_stripped_and_no_more(void **state)
{
	static const struct {
		const char *file, *secret;
	} rows[] = { { "pass word#:\n", "pass word#:" }, { "no newline", "no newline" },
		{ "two\n\n", "two\n" }, { " spaces \n", " spaces " }, { "cr\r\n", "cr\r" } };
	struct config_upstream u = { .name = "u", .password_file = path };
	struct secret *s = secret_new(&u);

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		write_file(rows[i].file, strlen(rows[i].file), 0600);
		assert_secret(s, rows[i].secret);
		assert_false(secret_has_changed(s));
	}
	secret_free(s);
}

static void
a_changed_file_is_noticed_and_read_again(void **state)
{
	struct config_upstream u = { .name = "u", .password_file = path };
	struct secret *s = secret_new(&u);
	struct span out;

	(void)state;
	write_file("first\n", 6, 0600);
	assert_secret(s, "first");
	write_file("other\n", 6, 0600); /* same size, same second */
	assert_true(secret_has_changed(s));
	assert_secret(s, "other");
	unlink(path);
	assert_true(secret_has_changed(s));
	assert_int_equal(secret_get(s, &out), -ENOENT);
	assert_false(secret_has_changed(s));
	assert_non_null(strstr(secret_why(s), path));
	write_file("back", 4, 0600);
	assert_true(secret_has_changed(s));
	assert_secret(s, "back");
	secret_free(s);
}

static void
a_file_that_others_may_write_is_not_believed(void **state)
{
	static const struct {
		mode_t mode;
		int result;
		bool warned;
	} rows[] = { { 0600, 0, false }, { 0400, 0, false }, { 0640, 0, false }, { 0644, 0, true },
		{ 0620, -EPERM, false }, { 0602, -EPERM, false }, { 0666, -EPERM, false } };
	struct config_upstream u = { .name = "u", .password_file = path };
	struct secret *s = secret_new(&u);
	struct span out;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		write_file("secret", 6, rows[i].mode);
		assert_int_equal(secret_get(s, &out), rows[i].result);
		assert_int_equal(secret_warning(s)[0] != '\0', rows[i].warned);
		if (rows[i].result < 0)
			assert_non_null(strstr(secret_fix(s), "chmod"));
		assert_null(strstr(secret_why(s), "secret\n"));
	}
	write_file("secret", 6, 0600);
	if (geteuid() == 0) { /* else we cannot give it away */
		assert_int_equal(chown(path, 12345, 0), 0);
		assert_int_equal(secret_get(s, &out), -EPERM);
		assert_non_null(strstr(secret_fix(s), "chown"));
		assert_int_equal(chown(path, 0, 0), 0);
	}
	write_file("", 0, 0600);
	assert_int_equal(secret_get(s, &out), -ENODATA);
	secret_free(s);
}

static void
what_is_no_file_or_too_large_is_refused(void **state)
{
	static char much[20000];
	struct config_upstream u = { .name = "u", .password_file = path },
	                       d = { .name = "d", .password_file = directory };
	struct secret *s = secret_new(&u);
	struct span out;

	(void)state;
	memset(much, 'x', sizeof(much));
	write_file(much, sizeof(much), 0600);
	assert_int_equal(secret_get(s, &out), -E2BIG);
	unlink(path);
	assert_int_equal(mkfifo(path, 0600), 0); /* nobody writes: must not hang */
	assert_int_equal(secret_get(s, &out), -EINVAL);
	unlink(path);
	secret_free(s);
	s = secret_new(&d);
	assert_int_equal(secret_get(s, &out), -EINVAL);
	secret_free(s);
}

static void
a_command_s_answer_replaces_the_old_one_only_if_it_is_good(void **state)
{
	struct config_upstream u = { .name = "u", .password_command = "cat token" };
	struct secret *s = secret_new(&u);
	struct span out;

	(void)state;
	assert_int_equal(secret_get(s, &out), -EAGAIN);
	assert_false(secret_set(s, 1, SPAN("")));
	assert_int_equal(secret_get(s, &out), -EAGAIN);
	assert_non_null(strstr(secret_why(s), "exit code 1"));
	assert_true(secret_set(s, 0, SPAN("token-1")));
	assert_secret(s, "token-1");
	assert_false(secret_set(s, 0, SPAN("token-1")));
	assert_false(secret_set(s, -ETIMEDOUT, SPAN(""))); /* the old one may still do */
	assert_secret(s, "token-1");
	assert_true(secret_set(s, 0, SPAN("token-2")));
	assert_secret(s, "token-2");
	secret_free(s);
}

static void
no_secret_is_fine_where_none_is_configured(void **state)
{
	struct config_upstream u = { .name = "u" };
	struct secret *s = secret_new(&u);
	struct span out = SPAN("x");

	(void)state;
	assert_int_equal(secret_get(s, &out), 0);
	assert_null(out.data);
	secret_free(s);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_newline_is_stripped_and_no_more),
		cmocka_unit_test(a_changed_file_is_noticed_and_read_again),
		cmocka_unit_test(a_file_that_others_may_write_is_not_believed),
		cmocka_unit_test(what_is_no_file_or_too_large_is_refused),
		cmocka_unit_test(a_command_s_answer_replaces_the_old_one_only_if_it_is_good),
		cmocka_unit_test(no_secret_is_fine_where_none_is_configured),
	};
	int r;

	if (mkdtemp(directory) == NULL)
		return 99;
	snprintf(path, sizeof(path), "%s/password", directory);
	r = cmocka_run_group_tests(tests, NULL, NULL);
	unlink(path);
	rmdir(directory);
	return r;
}
