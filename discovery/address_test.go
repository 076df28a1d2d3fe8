package discovery_test

import (
	"strings"
	"testing"

	"github.com/lbproxy/lbproxy/discovery"
)

func TestValidateAddr(t *testing.T) {
	for addr, why := range map[string]string{ // a part of the error; empty for none
		"10.0.0.7:1001": "", "[2001:db8::1]:1": "", "[::ffff:10.0.0.7]:1": "", "db-1.example:65535": "", "a:1": "",
		"127.0.0.1:1": "", "[::1]:1": "", "localhost:1": "", "169.254.1.1:1": "", "[fe80::1%eth0]:1": "", "10.in-addr:1": "",
		"123456789012:1": "", // a container's name

		"0.0.0.0:1":          "means every address of whichever machine dials it",
		"[::]:1":             "means every address of whichever machine dials it",
		"[::%eth0]:1":        "means every address",
		"[::ffff:0.0.0.0]:1": "0.0.0.0 means every address",
		":1":                 "the host is missing; use one at which other machines reach this one",
		"[]:1":               "the host is missing",
		"0.0.0.1:1":          "0.0.0.1 cannot be dialled",
		"224.0.0.1:1":        "224.0.0.1 is a multicast address",
		"239.255.255.255:1":  "multicast",
		"[ff02::1]:1":        "multicast",
		"255.255.255.255:1":  "255.255.255.255 is the broadcast address",
		"[fe80::1]:1":        "fe80::1 holds on one link only",
		"0:1":                `host "0" is no IP address and no name`,
		"0x7f000001:1":       "no IP address and no name",
		"127.1:1":            "no IP address and no name",
		"10.0.0.256:1":       "no IP address and no name",
		"010.0.0.1:1":        "no IP address and no name",
		"10.0.0.7:0":         `port "0" is not a number from 1 to 65535`,
		"10.0.0.7:":          `port "" is not a number from 1 to 65535`,
		"10.0.0.7":           "is not host:port",
	} {
		err := discovery.ValidateAddr(addr)
		if (err == nil) != (why == "") || err != nil && !strings.Contains(err.Error(), why) {
			t.Errorf("%s: got error %v, want %q", addr, err, why)
		}
	}
	for _, addr := range []string{"0.0.0.0:1", "[::]:1", "224.0.0.1:1"} {
		if err := discovery.ValidateHostPort(addr); err != nil {
			t.Errorf("%s is host:port, got error %v", addr, err)
		}
	}
}

func TestIsLoopback(t *testing.T) {
	for addr, want := range map[string]bool{
		"127.0.0.1:1": true, "127.8.8.8:1": true, "[::1]:1": true, "[::ffff:127.0.0.1]:1": true, "localhost:1": true,
		"LocalHost.:1": true, "a.localhost:1": true, "127.0.0.1": true, "localhost": true, "::1": true,
		"10.0.0.7:1": false, "localhost.example:1": false, "[2001:db8::1]:1": false, "": false, ":1": false,
	} {
		if got := discovery.IsLoopback(addr); got != want {
			t.Errorf("%s: got %t, want %t", addr, got, want)
		}
	}
}
