#include "end.h"

#include <arpa/inet.h>
#include <err.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <openssl/evp.h>

enum { BACKLOG = 4096 };

void
die(const char *what)
{
	perror(what);
	exit(1);
}

double
end_now_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

enum end_tls
end_tls_named(const char *name)
{
	static const char *const names[] = { "none", "starttls", "implicit" };

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strcmp(names[i], name) == 0)
			return (enum end_tls)i;
	errx(2, "-t wants none, starttls or implicit");
}

char *
end_login(const char *pair)
{
	unsigned char plain[256];
	size_t length = strlen(pair) + 1;
	char *login = malloc(512);

	if (!login || length > sizeof(plain) || !strchr(pair, ':'))
		errx(2, "-a wants USER:PASSWORD");
	plain[0] = '\0';
	memcpy(plain + 1, pair, length - 1);
	plain[1 + strcspn(pair, ":")] = '\0';
	EVP_EncodeBlock((unsigned char *)login, plain, (int)length);
	return login;
}

void
end_listen(struct event_base *base, unsigned port, evconnlistener_cb accepted, void *arg)
{
	struct sockaddr_in sa = { .sin_family = AF_INET,
		.sin_port = htons((uint16_t)port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t length = sizeof(sa);
	struct evconnlistener *listener = evconnlistener_new_bind(base, accepted, arg,
	    LEV_OPT_REUSEABLE | LEV_OPT_CLOSE_ON_FREE, BACKLOG, (struct sockaddr *)&sa, sizeof(sa));

	if (!listener)
		die("listen");
	getsockname(evconnlistener_get_fd(listener), (struct sockaddr *)&sa, &length);
	printf("port %u\n", ntohs(sa.sin_port));
	fflush(stdout);
}
