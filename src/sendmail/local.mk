# relayd-sendmail: sendmail(1), neither setuid nor setgid.
noinst_LIBRARIES += libsendmail.a
libsendmail_a_SOURCES = src/sendmail/args.h src/sendmail/args.c src/sendmail/letter.h \
	src/sendmail/letter.c src/sendmail/reach.h src/sendmail/reach.c src/sendmail/submit.h src/sendmail/submit.c
libsendmail_a_CFLAGS = $(AM_CFLAGS)

sbin_PROGRAMS += relayd-sendmail
relayd_sendmail_SOURCES = src/relayd-sendmail.c
relayd_sendmail_CPPFLAGS = $(AM_CPPFLAGS) -DRELAYD_BINDIR='"$(bindir)"'
relayd_sendmail_CFLAGS = $(AM_CFLAGS)
relayd_sendmail_LDADD = libsendmail.a $(SMTP_LIBS) $(BASE_LIBS)
