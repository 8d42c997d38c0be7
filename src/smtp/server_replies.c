/* server_replies.c - everything that the server says. */
#include "smtp/server_internal.h"

/* What the server says, for a person who reads it in the log of a program that wanted to send mail.
 * Every 2xx, 4xx and 5xx has an enhanced code (RFC 2034); 354 and 334 have none. */
/* clang-format off */
static const struct span replies[] = {
#define ROW(text) { text "\r\n", sizeof(text "\r\n") - 1 }
	[REPLY_MAIL_OK] =           ROW("250 2.1.0 Ok"),
	[REPLY_RCPT_OK] =           ROW("250 2.1.5 Ok"),
	[REPLY_DATA_GO] =           ROW("354 End data with <CR><LF>.<CR><LF>"),
	[REPLY_OK] =                ROW("250 2.0.0 Ok"),
	[REPLY_VRFY] =              ROW("252 2.0.0 Cannot verify the address, but mail to it will be relayed"),
	[REPLY_HELP] =              ROW("214 2.0.0 EHLO HELO MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT: see relayd(8)"),
	[REPLY_BYE] =               ROW("221 2.0.0 Bye"),
	[REPLY_AUTH_OK] =           ROW("235 2.7.0 No login is needed here: it was not looked at"),
	[REPLY_AUTH_ASK] =          ROW("334 "),
	[REPLY_AUTH_USER] =         ROW("334 VXNlcm5hbWU6"),
	[REPLY_AUTH_PASSWORD] =     ROW("334 UGFzc3dvcmQ6"),
	[REPLY_AUTH_CANCELLED] =    ROW("501 5.7.0 Authentication cancelled"),
	[REPLY_AUTH_OFF] =          ROW("502 5.5.1 No login is needed here: switch it off in the client, or set auth = ignore for this listener in relayd.conf"),
	[REPLY_AUTH_TWICE] =        ROW("503 5.5.1 AUTH was done already"),
	[REPLY_AUTH_MECHANISM] =    ROW("504 5.5.4 Only AUTH PLAIN and AUTH LOGIN are taken here"),
	[REPLY_UNKNOWN] =           ROW("500 5.5.2 Command not recognized"),
	[REPLY_NOT_HERE] =          ROW("502 5.5.1 Command not implemented"),
	[REPLY_NO_TLS] =            ROW("502 5.5.1 TLS is not offered to local clients: switch it off in the client, relayd speaks TLS to the provider"),
	[REPLY_TLS_HELLO] =         ROW("554 5.5.0 This port speaks plain SMTP: switch TLS off in the client, relayd speaks TLS to the provider"),
	[REPLY_HTTP] =              ROW("554 5.7.0 This is an SMTP server, not a web server"),
	[REPLY_CONTROL] =           ROW("500 5.5.2 Control characters in a command"),
	[REPLY_LINE_LONG] =         ROW("500 5.5.2 Line too long"),
	[REPLY_LINE_ENDLESS] =      ROW("421 4.5.2 Line much too long"),
	[REPLY_BARE_COMMAND] =      ROW("550 5.5.2 bare <LF> received: lines must end in <CR><LF>, see line-end in relayd.conf"),
	[REPLY_SYNC] =              ROW("554 5.5.0 SMTP protocol synchronization: wait for the reply before sending more"),
	[REPLY_HELO_FIRST] =        ROW("503 5.5.1 Say EHLO or HELO first"),
	[REPLY_HELO_NAME] =         ROW("501 5.5.4 Your host name must follow"),
	[REPLY_NESTED_MAIL] =       ROW("503 5.5.1 Nested MAIL command"),
	[REPLY_NO_MAIL] =           ROW("503 5.5.1 Need MAIL first"),
	[REPLY_NO_RCPT] =           ROW("554 5.5.1 No valid recipients"),
	[REPLY_IN_MAIL] =           ROW("503 5.5.1 Not inside a mail transaction"),
	[REPLY_IN_BDAT] =           ROW("503 5.5.1 Only BDAT or RSET after BDAT"),
	[REPLY_AFTER_BDAT_ERROR] =  ROW("503 5.5.1 A BDAT failed: BDAT LAST or RSET first"),
	[REPLY_NO_ARGUMENT] =       ROW("501 5.5.4 This command takes no argument"),
	[REPLY_ARGUMENT] =          ROW("501 5.5.4 This command needs an argument"),
	[REPLY_MAIL_SYNTAX] =       ROW("501 5.5.4 Syntax: MAIL FROM:<address>"),
	[REPLY_RCPT_SYNTAX] =       ROW("501 5.5.4 Syntax: RCPT TO:<address>"),
	[REPLY_SENDER] =            ROW("501 5.1.7 Bad sender address syntax"),
	[REPLY_RECIPIENT] =         ROW("501 5.1.3 Bad recipient address syntax"),
	[REPLY_ADDRESS_LONG] =      ROW("501 5.1.0 Address too long"),
	[REPLY_ADDRESS_UTF8] =      ROW("501 5.6.7 Address is not valid UTF-8"),
	[REPLY_NEEDS_SMTPUTF8] =    ROW("553 5.6.7 This address needs SMTPUTF8 behind MAIL FROM"),
	[REPLY_PARAM_UNKNOWN] =     ROW("555 5.5.4 Parameter not recognized"),
	[REPLY_PARAM_VALUE] =       ROW("501 5.5.4 Bad value of a parameter"),
	[REPLY_PARAM_TWICE] =       ROW("501 5.5.4 Parameter given twice"),
	[REPLY_BODY_BINARY] =       ROW("501 5.5.4 BODY=BINARYMIME is not offered"),
	[REPLY_TOO_MANY_RCPT] =     ROW("452 4.5.3 Too many recipients: send the rest with another MAIL"),
	[REPLY_TOO_LARGE] =         ROW("552 5.3.4 Message too large: see max-message in relayd.conf"),
	[REPLY_ENDLESS] =           ROW("421 4.3.4 Message much too large"),
	[REPLY_NUL] =               ROW("550 5.6.0 NUL byte in the message: see nul in relayd.conf"),
	[REPLY_BARE] =              ROW("550 5.5.2 bare <LF> or <CR> received: lines must end in <CR><LF>, see line-end in relayd.conf"),
	[REPLY_LOOP] =              ROW("554 5.4.6 Too many Received lines: this message goes in a circle"),
	[REPLY_BDAT_SYNTAX] =       ROW("521 5.5.4 Syntax: BDAT count [LAST]"),
	[REPLY_BDAT_EMPTY] =        ROW("551 5.5.4 BDAT 0 without LAST"),
	[REPLY_BDAT_SKIPPED] =      ROW("551 5.5.1 Skipped: an earlier BDAT failed"),
	[REPLY_NOT_STORED] =        ROW("451 4.3.0 The message could not be stored and was not kept: try again later"),
	[REPLY_NO_ROOM] =           ROW("452 4.3.1 No room in the spool: try again later"),
	[REPLY_TOO_MANY_ERRORS] =   ROW("421 4.7.0 Too many errors"),
	[REPLY_TOO_MANY_COMMANDS] = ROW("421 4.7.0 Too many commands without a message"),
#undef ROW
};
/* clang-format on */

struct span
server_reply(enum reply reply)
{
	return replies[reply];
}
