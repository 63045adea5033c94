package sshproxy_test

import (
	"strings"
	"testing"

	"github.com/dstack-isolation/operator/internal/sshproxy"
)

func TestParseAddress(t *testing.T) {
	host := "must be HOST or HOST:PORT, with a host name or an IPv4 address and nothing before it"
	port := "must name a port from 1 to 65535 after the colon, or none"
	for s, want := range map[string]struct{ address, err string }{
		"ssh.example.com":         {address: "ssh.example.com:22"},
		"ssh.example.com:22":      {address: "ssh.example.com:22"},
		"SSH.example.COM:2222":    {address: "ssh.example.com:2222"},
		"10.0.0.7:30022":          {address: "10.0.0.7:30022"},
		"h":                       {address: "h:22"},
		"":                        {err: host},
		":22":                     {err: host},
		"ssh://ssh.example.com":   {err: port},
		"ssh.example.com/x":       {err: host},
		"user@ssh.example.com":    {err: host},
		"ssh.example.com.":        {err: host},
		"-ssh.example.com":        {err: host},
		"ssh..example.com":        {err: host},
		"ssh_1.example.com":       {err: host},
		"ssh.example.com ":        {err: host},
		"::1":                     {err: host},
		"[::1]:22":                {err: host},
		"*.example.com":           {err: host},
		strings.Repeat("a.", 127): {err: host},
		"h:":                      {err: port},
		"h:0":                     {err: port},
		"h:022":                   {err: port},
		"h:+22":                   {err: port},
		"h:65536":                 {err: port},
		"h:22:22":                 {err: port},
		"h:ssh":                   {err: port},
	} {
		got, err := sshproxy.ParseAddress(s)
		if message(err) != want.err {
			t.Errorf("%q: got error %q, want %q", s, message(err), want.err)
		}
		if err == nil && got.String() != want.address {
			t.Errorf("%q: got %s, want %s", s, got, want.address)
		}
	}
}

func TestCheckToken(t *testing.T) {
	unprintable := "has a character that is no printable ASCII, such as a space or a newline at its end"
	for token, want := range map[string]string{
		"BXRZ6GMYV4PTKQ2N": "",
		"~!#$%&'":          "",
		"":                 "is empty",
		"sesame\n":         unprintable,
		"open sesame":      unprintable,
		"sésame":           unprintable,
		"sesame\x7f":       unprintable,
	} {
		if got := message(sshproxy.CheckToken(token)); got != want {
			t.Errorf("%q: got %q, want %q", token, got, want)
		}
	}
}
