/* end.h - what the benchmark's generator, sink and far upstream have in common as programs. */
#ifndef BENCH_END_H
#define BENCH_END_H

#include <event2/event.h>
#include <event2/listener.h>

enum end_tls { END_CLEAR, END_STARTTLS, END_IMPLICIT_TLS };

/* none, starttls or implicit; anything else ends the program. */
enum end_tls end_tls_named(const char *name);
/* USER:PASSWORD, as AUTH PLAIN wants it: base64 of NUL USER NUL PASSWORD. free() */
char *end_login(const char *pair);
/* On the loopback address; 0: any port. Prints "port N". */
void end_listen(struct event_base *base, unsigned port, evconnlistener_cb accepted, void *arg);
double end_now_s(void); /* CLOCK_MONOTONIC */

_Noreturn void die(const char *what);
#endif
