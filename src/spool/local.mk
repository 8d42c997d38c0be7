noinst_LIBRARIES += libspool.a
libspool_a_SOURCES = src/spool/checksum.h src/spool/checksum.c src/spool/record.h src/spool/record.c \
	src/spool/tlv.h src/spool/tlv.c src/spool/envelope.h src/spool/envelope.c \
	src/spool/shared_page.h src/spool/shared_page.c src/spool/segment.h src/spool/segment.c \
	src/spool/large.h src/spool/large.c src/spool/in_flight.h src/spool/in_flight.c \
	src/spool/item.h src/spool/item.c src/spool/group.h src/spool/group.c src/spool/writer.h \
	src/spool/writer_parts.h src/spool/writer.c src/spool/writer_commit.c src/spool/writer_compact.c \
	src/spool/writer_file.c src/spool/writer_report.c \
	src/spool/reader.h src/spool/reader_parts.h src/spool/reader.c src/spool/reader_gaps.c \
	src/spool/reader_bytes.c src/spool/store.h src/spool/store_parts.h src/spool/store.c \
	src/spool/store_body.c src/spool/store_copy.c src/spool/store_quarantine.c src/spool/store_free.c \
	src/spool/journal.h src/spool/journal.c src/spool/journal_compact.h src/spool/journal_index.c \
	src/spool/journal_places.c src/spool/journal_scan.c src/spool/window.h src/spool/window.c \
	src/spool/catalog.h src/spool/catalog_parts.h src/spool/catalog.c \
	src/spool/catalog_segment.c src/spool/catalog_large.c
libspool_a_CFLAGS = $(AM_CFLAGS) $(XXHASH_CFLAGS)
# before BASE_LIBS
SPOOL_LIBS = libspool.a -lpthread
