package policy_test

import (
	"fmt"
	"strings"
)

// hostileRuns are specifications of runs, of about a size, that are made to cost
// more than their length is worth.
func hostileRuns(size int) map[string]string {
	fill := filler(size)
	numbered := func(format string) string {
		var b strings.Builder
		for i := 0; b.Len() < size; i++ {
			fmt.Fprintf(&b, format, i)
		}
		return b.String()
	}
	manyOfThem := func(old, replacement string) string {
		return ofType("service", `"groups":[`+fill(strings.ReplaceAll(`{`+manyKeys(1000)+`},`, old, replacement))+`{}]`)
	}
	return map[string]string{
		"groups":                ofType("service", `"groups":[`+fill(`{"privileged":true},`)+`{}]`),
		"volumes":               task(`"volumes":[` + fill(`{"instance_path":"/etc","path":"/x"},`) + `{}]`),
		"keys":                  task(numbered(`"k%d":1,`) + `"x":1`),
		"odd keys":              task(numbered(`"K%d":1,`) + `"x":1`),
		"hidden":                task(`"setup":[` + fill(`{"docker":1},`) + `1]`),
		"escapes":               task(`"setup":["` + fill(`\u00e4`) + `"]`),
		"brackets":              fill(`[`),
		"objects":               fill(`{"a":`),
		"many objects":          task(`"setup":[` + fill(`{},`) + `1]`),
		"long name":             task(`"` + fill("K") + `":1`),
		"long path":             task(`"volumes":[{"instance_path":"/` + fill("a/../") + `","path":"/x"}]`),
		"long key":              strings.Replace(task(""), "null", `"ssh-rsa `+fill("A")+`"`, 1),
		"long number":           task(`"nodes":` + fill("1")),
		"environment":           task(`"env":{` + numbered(`"K%d":"v",`) + `"x":"v"}`),
		"many unknown":          manyOfThem("null", "null"),
		"many of them, set":     manyOfThem("null", "1"),
		"many of them, objects": manyOfThem("null", `{"a":[0]}`),
		"many of them, odd":     manyOfThem("key", "KEY"),
		"many of them, hidden":  manyOfThem("null", `{"docker":1}`),
		"hidden below known":    ofType("service", `"groups":[{"resources":[`+fill(`{"gpu":{"docker":1}},`)+`{}]}]`),
		"hidden paths":          ofType("service", `"groups":[{"resources":[`+fill(`{"gpu":{"instance_path":1}},`)+`{}]}]`),
		"hidden in lists":       ofType("service", `"probes":[`+fill(`{"body":["docker","\u0064"]},`)+`{}]`),
		"ranges":                ofType("service", `"groups":[{"resources":[`+fill(`{"cpu":{"min":1}},`)+`{}]}]`),
		"fleets":                task(`"fleets":[` + fill(`{"project":"x","name":"y"},`) + `"x"]`),
		"fleet of long name":    task(`"fleets":["` + fill("x") + `"]`),
		"instances":             task(`"instances":[` + fill(`{"fleet":"x/y","instance":1},`) + `"x"]`),
		"of another kind":       ofType("service", `"groups":[`+fill(`{"nodes":1,"ports":[1]},`)+`{}]`),
		"objects for texts":     task(`"files":[` + fill(`{"path":{"new":1}},`) + `{}]`),
		"odd variables":         task(`"env":{` + numbered(`"K%d":{"key":"K","new":1},`) + `"x":"v"}`),
		"backends":              task(`"backends":[` + fill(`"x",`) + `"x"]`),
		"long image":            task(`"image":"` + fill("a/") + `a"`),
		"long unknown name":     task(`"` + fill("k") + `":1`),
		"long unknown list":     task(`"new":[` + fill(`0,`) + `0]`),
		"long list of empties":  task(`"new":[` + fill(`{"a":""},`) + `0]`),
		"tags":                  task(`"tags":{` + numbered(`"K%d":"v",`) + `"x":"v"}`),
	}
}

// hostileFleets are the same for fleets, and with that for volumes and gateways,
// which are read alike.
func hostileFleets(size int) map[string]string {
	fill := filler(size)
	return map[string]string{
		"hosts":         fleet(sshConfig(fill(`,"a"`))),
		"blocks":        fleet(sshConfig(fill(`,{"blocks":2}`))),
		"empty hosts":   fleet(sshConfig(fill(`,{}`))),
		"odd hosts":     fleet(sshConfig(fill(`,{"Blocks":2}`))),
		"unknown":       fleet(sshConfig(fill(`,{"later":1}`))),
		"docker":        fleet(sshConfig(fill(`,{"docker":1}`))),
		"lists":         fleet(`"regions":[` + fill(`[[]],`) + `1]`),
		"objects":       fleet(`"regions":[` + fill(`{"docker":1},`) + `1]`),
		"known objects": fleet(`"backend_options":[` + fill(`[{"type":{}}],`) + `1]`),
		"variables":     fleet(`"env":{` + strings.ReplaceAll(manyKeys(1024), "null", `"`+strings.Repeat("é", size/2048)+`"`) + `}`),
		"a long value":  fleet(`"env":{"HTTP_PROXY":"` + fill(`\u00e4`) + `"}`),
		"a long name":   fleet(`"env":{"` + fill(`A`) + `":"1"}`),
		"a number":      fleet(`"blocks":` + fill(`1`)),
		"a backend":     fleet(`"backends":["` + fill(`\u00e4`) + `"]`),
		"backends":      fleet(`"backends":[` + fill(`"azure",`) + `"aws"]`),
	}
}

// filler repeats a part until it is as long as size.
func filler(size int) func(part string) string {
	return func(part string) string { return strings.Repeat(part, size/len(part)) }
}
