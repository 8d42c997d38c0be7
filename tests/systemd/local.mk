dist_check_SCRIPTS += tests/systemd/check_units.sh
TESTS += tests/systemd/check_units.sh
tests/systemd/check_units.log: systemd/relayd.service
EXTRA_DIST += tests/systemd/in-systemd tests/systemd/prepare tests/systemd/inside tests/systemd/load

# relayd under a real systemd, in a container of its own: needs root.
.PHONY: check-systemd
check-systemd: all
	rm -rf check-systemd.stage
	$(MAKE) $(AM_MAKEFLAGS) -s install DESTDIR=$$(pwd)/check-systemd.stage/root >/dev/null
	cp $(top_srcdir)/contrib/demo-provider $(top_srcdir)/tests/systemd/load check-systemd.stage/
	echo 'sbindir=$(sbindir) bindir=$(bindir) libexecdir=$(libexecdir) sysconfdir=$(sysconfdir)' \
		>check-systemd.stage/paths
	STAGE=$$(pwd)/check-systemd.stage $(top_srcdir)/tests/systemd/in-systemd \
		$(top_srcdir)/tests/systemd/prepare $(top_srcdir)/tests/systemd/inside
