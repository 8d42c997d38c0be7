/* nest - runs a command and stays until it and all that came from it have ended.
 *
 *   nest COMMAND [ARGUMENT...]
 *
 * What loses its parent below it becomes its child (PR_SET_CHILD_SUBREAPER): so daemons and what they
 * leave behind stay one tree, whose processor time is that of the living plus what this process has
 * collected from the dead. */
#include <err.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

int
main(int argc, char **argv)
{
	pid_t child;

	if (argc < 2)
		errx(2, "which command?");
	if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0)
		err(1, "PR_SET_CHILD_SUBREAPER");
	child = fork();
	if (child < 0)
		err(1, "fork");
	if (child == 0) {
		execvp(argv[1], argv + 1);
		err(127, "%s", argv[1]);
	}
	while (wait(NULL) >= 0 || errno == EINTR)
		;
	return 0;
}
