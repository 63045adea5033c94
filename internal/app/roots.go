package app

import (
	// The operator's image is empty but for its binary, so that without these roots no
	// certificate of a server that runs elsewhere could be trusted. They are Mozilla's,
	// and count only where the system has none: SSL_CERT_FILE still names others.
	_ "golang.org/x/crypto/x509roots/fallback"
)
