package embedetcd

import (
	"fmt"
	"strings"
	"sync"

	"go.etcd.io/etcd/server/v3/embed"
	"golang.org/x/sync/errgroup"
)

// A Cluster is several servers that are members of one etcd.
type Cluster struct {
	Members []*Server
}

// StartCluster starts a cluster of n members with their data below dir, and waits until it is ready.
func StartCluster(dir string, n int) (*Cluster, error) { return start(dir, n, nil) }

func start(dir string, n int, tune []func(*embed.Config)) (*Cluster, error) {
	var err error
	for range startAttempts {
		var c *Cluster
		if c, err = newCluster(dir, n, tune); err != nil {
			return nil, err
		}
		if err = c.start(); err == nil {
			return c, nil
		}
		c.Stop()
		if !isPortTaken(err) {
			break
		}
	}
	return nil, err
}

func newCluster(dir string, n int, tune []func(*embed.Config)) (*Cluster, error) {
	c := &Cluster{}
	var peers []string
	for i := range n {
		s, err := newServer(dir, fmt.Sprintf("etcd%d", i), tune)
		if err != nil {
			return nil, err
		}
		c.Members = append(c.Members, s)
		peers = append(peers, s.name+"="+s.peerAt.String())
	}
	for _, s := range c.Members {
		s.cluster = strings.Join(peers, ",")
	}
	return c, nil
}

func (c *Cluster) start() error {
	for _, s := range c.Members {
		if err := s.launch(); err != nil {
			return err
		}
	}
	// None is ready before a majority runs.
	var g errgroup.Group
	for _, s := range c.Members {
		g.Go(s.awaitReady)
	}
	return g.Wait()
}

// Endpoints are the members' host:port for clients, running or not.
func (c *Cluster) Endpoints() []string {
	var all []string
	for _, s := range c.Members {
		all = append(all, s.Endpoint())
	}
	return all
}

// Leader is the index of the leader, or -1 while no running member knows one.
func (c *Cluster) Leader() int {
	for _, known := range c.Members {
		if known.etcd == nil {
			continue
		}
		lead := known.etcd.Server.Leader()
		for i, s := range c.Members {
			if s.etcd != nil && s.etcd.Server.MemberID() == lead {
				return i
			}
		}
	}
	return -1
}

// Stop stops every running member.
func (c *Cluster) Stop() {
	var g sync.WaitGroup
	for _, s := range c.Members {
		g.Go(s.Stop)
	}
	g.Wait()
}
