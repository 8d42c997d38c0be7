# What systemd is told: units, user, directories, preset. (The message catalog comes from events.c.)
EXTRA_DIST += systemd/relayd.service.in systemd/relayd.socket systemd/sysusers.d/relayd.conf \
	systemd/tmpfiles.d/relayd.conf systemd/90-relayd.preset
CLEANFILES += systemd/relayd.service

systemd/relayd.service: $(top_srcdir)/systemd/relayd.service.in Makefile
	$(AM_V_GEN)$(MKDIR_P) systemd && \
	$(SED) 's|[@]sbindir[@]|$(sbindir)|g' $(top_srcdir)/systemd/relayd.service.in >$@.tmp && mv $@.tmp $@

if WITH_UNITS
systemdsystemunit_DATA = systemd/relayd.service systemd/relayd.socket
sysusersdir = $(prefix)/lib/sysusers.d
sysusers_DATA = systemd/sysusers.d/relayd.conf
tmpfilesdir = $(prefix)/lib/tmpfiles.d
tmpfiles_DATA = systemd/tmpfiles.d/relayd.conf
presetdir = $(prefix)/lib/systemd/system-preset
preset_DATA = systemd/90-relayd.preset
endif
