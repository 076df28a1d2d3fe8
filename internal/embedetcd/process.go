package embedetcd

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
)

// spec is everything that a member needs to run in a process of its own.
type spec struct{ Dir, Name, Client, Peer, Cluster string }

// Plan plans a cluster of n members with their data below dir. It returns the argument of [Run] for each, and each
// one's host:port for clients.
func Plan(dir string, n int) (specs, endpoints []string, err error) {
	c, err := newCluster(dir, n, nil)
	if err != nil {
		return nil, nil, err
	}
	for _, s := range c.Members {
		text, err := json.Marshal(spec{s.dir, s.name, s.clientURL.Host, s.peerAt.Host, s.cluster})
		if err != nil {
			return nil, nil, err
		}
		specs = append(specs, string(text))
	}
	return specs, c.Endpoints(), nil
}

// Run runs one member of a planned cluster. It ends the process when its standard input ends, so at the latest with
// the process that started it.
func Run(member string) error {
	var m spec
	if err := json.Unmarshal([]byte(member), &m); err != nil {
		return fmt.Errorf("member %q: %w", member, err)
	}
	s := &Server{
		dir: m.Dir, name: m.Name, cluster: m.Cluster,
		clientURL: url.URL{Scheme: "http", Host: m.Client}, peerAt: url.URL{Scheme: "http", Host: m.Peer},
	}
	if err := s.launch(); err != nil {
		return err
	}
	_, _ = os.Stdin.Read(make([]byte, 1))
	os.Exit(0) // as if it had crashed, see the package
	return nil
}
