noinst_LIBRARIES += libspool.a
libspool_a_SOURCES = src/spool/record.h src/spool/record.c \
	src/spool/segment.h src/spool/shared_page.h src/spool/envelope.h src/spool/journal.h \
	src/spool/large.h src/spool/writer.h src/spool/reader.h src/spool/store.h src/spool/catalog.h
libspool_a_CFLAGS = $(AM_CFLAGS) $(XXHASH_CFLAGS)
# after libspool.a come libbase.a's things: SPOOL_LIBS before BASE_LIBS
SPOOL_LIBS = libspool.a -lpthread
