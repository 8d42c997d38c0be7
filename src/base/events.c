/* events.c - see events.h. A new event is a new row here, in order, with a fresh UUID
 * (`systemd-id128 new`), and an entry in relayd-log(7); then, in the build directory,
 * `./catalog journal >$srcdir/systemd/relayd.catalog`. */
#include <string.h>

#include "base/base.h"
#include "base/events.h"

#define NOTHING "Nothing."

/* clang-format off */
const struct event events[] = {
	{ "clock.jumped", LOG_WARNING, "4bac82fa00fc433f827f53ab2e3543ec",
	  "The wall clock was set by more than a minute. The schedule of the queue goes by another clock and is as it was.",
	  "If nobody set the clock on purpose, look at what keeps it (chrony, systemd-timesyncd)." },
	{ "config.rejected", LOG_ERROR, "269385ef2142426d8a444d9f9c58e271",
	  "The configuration has a mistake and was not taken.",
	  "Mend the line that the message names, try it with \"relayd -n\", then reload. Until then the old configuration stays in force." },
	{ "config.reloaded", LOG_INFO, "190d0180e9234e4d85e81b94f5edb460",
	  "The workers run with the new configuration.",
	  NOTHING },
	{ "config.warned", LOG_WARNING, "e2919d16df6d4b24b2a4d1a26d6d421a",
	  "The configuration works, but something in it is probably not what was meant.",
	  "Read the field \"why\"; change the setting that \"fix\" names." },
	{ "control.performed", LOG_INFO, "c5a3ee8c9a43495f891c65623af57f37",
	  "An operator changed the queue by relayctl: how many messages, which, and who asked. Of the first thousand each has a line of its own as well (message.held, message.released), of the others at level debug.",
	  NOTHING },
	{ "control.refused", LOG_WARNING, "025692309a8546e1a2cb6b3fd9c93abd",
	  "Someone who is neither root nor the service's user connected to the control socket.",
	  "Find out which program runs under the user ID of the message, and why." },
	{ "daemon.failed", LOG_ERROR, "11604a44b9a5429a904a7072119c9566",
	  "relayd could not start.",
	  "Mend what the field \"why\" names, then start it again." },
	{ "daemon.started", LOG_INFO, "9fceec62de5444d8b1ca6635c9968012",
	  "relayd is ready: listeners are open and both workers run.",
	  NOTHING },
	{ "daemon.stopped", LOG_INFO, "d0cd08f6c7234bba9bcc5bd4c6ddfe46",
	  "relayd has ended. What was accepted stands in the spool and goes out after the next start.",
	  NOTHING },
	{ "dsn.limited", LOG_WARNING, "f4e949cbaab14c808294e8e1a5485cb7",
	  "A message failed, but too many delivery status notifications were sent in the last hour: it is held, as are those that fail after it. They stay held until somebody decides. Told once an hour.",
	  "Look at \"relayctl queue --state held\" for what fails in numbers and mend that. Then \"relayctl release\" tries again, \"bounce\" tells the senders, \"remove\" tells nobody. \"limits { dsn-per-hour }\" is the setting, for \"bounce\" as well." },
	{ "dsn.sent", LOG_INFO, "b9af55ac39044146bebc1ffe80897eba",
	  "A delivery status notification was written for the sender or the postmaster.",
	  NOTHING },
	{ "listener.failed", LOG_ERROR, "0c1f9c86c3f844b0b5478462e33a9408",
	  "A listening address could not be opened.",
	  "Find who holds the port (\"ss -ltnp\"), or change the listen block that the message names." },
	{ "listener.skipped", LOG_WARNING, "af8cd5f2ea2940d5b50f0cafaa0b581a",
	  "A default listening address is not available and was left out.",
	  "If programs should submit there, free the port; else write the listen blocks you want into relayd.conf." },
	{ "log.dropped", LOG_WARNING, "0c019f19f15e46b991b5055ee7566111",
	  "Lines could not be written to the log and are lost.",
	  "Find out why the journal or the reader of stderr was slow." },
	{ "message.accepted", LOG_INFO, "68b51d6486b64ca3a84fba894121492c",
	  "A message was made durable and answered with 250.",
	  NOTHING },
	{ "message.bounced", LOG_WARNING, "7124f7d8b04e4cd0b73c8ccfbed7cbfe",
	  "A recipient failed for good; the sender is told by a delivery status notification.",
	  "If the recipient should exist, read the field \"reply\": these are the upstream's words." },
	{ "message.deferred", LOG_INFO, "fb0c7c628f9c4e1aab4fc003fbf9669c",
	  "A recipient could not be served now and is tried again.",
	  "Nothing, if it is delivered in the end. The fields \"reply\" and \"why\" tell the cause." },
	{ "message.delivered", LOG_INFO, "d201294979ca433fbcad70e10855525b",
	  "The upstream took the message for this recipient.",
	  NOTHING },
	{ "message.held", LOG_ERROR, "5bfaa532d62a43dca5a342a91f3d6c91",
	  "A message waits for an operator: it can neither be delivered nor returned. Level info: somebody held it, \"uid\" and \"pid\" say who.",
	  "Look at it with \"relayctl show\", then \"relayctl release\", \"bounce\" or \"remove\" it." },
	{ "message.rejected", LOG_WARNING, "73c02fd929f748d3a51c8ef278a49a60",
	  "A message or recipient was refused while a client submitted it; the client knows. While the spool takes no mail the first has a line, then there is one for so many \"refused\" at growing intervals, and one for each at level debug.",
	  "If it should have been accepted, the field \"reply\" names the rule or limit." },
	{ "message.released", LOG_INFO, "57d447d82c7146058e65261a24c860c9",
	  "An operator released a held message; it is tried now. \"uid\" and \"pid\" say who.",
	  NOTHING },
	{ "message.removed", LOG_INFO, "b11c3ce58849426abc634a3be8688200",
	  "An operator removed a message from the queue. Nobody is told.",
	  NOTHING },
	{ "message.repeated", LOG_WARNING, "da0b9e156d0c47188860f23563453046",
	  "The upstream's answer to a whole message was lost, or not stored before a crash; a repeated try may deliver it twice. Without a queue ID: everything died at once, and at most so many \"messages\" were on their way, perhaps none.",
	  "Nothing, if it is rare. If not, look at the connection to the upstream." },
	{ "message.warned", LOG_INFO, "7aac2ac7c2cd452b8de196081aebfb8e",
	  "The sender was told that the message is delayed.",
	  NOTHING },
	{ "sandbox.entered", LOG_DEBUG, "fb68ea2cc21b44eca120f7ba11debd87",
	  "The worker has confined itself.",
	  NOTHING },
	{ "sandbox.limited", LOG_WARNING, "f8cfa5fc93a047cfba8dc9b1f780e9b6",
	  "The kernel lacks a part of the sandbox; the worker runs with what there is.",
	  "Nothing; a newer kernel gives the full sandbox." },
	{ "secret.failed", LOG_ERROR, "3734fea2bde844f68a3a8b5a838ded03",
	  "The password or token of an upstream cannot be read.",
	  "Mend the file, credential or command that the message names. Mail is kept and goes out by itself afterwards." },
	{ "session.closed", LOG_DEBUG, "03dc74d4b75d4cd780eeb3213fdbbf5f",
	  "A client's session ended.",
	  NOTHING },
	{ "session.limited", LOG_WARNING, "4f8bd2a73ae2482f928bcd1ca29fea6b",
	  "A client met a limit: too many connections, errors or commands, or too slow.",
	  "If the client is a healthy program, raise the limit that the message names." },
	{ "session.lost", LOG_INFO, "baf3a7ca7c4642a7bd11a5542f84a8e7",
	  "A client's connection broke, or it fell silent, before its message was complete; nothing of it was kept.",
	  "Nothing, if it is rare: the client knows that it has no 250." },
	{ "session.opened", LOG_DEBUG, "c450e0518f6d448f87215fc53a578339",
	  "A client connected.",
	  NOTHING },
	{ "session.refused", LOG_WARNING, "a62cdb1105f24a369774777573df3bed",
	  "A client was refused when it connected.",
	  "If it may submit, add its address to \"clients\" in relayd.conf." },
	{ "spool.compacted", LOG_DEBUG, "442439534e8a48d2a20d339c7913ac56",
	  "The journal or a segment was rewritten without what is done.",
	  NOTHING },
	{ "spool.damaged", LOG_ERROR, "11b5577721594ed7bc1f411cfd4ead1c",
	  "Bytes in the spool are not what was written. They were set aside in quarantine/; if they cannot be read at all, their file is kept and read again at the next start. All other messages are safe.",
	  "Check the disk (smartctl, dmesg). Keep the quarantined file: a message may be recovered from it by hand." },
	{ "spool.failed", LOG_ERROR, "2b4c2af900474cbf94ebd64ee2c704f2",
	  "The spool cannot be written. No mail is accepted and delivery pauses until it works again.",
	  "Look at the field \"error\": a full disk wants room, an input/output error wants a new disk. relayd tries again by itself." },
	{ "spool.full", LOG_ERROR, "9d1bd0a250d44305b7cc5195dea6d472",
	  "The file system of the spool has less room than \"spool { min-free }\" asks. New mail is answered with 452, until spool.has-room.",
	  "Make room, or find out with \"relayctl status\" why the queue is so long." },
	{ "spool.has-room", LOG_INFO, "b752614fc72142448ed75b974506e778",
	  "The file system of the spool has room again, and for some seconds now: new mail is accepted. So many were \"refused\" meanwhile.",
	  NOTHING },
	{ "spool.lost", LOG_ERROR, "270432a336394a00a6c73ed6b7210427",
	  "Records are missing from the spool: numbers that were used are not there. Accepted mail may be lost.",
	  "Check the disk and who else writes below the spool directory. The numbers tell how many records are missing." },
	{ "spool.opened", LOG_INFO, "73c9256c9aad4c2ba95b412a78519505",
	  "The spool was read: this is what is in the queue.",
	  NOTHING },
	{ "spool.recovered", LOG_INFO, "b650c45789474ddeb4bb89894ecf07ee",
	  "The spool works again, or what a crash left was put in order.",
	  NOTHING },
	{ "upstream.closed", LOG_DEBUG, "6a1dbed678064de3aed841dc698d7d50",
	  "A connection to an upstream ended.",
	  NOTHING },
	{ "upstream.connected", LOG_DEBUG, "b8c5c95eb7c646ff808053e141ccf65b",
	  "A connection to an upstream is ready for mail.",
	  NOTHING },
	{ "upstream.down", LOG_ERROR, "9f8694b0b79344b98821c13a7e9047f0",
	  "An upstream cannot be used. Its mail is kept; one probe at growing intervals finds out when it works again.",
	  "Read \"why\" and do what \"fix\" says; \"relayctl test ADDRESS\" shows the dialogue. No mail is lost meanwhile." },
	{ "upstream.paced", LOG_WARNING, "5f07bb7d19fb4cdab3440e3c31db5dbf",
	  "The upstream asks for fewer messages in a time; relayd slows down and speeds up again by itself.",
	  "Nothing, if it is rare. Else set \"rate\" or \"connections\" of the upstream to what the account allows." },
	{ "upstream.switched", LOG_WARNING, "6e139e839ed54db4b7402448942311e8",
	  "Mail goes out by another upstream than the first choice.",
	  "Mend the upstream that is down; see its upstream.down message." },
	{ "upstream.up", LOG_INFO, "3904a241830a44b8b4633fddc5c319b5",
	  "The upstream works again and its mail flows.",
	  NOTHING },
	{ "upstream.warned", LOG_WARNING, "658f566abeff4e3286800b5af1854f7d",
	  "The upstream works, but something about it will soon not, or is weaker than it should be. With \"silent\": it has not answered for so long, and is not given up yet.",
	  "Read \"why\" and do what \"fix\" says." },
	{ "worker.died", LOG_ERROR, "bfc1d7b956a3459c9a7a6ae8a25c6029",
	  "A worker ended unexpectedly and is started again. No accepted mail is lost.",
	  "Report it with the lines before it; if it happens again and again, the cause is the same each time." },
	{ "worker.hung", LOG_ERROR, "6772f6b29f5445c7b781f468ee189911",
	  "A worker gave no sign of life and was killed, to be started again. "
	  "Or it was killed and does not die: then no other can be started, and systemd restarts relayd.",
	  "Look for a hung disk (dmesg) or a machine without free memory or CPU time." },
	{ "worker.started", LOG_INFO, "0a52ee7fb2f74c5db13e0ab7742df61e",
	  "A worker was started.",
	  NOTHING },
	{ "worker.stopped", LOG_INFO, "e6c5d85a57fb4b5a9c88894bd5c9e8bb",
	  "A worker ended as it was told to.",
	  NOTHING },
	{ NULL, LOG_DEBUG, NULL, NULL, NULL },
};
/* clang-format on */

const struct event *
events_find(const char *name)
{
	size_t low = 0, high = ARRAY_LEN(events) - 1; /* without the row that ends it */

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		int order = strcmp(name, events[middle].name);

		if (order == 0)
			return &events[middle];
		if (order < 0)
			high = middle;
		else
			low = middle + 1;
	}
	return NULL;
}

/* The format is journald's: systemd.io/CATALOG. */
void
events_print_catalog(FILE *out)
{
	fputs("# The journal's message catalog for relayd's events, shown by `journalctl -x`.\n"
	      "# Made from src/base/events.c: change it there.\n",
	    out);
	for (const struct event *row = events; row->name != NULL; row++)
		fprintf(out,
		    "\n-- %s\nSubject: %s\nDefined-By: relayd\nDocumentation: man:relayd-log(7)\n"
		    "\n%s\n\nWhat to do: %s\n",
		    row->uuid, row->name, row->meaning, row->action);
}
