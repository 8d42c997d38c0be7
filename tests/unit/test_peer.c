/* Who is at the other end: asked of the real kernel, over loopback and a unix socket pair. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "intake/peer.h"

static void
a_unit_is_the_outermost_component_that_is_no_slice(void **state)
{
	static const struct {
		const char *path, *unit;
	} cases[] = {
		{ "/system.slice/php8.2-fpm.service", "php8.2-fpm.service" },
		{ "/system.slice/cron.service/x.service", "cron.service" },
		{ "/user.slice/user-1000.slice/session-3.scope", "session-3.scope" },
		{ "/user.slice/user-1000.slice/user@1000.service/app.slice/a.service",
		    "user@1000.service" },
		{ "system.slice/docker-0123.scope", "docker-0123.scope" },
		{ "/", "" },
		{ "", "" },
		{ "/system.slice", "" },
		{ "/.service", "" },
		{ "/docker/0123456789", "" },
	};
	char unit[64];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		assert_int_equal(
		    peer_unit_of_path(cases[i].path, unit, sizeof(unit)), cases[i].unit[0] != '\0');
		assert_string_equal(unit, cases[i].unit);
	}
}

static void
a_name_that_does_not_fit_is_no_unit(void **state)
{
	char unit[8] = "x";

	(void)state;
	assert_false(peer_unit_of_path("/longer-than-that.service", unit, sizeof(unit)));
	assert_string_equal(unit, "");
}

static int
connect_to(int listener, int family)
{
	struct sockaddr_storage sa;
	socklen_t len = sizeof(sa);
	int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(getsockname(listener, (struct sockaddr *)&sa, &len), 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&sa, len), 0);
	return fd;
}

/* false: this machine has no such address */
static bool
meet(struct peer_finder *finder, const struct sockaddr *where, socklen_t len, struct peer *out)
{
	int listener = socket(where->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0), client, fd;
	struct sockaddr_storage sa = { 0 };
	socklen_t sa_len = sizeof(sa);

	if (listener < 0 || bind(listener, where, len) < 0 || listen(listener, 1) < 0) {
		if (listener >= 0)
			close(listener);
		return false;
	}
	client = connect_to(listener, where->sa_family);
	fd = accept(listener, (struct sockaddr *)&sa, &sa_len);
	assert_true(fd >= 0);
	peer_find(finder, fd, (struct sockaddr *)&sa, out);
	close(fd);
	close(client);
	close(listener);
	return true;
}

static void
a_tcp_client_of_this_host_is_known_by_uid(void **state)
{
	const struct sockaddr_in in = { .sin_family = AF_INET,
		.sin_addr = { htonl(INADDR_LOOPBACK) } };
	const struct sockaddr_in6 in6 = { .sin6_family = AF_INET6,
		.sin6_addr = IN6ADDR_LOOPBACK_INIT };
	struct peer_finder *finder = peer_finder_open();
	bool has_netlink = peer_finder_lacks(finder) == NULL;
	char text[PEER_TEXT_MAX];
	struct peer peer;

	(void)state;
	assert_true(meet(finder, (const struct sockaddr *)&in, sizeof(in), &peer));
	peer_print(&peer, text);
	assert_string_equal(text, "127.0.0.1");
	assert_int_not_equal(peer.port, 0);
	assert_int_equal(peer.uid, has_netlink ? getuid() : PEER_UID_UNKNOWN);
	assert_non_null(peer.unit);
	if (meet(finder, (const struct sockaddr *)&in6, sizeof(in6), &peer)) {
		peer_print(&peer, text);
		assert_string_equal(text, "::1");
		assert_int_equal(peer.uid, has_netlink ? getuid() : PEER_UID_UNKNOWN);
	}
	peer_finder_close(finder);
}

static void
a_mapped_address_is_an_ipv4_client(void **state)
{
	struct sockaddr_in6 mapped = { .sin6_family = AF_INET6, .sin6_port = htons(99) };
	struct peer_finder *finder = peer_finder_open();
	char text[PEER_TEXT_MAX];
	struct peer peer;

	(void)state;
	assert_int_equal(inet_pton(AF_INET6, "::ffff:10.1.2.3", &mapped.sin6_addr), 1);
	peer_find(finder, -1, (const struct sockaddr *)&mapped, &peer);
	peer_print(&peer, text);
	assert_int_equal(peer.family, AF_INET);
	assert_int_equal(peer.port, 99);
	assert_string_equal(text, "10.1.2.3");
	assert_int_equal(peer.uid, PEER_UID_UNKNOWN);
	peer_finder_close(finder);
}

static void
a_unix_client_is_known_by_uid(void **state)
{
	const struct sockaddr sa = { .sa_family = AF_UNIX };
	struct peer_finder *finder = peer_finder_open();
	char text[PEER_TEXT_MAX], expected[PEER_TEXT_MAX];
	struct peer peer;
	int pair[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	peer_find(finder, pair[0], &sa, &peer);
	peer_print(&peer, text);
	assert_int_equal(peer.uid, getuid());
	snprintf(expected, sizeof(expected), "uid %u", (unsigned)getuid());
	assert_string_equal(text, expected);
	close(pair[0]);
	close(pair[1]);
	peer_finder_close(finder);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_unit_is_the_outermost_component_that_is_no_slice),
		cmocka_unit_test(a_name_that_does_not_fit_is_no_unit),
		cmocka_unit_test(a_tcp_client_of_this_host_is_known_by_uid),
		cmocka_unit_test(a_mapped_address_is_an_ipv4_client),
		cmocka_unit_test(a_unix_client_is_known_by_uid),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
