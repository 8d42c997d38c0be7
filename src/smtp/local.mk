noinst_LIBRARIES += libsmtp.a
libsmtp_a_SOURCES = src/smtp/buffer.h src/smtp/buffer.c src/smtp/envelope.h src/smtp/reply.h src/smtp/reply.c \
	src/smtp/capability.h src/smtp/capability.c src/smtp/base64.h src/smtp/base64.c \
	src/smtp/client.h src/smtp/client_parts.h src/smtp/client.c \
	src/smtp/client_flight.c src/smtp/client_send.c src/smtp/client_take.c src/smtp/dsn_message.h src/smtp/dsn_message.c
libsmtp_a_CFLAGS = $(AM_CFLAGS)
SMTP_LIBS = libsmtp.a
libsmtp_a_SOURCES += src/smtp/server.h src/smtp/data.h src/smtp/data.c src/smtp/address.h src/smtp/address.c \
	src/smtp/trace.h src/smtp/trace.c src/smtp/header.h src/smtp/header.c src/smtp/header_list.c \
	src/smtp/server.c src/smtp/server_internal.h src/smtp/server_verbs.c src/smtp/server_params.c \
	src/smtp/server_content.c src/smtp/server_replies.c src/smtp/server_mail.c
