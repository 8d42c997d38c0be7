# The commented default file, made from the table of settings; never overwritten by an install.
EXTRA_DIST += etc/relayd.conf systemd/relayd.catalog
install-data-hook: install-config
.PHONY: install-config
install-config:
	$(MKDIR_P) "$(DESTDIR)$(sysconfdir)"
	test -e "$(DESTDIR)$(sysconfdir)/relayd.conf" || \
		$(INSTALL) -m 644 $(srcdir)/etc/relayd.conf "$(DESTDIR)$(sysconfdir)/relayd.conf"
uninstall-hook: uninstall-config
.PHONY: uninstall-config
uninstall-config:
	! cmp -s $(srcdir)/etc/relayd.conf "$(DESTDIR)$(sysconfdir)/relayd.conf" || \
		rm -f "$(DESTDIR)$(sysconfdir)/relayd.conf"

if WITH_UNITS
catalogdir = $(prefix)/lib/systemd/catalog
catalog_DATA = systemd/relayd.catalog
endif
