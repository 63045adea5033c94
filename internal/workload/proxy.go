package workload

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// ProxyInTheWay names the variable that would send requests for an http URL of
// the given host through a proxy; "" when there is none, or when NO_PROXY covers
// the host. dstack's built-in rest_plugin honours these variables.
func ProxyInTheWay(c *corev1.Container, host string) string {
	for _, name := range []string{"http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"} {
		v := Lookup(c, name)
		if v.Set && (!v.Known || v.Value != "") && !noProxyCovers(c, host) {
			return name
		}
	}
	return ""
}

func noProxyCovers(c *corev1.Container, host string) bool {
	for _, name := range []string{"no_proxy", "NO_PROXY"} {
		v := Lookup(c, name)
		if v.Set {
			// Python takes * for everything only when it stands alone.
			return v.Known && (v.Value == "*" || slices.ContainsFunc(strings.Split(v.Value, ","), func(entry string) bool {
				entry = strings.TrimPrefix(strings.TrimSpace(entry), ".")
				return entry != "" && (host == entry || strings.HasSuffix(host, "."+entry))
			}))
		}
	}
	return false
}
