/* trace.c - see trace.h. */
#include <stdio.h>

#include "smtp/trace.h"

/* Days since 1970-01-01 to year, month, day: Howard Hinnant's civil_from_days(), for no libc function
 * is pure and sure of UTC. */
static void
civil(int64_t days, int64_t *year, unsigned *month, unsigned *day)
{
	const int64_t z = days + 719468;
	const int64_t era = (z >= 0 ? z : z - 146096) / 146097;
	const unsigned doe = (unsigned)(z - era * 146097);
	const unsigned yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
	const unsigned doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
	const unsigned mp = (5 * doy + 2) / 153;

	*day = doy - (153 * mp + 2) / 5 + 1;
	*month = mp < 10 ? mp + 3 : mp - 9;
	*year = (int64_t)yoe + era * 400 + (*month <= 2);
}

void
trace_date(int64_t time_s, char out[TRACE_DATE_LEN + 1])
{
	static const char weekdays[7][4] = { "Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed" };
	static const char months[12][4] = { "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug",
		"Sep", "Oct", "Nov", "Dec" };
	const int64_t last = 253402300799; /* the end of 9999: a longer year has no date-time */
	const int64_t t = time_s < 0 ? 0 : time_s > last ? last : time_s;
	const unsigned second = (unsigned)(t % 86400);
	unsigned month, day;
	int64_t year;

	civil(t / 86400, &year, &month, &day);
	snprintf(out, TRACE_DATE_LEN + 1, "%s, %02u %s %04u %02u:%02u:%02u +0000",
	    weekdays[t / 86400 % 7], day % 100, months[month - 1], (unsigned)year % 10000,
	    second / 3600, second / 60 % 60, second % 60);
}

/* What the client says of itself may not look like anything else in the line. */
static void
print_name(struct span name, char *out, size_t size)
{
	static const char fine[] =
	    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:[]";
	size_t n = name.len < size - 1 ? name.len : size - 1;

	for (size_t i = 0; i < n; i++)
		out[i] =
		    name.data[i] != '\0' && strchr(fine, name.data[i]) != NULL ? name.data[i] : '?';
	out[n] = '\0';
}

static const char *
protocol(const struct trace *t)
{
	if (t->smtputf8)
		return "UTF8SMTP"; /* RFC 6531 4.3 */
	return t->esmtp ? "ESMTP" : "SMTP";
}

/* Two lines as an operator reads them, the address only where it can stand in a line of its own. */
size_t
trace_print(const struct trace *t, char out[TRACE_MAX])
{
	char helo[128], date[TRACE_DATE_LEN + 1];
	const int recipient_len = t->recipient.len <= 512 ? (int)t->recipient.len : 0;
	int n;

	print_name(t->helo, helo, sizeof(helo));
	trace_date(t->time_s, date);
	n = snprintf(out, TRACE_MAX,
	    "Received: from %s (%.100s)\r\n\tby %.255s (relayd) with %s id "
	    "%.40s%s%.*s%s;\r\n\t%s\r\n",
	    helo[0] != '\0' ? helo : "unknown", t->client, t->hostname, protocol(t), t->queue_id,
	    recipient_len > 0 ? "\r\n\tfor <" : "", recipient_len,
	    recipient_len > 0 ? t->recipient.data : "", recipient_len > 0 ? ">" : "", date);
	if (t->header != NULL && t->header->date == 0)
		n += snprintf(out + n, TRACE_MAX - (size_t)n, "Date: %s\r\n", date);
	if (t->header != NULL && t->header->message_id == 0)
		n += snprintf(out + n, TRACE_MAX - (size_t)n, "Message-ID: <%.40s.%lld@%.255s>\r\n",
		    t->queue_id, (long long)t->time_s, t->hostname);
	if (t->header != NULL && !t->header->has_header && !t->header->starts_empty)
		n += snprintf(out + n, TRACE_MAX - (size_t)n, "\r\n");
	return (size_t)n;
}
