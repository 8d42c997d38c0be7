/* presets.c - see presets.h. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/base.h"
#include "base/presets.h"

/* clang-format off */
const struct preset presets[] = {
	{ "gmail", "smtp.gmail.com", "587", "starttls",
	  PRESET_USERNAME_ADDRESS, NULL, "your whole Gmail address", "an app password (myaccount.google.com/apppasswords) or a token with auth = xoauth2",
	  NULL, NULL, "100", NULL, "500" },
	{ "google-relay", "smtp-relay.gmail.com", "587", "starttls",
	  PRESET_USERNAME_OPTIONAL, NULL, "a whole Workspace address", "its app password, or none where the relay trusts your IP address",
	  NULL, NULL, "100", NULL, "10000" },
	{ "office365", "smtp.office365.com", "587", "starttls",
	  PRESET_USERNAME_ADDRESS, NULL, "the mailbox's user principal name", "a token from password-command with auth = xoauth2; passwords where the tenant still allows them",
	  "3", NULL, "500", "30/m", "10000" },
	{ "ses", "email-smtp.%s.amazonaws.com", "587", "starttls",
	  PRESET_USERNAME_ANY, NULL, "the SMTP user name that SES made (AKIA...), not the IAM user", "the SMTP password that SES made for this region, not the secret key",
	  NULL, NULL, "50", NULL, NULL },
	{ "sendgrid", "smtp.sendgrid.net", "587", "starttls",
	  PRESET_USERNAME_FIXED, "apikey", "apikey", "an API key with \"Mail Send\" permission",
	  NULL, "5000", "1000", NULL, NULL },
	{ "mailgun", "smtp.mailgun.org", "587", "starttls",
	  PRESET_USERNAME_ADDRESS, NULL, "the SMTP login of your domain, such as postmaster@mg.example.com", "that login's password, not the API key",
	  NULL, NULL, "1000", NULL, NULL },
	{ "postmark", "smtp.postmarkapp.com", "587", "starttls",
	  PRESET_USERNAME_PASSWORD, NULL, "the access key of an SMTP token", "the server's API token, or the secret key of an SMTP token",
	  NULL, NULL, "50", NULL, NULL },
	{ "brevo", "smtp-relay.brevo.com", "587", "starttls",
	  PRESET_USERNAME_ADDRESS, NULL, "the account's SMTP login", "an SMTP key, not an API key",
	  NULL, NULL, NULL, NULL, NULL },
	{ "sparkpost", "smtp.sparkpostmail.com", "587", "starttls",
	  PRESET_USERNAME_FIXED, "SMTP_Injection", "SMTP_Injection", "an API key with \"Send via SMTP\" permission",
	  NULL, "100", NULL, NULL, NULL },
	{ "mailjet", "in-v3.mailjet.com", "587", "starttls",
	  PRESET_USERNAME_ANY, NULL, "the API key", "the secret key",
	  NULL, NULL, NULL, NULL, NULL },
	{ "zoho", "smtp.zoho.com", "587", "starttls",
	  PRESET_USERNAME_ADDRESS, NULL, "your whole address", "an app password where two-factor login is on",
	  NULL, NULL, NULL, NULL, NULL },
	{ "fastmail", "smtp.fastmail.com", "465", "implicit",
	  PRESET_USERNAME_ADDRESS, NULL, "your whole address", "an app password",
	  NULL, NULL, NULL, NULL, NULL },
	{ "yahoo", "smtp.mail.yahoo.com", "465", "implicit",
	  PRESET_USERNAME_ADDRESS, NULL, "your whole address", "an app password",
	  NULL, NULL, "100", NULL, "500" },
	{ "icloud", "smtp.mail.me.com", "587", "starttls",
	  PRESET_USERNAME_ADDRESS, NULL, "your whole iCloud address", "an app-specific password",
	  NULL, NULL, NULL, NULL, NULL },
	{ "smtp2go", "mail.smtp2go.com", "587", "starttls",
	  PRESET_USERNAME_ANY, NULL, "an SMTP user of the account", "that user's password",
	  NULL, NULL, NULL, NULL, NULL },
	{ "mailtrap", "live.smtp.mailtrap.io", "587", "starttls",
	  PRESET_USERNAME_FIXED, "api", "api", "an API token",
	  NULL, NULL, NULL, NULL, NULL },
	{ "resend", "smtp.resend.com", "587", "starttls",
	  PRESET_USERNAME_FIXED, "resend", "resend", "an API key",
	  NULL, NULL, "50", NULL, NULL },
	{ NULL, NULL, NULL, NULL, PRESET_USERNAME_ANY, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL },
};

