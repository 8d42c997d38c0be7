/* Any text is a configuration, or at least one problem is told; and what is taken prints to text
 * that is taken, and prints the same. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/base.h"
#include "base/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
count_problem(void *arg, const char *text)
{
	for (const char *p = text; *p != '\0'; p++)
		assert((unsigned char)*p >= 0x20 && *p != 0x7f);
	assert(text[0] != '\0');
	++*(unsigned *)arg;
}

/* NULL: refused. */
static struct config *
load(const void *data, size_t size)
{
	struct config *config = NULL;
	unsigned problems = 0;
	int fd = memfd_create("fuzz", MFD_CLOEXEC);
	int r;

	assert(fd >= 0 && write(fd, data, size) == (ssize_t)size);
	r = config_load_fd(fd, count_problem, &problems, &config);
	assert((r == 0) == (problems == 0) && (r == 0) == (config != NULL));
	close(fd);
	return config;
}

static char *
print(const struct config *config, size_t *len)
{
	char *text;
	FILE *out = open_memstream(&text, len);

	assert(config_print(config, out, false) == 0);
	fclose(out);
	return text;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct config *config, *again;
	size_t len, again_len;
	char *text, *again_text;

	if (memmem(data, size, "include", 7) !=
	    NULL) /* the files of this machine are not the input */
		return 0;
	config = load(data, size);
	if (config == NULL)
		return 0;
	text = print(config, &len);
	again = load(text, len);
	assert(again != NULL);
	again_text = print(again, &again_len);
	assert(len == again_len && memcmp(text, again_text, len) == 0);
	free(text);
	free(again_text);
	config_free(config);
	config_free(again);
	return 0;
}
