package portowner

import (
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// ofPort describes who listens at host:port; empty if unknown.
func ofPort(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return ""
	}
	wanted := addressesOf(host)
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		for _, fields := range rowsOf(table) {
			// sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode
			const local, state, uid, inode, listening = 1, 3, 7, 9, "0A"
			if len(fields) <= inode || fields[state] != listening {
				continue
			}
			ip, at, ok := parseAddress(fields[local])
			if ok && strconv.Itoa(at) == port && overlap(wanted, ip) {
				return processOf(fields[inode], fields[uid])
			}
		}
	}
	return ""
}

// ofSocket describes who listens at a unix socket; empty if unknown.
func ofSocket(file string) string {
	for _, fields := range rowsOf("/proc/net/unix") {
		// Num RefCount Protocol Flags Type St Inode Path
		const flags, inode, path, listening = 3, 6, 7, "00010000"
		if len(fields) > path && fields[flags] == listening && fields[path] == file {
			return processOf(fields[inode], "")
		}
	}
	return ""
}

func rowsOf(table string) (rows [][]string) {
	data, _ := os.ReadFile(table) // an unreadable table is empty
	for line := range strings.Lines(string(data)) {
		rows = append(rows, strings.Fields(line))
	}
	return rows
}

// addressesOf lists the addresses that a listener at host occupies; empty if that is all of them.
func addressesOf(host string) []netip.Addr {
	var all []netip.Addr
	if host == "" {
		return nil
	}
	resolved, _ := net.LookupHost(host)
	for _, text := range resolved {
		if ip, err := netip.ParseAddr(text); err == nil && !ip.IsUnspecified() {
			all = append(all, ip.Unmap())
		}
	}
	return all
}

func overlap(wanted []netip.Addr, ip netip.Addr) bool {
	return len(wanted) == 0 || ip.IsUnspecified() || slices.Contains(wanted, ip)
}

// parseAddress parses the kernel's ADDRESS:PORT, whose address consists of four-byte words, each with its bytes reversed.
func parseAddress(text string) (ip netip.Addr, port int, ok bool) {
	address, hexPort, _ := strings.Cut(text, ":")
	bytes, err := hex.DecodeString(address)
	if err != nil || len(bytes)%4 != 0 {
		return ip, 0, false
	}
	for word := range slices.Chunk(bytes, 4) {
		slices.Reverse(word)
	}
	n, err := strconv.ParseUint(hexPort, 16, 16)
	ip, isIP := netip.AddrFromSlice(bytes)
	return ip.Unmap(), int(n), isIP && err == nil
}

// processOf describes the process that has a socket open, or at least its user.
func processOf(inode, uid string) string {
	link := "socket:[" + inode + "]"
	files, _ := filepath.Glob("/proc/[0-9]*/fd/*") // those that this user may see
	for _, file := range files {
		if to, err := os.Readlink(file); err != nil || to != link {
			continue
		}
		process := filepath.Dir(filepath.Dir(file))
		name, _ := os.ReadFile(process + "/comm")
		return fmt.Sprintf("%s (pid %s)", strings.TrimSpace(string(name)), filepath.Base(process))
	}
	if u, err := user.LookupId(uid); err == nil {
		return "a process of user " + u.Username
	}
	return ""
}