/* A preset's first row is what it means without a region. */
static const struct preset_region regions[] = {
	{ "mailgun",   "us",     "smtp.mailgun.org" },
	{ "mailgun",   "eu",     "smtp.eu.mailgun.org" },
	{ "sparkpost", "us",     "smtp.sparkpostmail.com" },
	{ "sparkpost", "eu",     "smtp.eu.sparkpostmail.com" },
	{ "zoho",      "com",    "smtp.zoho.com" },
	{ "zoho",      "eu",     "smtp.zoho.eu" },
	{ "zoho",      "in",     "smtp.zoho.in" },
	{ "zoho",      "com.au", "smtp.zoho.com.au" },
	{ "zoho",      "jp",     "smtp.zoho.jp" },
	{ "smtp2go",   "us",     "mail-us.smtp2go.com" },
	{ "smtp2go",   "eu",     "mail-eu.smtp2go.com" },
	{ "smtp2go",   "au",     "mail-au.smtp2go.com" },
};
/* clang-format on */

const struct preset *
presets_find(const char *name)
{
	for (const struct preset *p = presets; p->name != NULL; p++)
		if (strcmp(p->name, name) == 0)
			return p;
	return NULL;
}

void
presets_list(char *out, size_t size)
{
	size_t len = 0;

	for (const struct preset *p = presets; p->name != NULL && len < size; p++)
		len +=
		    (size_t)snprintf(out + len, size - len, "%s%s", len > 0 ? ", " : "", p->name);
}

static bool
is_region_name(const char *region)
{
	for (const char *p = region; *p != '\0'; p++)
		if (!islower((unsigned char)*p) && !isdigit((unsigned char)*p) && *p != '-')
			return false;
	return region[0] != '\0';
}

static const char *
find_region(const struct preset *preset, const char *region, char *why, size_t why_size)
{
	size_t len = 0;

	for (size_t i = 0; i < ARRAY_LEN(regions); i++)
		if (strcmp(regions[i].preset, preset->name) == 0 &&
		    strcmp(regions[i].region, region) == 0)
			return regions[i].host;
	why[0] = '\0';
	for (size_t i = 0; i < ARRAY_LEN(regions) && len < why_size; i++)
		if (strcmp(regions[i].preset, preset->name) == 0)
			len += (size_t)snprintf(why + len, why_size - len, "%s%s",
			    len > 0 ? ", " : "one of ", regions[i].region);
	if (len == 0)
		snprintf(why, why_size, "%s has no regions: leave it out", preset->name);
	return NULL;
}

const char *
presets_host(const struct preset *preset, const char *region, char *host, size_t size, char *why,
    size_t why_size)
{
	const char *mark = strstr(preset->host, "%s");
	const char *found = preset->host;

	if (mark != NULL) {
		if (region == NULL || !is_region_name(region))
			return "the region that the account sends from, such as region = "
			       "\"eu-west-1\", or host";
		snprintf(host, size, "%.*s%s%s", (int)(mark - preset->host), preset->host, region,
		    mark + 2);
		return NULL;
	}
	if (region != NULL)
		found = find_region(preset, region, why, why_size);
	if (found == NULL)
		return why;
	snprintf(host, size, "%s", found);
	return NULL;
}
