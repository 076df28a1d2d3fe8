package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/lbproxy/lbproxy/configs"
)

// writeTable writes rows in columns.
func writeTable(w io.Writer, rows []row) {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "ADDRESS\tWEIGHT\tCALLS\tSHARE\tEXPECTED\tSTATE")
	var calls uint64
	for _, r := range rows {
		calls += r.Calls
	}
	for _, r := range rows {
		share := "     -"
		if calls > 0 {
			share = percent(r.Share)
		}
		fmt.Fprintf(t, "%s\t%6d\t%5d\t%s\t%s\t%s\n", r.Addr, r.Weight, r.Calls, share, percent(r.ExpectedShare), r.State)
	}
	t.Flush()
}

func percent(share float64) string { return fmt.Sprintf("%5.1f%%", 100*share) }

// liveTable is the table shown while calls flow, with their outcomes.
func liveTable(rows []row, since time.Duration, sent callCount) string {
	var b strings.Builder
	fmt.Fprintln(&b)
	writeTable(&b, rows)
	fmt.Fprintf(&b, "\nCounted since the shares changed last, %v ago. Calls sent in all: %d, failed: %d\n",
		since.Round(time.Second), sent.ended, sent.failed)
	if sent.lastErr != nil {
		fmt.Fprintf(&b, "The last to fail: %v\n", sent.lastErr)
	}
	return b.String()
}

// banner lists what there is to try.
func (p *playground) banner(policy string) string {
	last := p.servers[len(p.servers)-1].registrar.Status()
	return fmt.Sprintf(`
%[1]d servers of the service "%[2]s" are registered in etcd and balanced by lbproxy (%[3]s).

Call them:
  grpcurl -plaintext -authority %[2]s -d '{"name":"you"}' %[4]s helloworld.Greeter/SayHello
See what lbproxy knows and counts:
  lbproxy services %[2]s --watch%[10]s
  curl http://%[5]s/services
  curl http://%[5]s/metrics
See the registry, at %[6]s:
  etcdctl --endpoints %[6]s get --prefix /%[2]s/
Change the weight of a server, either way, and see the shares follow (0 drains it):
  curl -X PUT 'http://%[7]s/%[8]s?weight=5'
  etcdctl --endpoints %[6]s put %[9]s '{"weight":5}'
Register a service of your own, a gRPC server in any language that listens at 127.0.0.1:50051, and call it:
  lbproxy register --name mine --addr 127.0.0.1:50051%[11]s
  grpcurl -plaintext -authority mine %[4]s list
  or from any client: a channel to %[4]s, without TLS, with the authority "mine"
lbproxy is what "go build ./cmd/lbproxy" makes; "go run ./cmd/lbproxy" in its place will do.
Stop with Ctrl-C.
`, len(p.servers), service, policy, p.proxy, p.admin, p.etcd, p.weights, last.Addr, last.Key,
		unlessDefault(" --admin ", p.admin, configs.Default().Admin.Address),
		unlessDefault(" --etcd ", p.etcd, configs.Default().Discovery.Etcd.Endpoints[0]))
}

// unlessDefault is the flag that lbproxy needs for an address that is not the default one; otherwise empty.
func unlessDefault(flag, address, def string) string {
	if address == def {
		return ""
	}
	return flag + address
}
