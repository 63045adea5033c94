package sshproxy

import (
	"errors"
	"net"
	"regexp"
	"strconv"
	"strings"
)

// DefaultPort is the port that SSH clients use when none is named.
const DefaultPort = 22

// hostPattern is a host name or an IPv4 address. The API's CEL rule says the
// same.
var hostPattern = regexp.MustCompile(`^[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?([.][A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?)*$`)

// Address is where users reach the proxy.
type Address struct {
	Host string
	Port int
}

// ParseAddress reads HOST or HOST:PORT. dstack's server does not start with one
// that it cannot read, and compares host names without case.
func ParseAddress(s string) (Address, error) {
	host, port, named := strings.Cut(s, ":")
	a := Address{Host: strings.ToLower(host), Port: DefaultPort}
	if len(host) > 253 || !hostPattern.MatchString(host) {
		return Address{}, errors.New("must be HOST or HOST:PORT, with a host name or an IPv4 address and nothing before it")
	}
	if !named {
		return a, nil
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != port {
		return Address{}, errors.New("must name a port from 1 to 65535 after the colon, or none")
	}
	a.Port = int(n)
	return a, nil
}

// String is HOST:PORT, with the port always.
func (a Address) String() string { return net.JoinHostPort(a.Host, strconv.Itoa(a.Port)) }

// CheckToken tells what is wrong with a token for the proxy's API. It travels
// in an HTTP header, so that a newline at its end, as files have it, keeps every
// user out.
func CheckToken(token string) error {
	switch {
	case token == "":
		return errors.New("is empty")
	case strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return errors.New("has a character that is no printable ASCII, such as a space or a newline at its end")
	}
	return nil
}
