/* replay_words.c - drives a fuzz target without libFuzzer, so that every build runs it: files and
 * directories that are named, and random texts made of the words in the first file (a dictionary of
 * libFuzzer) behind four bytes of options (fuzz_server.c). */
#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { SIZE_MAX_BYTES = 1 << 20, ROUNDS = 20000 };

static unsigned n_files;

static size_t
read_file(const char *path, uint8_t *out)
{
	FILE *f = fopen(path, "re");
	size_t n;

	if (f == NULL) {
		perror(path);
		exit(2);
	}
	n = fread(out, 1, SIZE_MAX_BYTES, f);
	fclose(f);
	return n;
}

static void
run_file(const char *path)
{
	uint8_t *data = malloc(SIZE_MAX_BYTES);
	size_t n = read_file(path, data);
	uint8_t *exact = malloc(n > 0 ? n : 1); /* so that a sanitizer sees one byte too much */

	memcpy(exact, data, n);
	LLVMFuzzerTestOneInput(exact, n);
	free(exact);
	free(data);
	n_files++;
}

static void
run_path(const char *path)
{
	DIR *dir = opendir(path);
	struct dirent *entry;
	char inner[4096];

	if (dir == NULL) {
		run_file(path);
		return;
	}
	while ((entry = readdir(dir)) != NULL)
		if (entry->d_name[0] != '.') {
			snprintf(inner, sizeof(inner), "%s/%s", path, entry->d_name);
			run_path(inner);
		}
	closedir(dir);
}

/* The words of a libFuzzer dictionary: in quotes, with \\, \" and \xHH. */
struct words {
	uint8_t text[256][128];
	size_t len[256], n;
};

static size_t
read_word(const char *in, uint8_t *out)
{
	size_t n = 0;

	for (; *in != '\0' && *in != '"'; in++) {
		if (*in == '\\' && in[1] == 'x' && in[2] != '\0' && in[3] != '\0') {
			const char hex[3] = { in[2], in[3], '\0' };

			out[n++] = (uint8_t)strtoul(hex, NULL, 16);
			in += 3;
			continue;
		}
		in += *in == '\\' && in[1] != '\0';
		out[n++] = (uint8_t)*in;
	}
	return n;
}

static void
read_words(const char *path, struct words *w)
{
	FILE *f = fopen(path, "re");
	char line[128];

	if (f == NULL) {
		perror(path);
		exit(2);
	}
	while (w->n < 256 && fgets(line, sizeof(line), f) != NULL)
		if (line[0] == '"') {
			w->len[w->n] = read_word(line + 1, w->text[w->n]);
			w->n++;
		}
	fclose(f);
}

static uint32_t
next_random(uint32_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 17;
	*seed ^= *seed << 5;
	return *seed;
}

static void
run_words(const struct words *w)
{
	uint8_t *text = malloc(65536);
	uint32_t seed = 0x5eed;

	for (unsigned round = 0; round < ROUNDS; round++) {
		size_t n = 4, count = next_random(&seed) % 60;

		for (size_t i = 0; i < 4; i++)
			text[i] = (uint8_t)(next_random(&seed) & next_random(&seed));
		if (next_random(&seed) % 4 != 0)
			text[3] = 0; /* most bodies are wanted */
		while (count-- > 0) {
			const size_t i = next_random(&seed) % w->n;

			memcpy(text + n, w->text[i], w->len[i]);
			n += w->len[i];
		}
		LLVMFuzzerTestOneInput(text, n);
	}
	free(text);
}

int
main(int argc, char **argv)
{
	static struct words words;

	if (argc < 2)
		return 2;
	read_words(argv[1], &words);
	if (words.n > 0)
		run_words(&words);
	for (int i = 2; i < argc; i++)
		run_path(argv[i]);
	printf("%u files and %d random texts\n", n_files, ROUNDS);
	return 0;
}
