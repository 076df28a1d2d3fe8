package discovery

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// ValidateHostPort reports why addr is not host:port with an IP address or a DNS name as the host and a number
// from 1 to 65535 as the port.
func ValidateHostPort(addr string) error {
	_, err := parseHostPort(addr)
	return err
}

// ValidateAddr reports why addr cannot be an instance's: it must be host:port as for [ValidateHostPort], and mean
// one and the same machine wherever it is dialled. Loopback is let through, for whoever has one machine.
func ValidateAddr(addr string) error {
	ip, err := parseHostPort(addr)
	if err != nil {
		return err
	}
	if why := notOneMachine(ip); why != "" {
		return fmt.Errorf("address %q: %s; use an address at which other machines reach this one, such as 10.0.0.7", addr, why)
	}
	return nil
}

// IsLoopback reports whether the host of addr, with or without a port, can only mean the machine that dials it.
func IsLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		host = addr
	}
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback() || host == "localhost" || strings.HasSuffix(host, ".localhost") // RFC 6761 6.3
}

// parseHostPort returns the IP address that stands in addr; the zero one if it is a name.
func parseHostPort(addr string) (netip.Addr, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("address %q is not host:port", addr)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return netip.Addr{}, fmt.Errorf("address %q: port %q is not a number from 1 to 65535", addr, port)
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		if ip.Zone() != "" {
			err = validateName("zone", ip.Zone())
		}
		if err != nil {
			return netip.Addr{}, fmt.Errorf("address %q: %w", addr, err)
		}
		return ip, nil
	}
	if err := validateHost(host); err != nil {
		return netip.Addr{}, fmt.Errorf("address %q: %w", addr, err)
	}
	return netip.Addr{}, nil
}

func validateHost(host string) error {
	if host == "" {
		return errors.New("the host is missing; use one at which other machines reach this one, such as 10.0.0.7")
	}
	if err := validateName("host", host); err != nil {
		return err
	}
	// Some resolvers take a number, or fewer than four of them, for an IP address: "0" is 0.0.0.0 to them.
	_, err := strconv.ParseUint(host, 0, 32)
	if err == nil || strings.Contains(host, ".") && strings.Trim(host, "0123456789.") == "" {
		return fmt.Errorf("host %q is no IP address and no name; an IP address has four numbers from 0 to 255", host)
	}
	return nil
}

// notOneMachine says why an IP address leads to another machine wherever it is dialled, or to none.
func notOneMachine(ip netip.Addr) string {
	zone := ip.Zone()
	switch ip = ip.WithZone("").Unmap(); {
	case ip.IsUnspecified():
		return fmt.Sprintf("%s means every address of whichever machine dials it", ip)
	case ip.Is4() && ip.As4()[0] == 0: // RFC 1122 3.2.1.3 (b)
		return fmt.Sprintf("%s cannot be dialled", ip)
	case ip.IsMulticast():
		return fmt.Sprintf("%s is a multicast address", ip)
	case ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return fmt.Sprintf("%s is the broadcast address", ip)
	case ip.Is6() && ip.IsLinkLocalUnicast() && zone == "":
		return fmt.Sprintf("%s holds on one link only, and which one is not said", ip)
	}
	return ""
}
