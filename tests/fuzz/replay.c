/* replay.c - main() for a fuzz target without libFuzzer: each file named, and each file of each directory
 * named, is given once. So `make check` runs the corpora with any compiler. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned n_files;

static int
replay_file(const char *path)
{
	FILE *in = fopen(path, "rb");
	uint8_t *data;
	long size;

	if (in == NULL) {
		perror(path);
		return 1;
	}
	fseek(in, 0, SEEK_END);
	size = ftell(in);
	rewind(in);
	data = malloc(size > 0 ? (size_t)size : 1);
	if (data == NULL || size < 0 || fread(data, 1, (size_t)size, in) != (size_t)size) {
		fprintf(stderr, "%s: cannot be read\n", path);
		return 1;
	}
	fclose(in);
	(void)LLVMFuzzerTestOneInput(data, (size_t)size);
	free(data);
	n_files++;
	return 0;
}

static int
replay(const char *path)
{
	struct dirent *entry;
	struct stat st;
	int failed = 0;
	DIR *dir;

	if (stat(path, &st) < 0 || !S_ISDIR(st.st_mode))
		return replay_file(path);
	dir = opendir(path);
	if (dir == NULL) {
		perror(path);
		return 1;
	}
	while ((entry = readdir(dir)) != NULL) {
		char name[4096];

		if (entry->d_name[0] == '.')
			continue;
		snprintf(name, sizeof(name), "%s/%s", path, entry->d_name);
		failed |= replay_file(name);
	}
	closedir(dir);
	return failed;
}

int
main(int argc, char **argv)
{
	int failed = 0;

	for (int i = 1; i < argc; i++)
		if (argv[i][0] != '-') /* libFuzzer's options */
			failed |= replay(argv[i]);
	printf("%u inputs\n", n_files);
	return failed;
}
