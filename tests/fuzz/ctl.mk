# The control socket, from both ends.
fuzz_targets += fuzz_control
fuzz_control_SOURCES = tests/fuzz/fuzz_control.c $(SPOOL_IMAGE) $(FUZZ_MAIN)
fuzz_control_CFLAGS = $(AM_CFLAGS) $(JANSSON_CFLAGS) $(EVENT_CFLAGS)
fuzz_control_LDFLAGS = $(FUZZ_LINK)
fuzz_control_LDADD = $(DELIVERY_LIBS) $(REPORT_LIBS) $(SPOOL_LIBS) $(BASE_LIBS) $(XXHASH_LIBS)
EXTRA_DIST += tests/fuzz/control.dict tests/fuzz/seeds/fuzz_control
fuzz_targets += fuzz_ctl
fuzz_ctl_SOURCES = tests/fuzz/fuzz_ctl.c $(FUZZ_MAIN)
fuzz_ctl_CFLAGS = $(AM_CFLAGS) $(JANSSON_CFLAGS)
fuzz_ctl_LDFLAGS = $(FUZZ_LINK)
fuzz_ctl_LDADD = libctl.a libreport.a $(SPOOL_LIBS) $(BASE_LIBS) $(JANSSON_LIBS) $(XXHASH_LIBS)
EXTRA_DIST += tests/fuzz/ctl.dict tests/fuzz/seeds/fuzz_ctl
