/* The first process of a node and of each pod: it waits, and takes leave of the orphans that come to it.
 *
 * A first process gets no signal that it has no handler for, so SIGTERM and SIGINT have one.
 */
#include <signal.h>
#include <stddef.h>
#include <sys/wait.h>
#include <unistd.h>

static void end(int signal)
{
	(void)signal;
	_exit(0);
}

static void reap(int signal)
{
	(void)signal;
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
}

int main(void)
{
	struct sigaction ending = { .sa_handler = end };
	struct sigaction reaping = { .sa_handler = reap, .sa_flags = SA_NOCLDSTOP };

	sigaction(SIGTERM, &ending, NULL);
	sigaction(SIGINT, &ending, NULL);
	sigaction(SIGCHLD, &reaping, NULL);
	reap(SIGCHLD); /* who ended before this program began */
	for (;;)
		pause();
}
